"""A trained run as an MLflow model that writes text: models from code, so nothing is pickled.

MLflow copies this file, and `tinylm_core` beside it, into the model and executes it where the model is loaded; it knows
nothing else of sweeps.
"""

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class TextModel(PythonModel):
    """`predict(prompts)` returns each prompt and the text after it; the same params give the same text."""

    def load_context(self, context: PythonModelContext) -> None:
        from tinylm_core.checkpoint import load_model

        self._model, _, self._tokenizer = load_model(Path(context.artifacts["checkpoint"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        from tinylm_core.samples import write_text

        return [write_text(self._model, self._tokenizer, prompt, **(params or {})) for prompt in model_input]


set_model(TextModel())
