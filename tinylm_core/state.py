"""Everything a run must know to go on to the same bits: weights, moments, loss scale, position, history.

Random numbers need no state: initial weights, data order and dropout are pure functions of the seed and the position.
"""

import json
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from tinylm_core.config import RunConfig
from tinylm_core.model import TinyGPT
from tinylm_core.optimizer import MOMENTS, AdamW, build_optimizer
from tinylm_core.records import EvalRecord, StepRecord


@dataclass
class TrainState:
    """A model in training. `evals` and `steps` are its whole history."""

    model: TinyGPT
    optimizer: AdamW
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    steps: list[StepRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)
    step: int = 0  # optimizer steps taken; `steps` may lag behind until the next flush

    @classmethod
    def fresh(cls, config: RunConfig, vocab_size: int, device: str) -> "TrainState":
        """Before the first step; the initial weights are the same on every device."""
        torch.default_generator.manual_seed(config.seed)  # the CPU's alone: other GPUs are none of this run's
        with torch.device("cpu"):  # whatever the caller's default is
            model = TinyGPT(config, vocab_size)
        model.to(device=device, dtype=torch.float64 if config.precision == "fp64" else torch.float32)
        scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=config.precision == "fp16")
        return cls(model.train(), build_optimizer(model, config), scaler)

    def pack(self, *, with_moments: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors on the CPU and metadata, for `checkpoint.save_state`. After the last step no moments are needed."""
        tensors = {f"model/{name}": p.detach().cpu() for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters() if with_moments else ():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{moment}"] = value.cpu()
        tensors["history/steps"] = _table([astuple(record) for record in self.steps], 8)
        tensors["history/evals"] = _table([astuple(record) for record in self.evals], 7)
        return tensors, {"step": str(self.step), "scaler": json.dumps(self.scaler.state_dict())}

    def unpack(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Become the state that was packed. ValueError, and nothing has changed, where it is no state of this model."""
        try:
            has_moments = self._check(tensors)
            step, scaler = int(metadata["step"]), json.loads(metadata["scaler"])
            steps = [_step_record(row) for row in tensors["history/steps"].tolist()]
            evals = [_eval_record(row) for row in tensors["history/evals"].tolist()]
            if [record.step for record in steps] != list(range(1, step + 1)) or (step and not evals):
                raise ValueError("its history is not that of its steps")
            if self.scaler.is_enabled() and scaler.keys() != self.scaler.state_dict().keys():
                raise ValueError("its loss scale is missing")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a state of this run: {error!r}") from None
        self.scaler.load_state_dict(scaler)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
                if has_moments:
                    self.optimizer.state[parameter] = {
                        key: tensors[f"optimizer/{name}/{key}"].to(parameter.device) for key in MOMENTS
                    }
        self.step, self.steps, self.evals = step, steps, evals

    def _check(self, tensors: dict[str, Tensor]) -> bool:
        """Whether there are moments. ValueError or KeyError unless all have the shapes and types of this model's."""
        has_moments = any(key.startswith("optimizer/") for key in tensors)
        for name, parameter in self.model.named_parameters():
            moments = ["exp_avg", "exp_avg_sq"] if has_moments else []
            for key in [f"model/{name}", *(f"optimizer/{name}/{moment}" for moment in moments)]:
                if (tensors[key].shape, tensors[key].dtype) != (parameter.shape, parameter.dtype):
                    raise ValueError(f"{key} has another shape or type")
            if has_moments and tensors[f"optimizer/{name}/step"].shape != ():
                raise ValueError(f"optimizer/{name}/step is no number")
        return has_moments


def _step_record(row: list[float]) -> StepRecord:
    return StepRecord(int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], bool(row[6]), int(row[7]))


def _eval_record(row: list[float]) -> EvalRecord:
    return EvalRecord(int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], int(row[6]))


def _table(rows: list[tuple[float, ...]], width: int) -> Tensor:
    """Records as rows of float64, which holds whole numbers to 2**53 exactly."""
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)
