"""Everything a run must know to go on to the same bits: weights, moments, loss scale, position, history.

Random numbers need no state: initial weights, data order and dropout are pure functions of the seed and the position.
"""

import json
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from tinylm_core.config import RunConfig
from tinylm_core.model import TinyGPT
from tinylm_core.optimizer import build_optimizer
from tinylm_core.records import EvalRecord, StepRecord

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainState:
    """A model in training. `evals` and `steps` are its whole history."""

    model: TinyGPT
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    steps: list[StepRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)
    step: int = 0  # optimizer steps taken; `steps` may lag behind until the next flush

    @classmethod
    def fresh(cls, config: RunConfig, vocab_size: int, device: str) -> "TrainState":
        """Before the first step; the initial weights are the same on every device."""
        torch.manual_seed(config.seed)
        model = TinyGPT(config, vocab_size)
        model.to(device=device, dtype=torch.float64 if config.precision == "fp64" else torch.float32)
        scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=config.precision == "fp16")
        return cls(model.train(), build_optimizer(model, config), scaler)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors on the CPU and metadata, for `checkpoint.save_state`."""
        tensors = {f"model/{name}": p.detach().cpu() for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{moment}"] = value.cpu()
        tensors["history/steps"] = _table([astuple(record) for record in self.steps], 8)
        tensors["history/evals"] = _table([astuple(record) for record in self.evals], 7)
        return tensors, {"step": str(self.step), "scaler": json.dumps(self.scaler.state_dict())}

    def unpack(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Become the state that was packed."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
                moments = {key: tensors.get(f"optimizer/{name}/{key}") for key in _MOMENTS}
                if all(value is not None for value in moments.values()):
                    self.optimizer.state[parameter] = {
                        key: value.to(parameter.device) for key, value in moments.items() if value is not None
                    }
        self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        self.step = int(metadata["step"])
        self.steps = [
            StepRecord(int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], bool(row[6]), int(row[7]))
            for row in tensors["history/steps"].tolist()
        ]
        self.evals = [
            EvalRecord(int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], int(row[6]))
            for row in tensors["history/evals"].tolist()
        ]


def _table(rows: list[tuple[float, ...]], width: int) -> Tensor:
    """Records as rows of float64, which holds whole numbers to 2**53 exactly."""
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)
