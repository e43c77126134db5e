"""What a sweep's answer leaves on MLflow's own pages beside the report: a note, and the best run as a model.

Reads a report and fills the outbox; the sentences are those of `sentences`, the links those of the report.
"""

from sweeps.answer.report import Report, in_words, links
from sweeps.answer.sentences import answer
from sweeps.outbox.operations import KeepModel, Note, Publish, summary_key
from sweeps.outbox.outbox import Outbox
from sweeps.store.read import Store


def publish_answer(outbox: Outbox, store: Store, report: Report) -> None:
    """Put the note on the definition's summary run and on the experiment, and make the best run the model."""
    plan = report.results.plan
    name, definition = plan.name, plan.definition
    found = links(store, report)
    is_text_model = plan.trainer is None and plan.keep_checkpoints != 0
    with_weights = report.best_runs("COMPLETE") if is_text_model and report.results.has_best else []
    if with_weights:
        found["model"] = f'mlflow.pyfunc.load_model("runs:/{with_weights[0]}/model")'
        outbox.put(KeepModel(run_id=with_weights[0], definition=definition))
    content = note(plan.question, answer(report.results), str(plan.command), in_words(found))
    outbox.put(Note(run=summary_key(name, definition), note=content), sync=True)


def note(question: str, sentences: list[str], command: str, found: dict[str, str]) -> str:
    """Markdown: the question, the answer so far, and where to go from there, as commands and as links."""
    steps = [f"- {what}: {_step(where)}" for what, where in {"Go on with the sweep": command, **found}.items()]
    return "\n\n".join([f"**{question}**", *sentences, "\n".join(steps)])


def _step(where: str) -> str:
    return f"[open]({where})" if where.startswith(("http://", "https://")) else f"`{where}`"


def publish(outbox: Outbox, store: Store, report: Report) -> None:
    """Put a report's files on its definition's summary run."""
    plan, folder = report.results.plan, store.layout.relative(report.page.parent)
    key = summary_key(plan.name, plan.definition)
    outbox.put(Publish(run=key, folder=folder, artifact_path="report"), sync=True)
