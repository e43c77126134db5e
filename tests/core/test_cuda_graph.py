"""What a GPU's graphs make of a step, by graphs that only pretend: the work is done anew at each replay.

As in a real one, the inputs, the result and the gradients that it sets have their places in memory once and for all.
What a pretended one can't show is in `tests/core/test_gpu.py`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from runs import Tiny, bits
from torch import Tensor, nn

from tinylm_core import cuda_graph, run
from tinylm_core import train as train_module
from tinylm_core.cuda_graph import Graphed, GraphedBackward
from tinylm_core.step import add_gradients


class Pretended:
    """In the place of `_Graph`: a capture computes nothing; it gives gradients their places where there are none."""

    made: list["Pretended"]

    def __init__(self, function: Callable[..., Tensor], inputs: list[Tensor], memory: object = None) -> None:
        self.inputs, self.memory, self._function = inputs, memory or object(), function
        self._result: Tensor | None = None
        self._places: dict[nn.Parameter, Tensor] = {}
        if isinstance(function, partial) and function.func is add_gradients:
            parameters = [parameter for parameter in function.args[0].parameters() if parameter.grad is None]
            self._places = {parameter: torch.full_like(parameter, torch.nan) for parameter in parameters}
            self._set_gradients()
        self.made.append(self)

    def _set_gradients(self) -> None:
        for parameter, place in self._places.items():
            parameter.grad = place

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self._set_gradients()
        for place in self._places.values():
            place.zero_()
        result = self._function(*self.inputs)
        for parameter in self._places:  # Python sees nothing of a replay
            parameter.grad = None
        self._result = result.clone() if self._result is None else self._result.copy_(result)
        return self._result


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    def rehearse(self: GraphedBackward, inputs: tuple[Tensor, ...]) -> None:
        self._backward(*inputs)
        self._forget_gradients()

    Pretended.made = []
    monkeypatch.setattr(cuda_graph, "_Graph", Pretended)
    monkeypatch.setattr(GraphedBackward, "_rehearse", rehearse)


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_a_graphed_run_has_the_bits_of_a_plain_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    # A last evaluation batch of another shape, and a smaller one of its own.
    config = tiny(gradient_accumulation_steps=micro_batches, train_tokens=96 * 12, precision="fp32", eval_tokens=200)
    monkeypatch.setattr("tinylm_core.evaluate.EVAL_BATCH_TOKENS", 8 * 7)
    monkeypatch.setattr(train_module, "GRAPHED", ("cpu",))
    with monkeypatch.context() as plainly:
        plainly.setattr(train_module, "Graphed", lambda function: function)
        plainly.setattr(train_module, "GraphedBackward", lambda backward, _parameters: backward)
        plain = bits(run(config, device="cpu", threads=1))
    assert not Pretended.made
    assert bits(run(config, device="cpu", threads=1)) == plain
    # Of two shapes of evaluation batches, of gradients that are set, of some that are added, of the update.
    assert len(Pretended.made) == 4 + (micro_batches > 1)


def test_a_graph_is_captured_at_the_second_call_for_a_shape_and_its_result_is_the_callers() -> None:
    calls: list[int] = []

    def double(x: Tensor) -> Tensor:
        calls.append(len(x))
        return 2 * x

    graphed = Graphed(double)
    results = [graphed(torch.full((n,), float(i))) for i, n in enumerate([3, 3, 2, 3, 2])]
    assert [result.tolist() for result in results] == [[0, 0, 0], [2, 2, 2], [4, 4], [6, 6, 6], [8, 8]]
    assert [len(graph.inputs[0]) for graph in Pretended.made] == [3, 2]
    assert Pretended.made[0].memory is Pretended.made[1].memory


def test_a_capture_is_on_a_stream_of_the_gpu_at_hand_and_leaves_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own stream for captures is of the first GPU that was captured on: others would record nothing."""
    monkeypatch.undo()
    asked: list[dict[str, Any]] = []

    class Stream:
        def __init__(self, device_index: int) -> None:
            self.device_index = device_index

    def capture(_: object, **options: Any) -> AbstractContextManager[None]:
        asked.append(options)
        return nullcontext()

    class Graph:
        def pool(self) -> str:
            return "its pool"

    cuda_graph._stream_aside.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    for index in (1, 0, 1):
        monkeypatch.setattr(torch.cuda, "current_device", lambda index=index: index)
        assert cuda_graph._Graph(torch.zeros, [torch.tensor(3)]).memory == "its pool"
    assert [options["stream"].device_index for options in asked] == [1, 0, 1]
    assert asked[0]["stream"] is asked[2]["stream"]
    cuda_graph._stream_aside.cache_clear()
