"""What a step launches on a GPU as CUDA graphs, to the same bits: one launch instead of hundreds.

A kernel of a small model takes a GPU less time than Python takes to launch it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

REHEARSALS = 3  # libraries load kernels and choose among them, a compiled model is compiled


class Graphed:
    """`function(*inputs)` of tensors on the GPU, which must be the same work for inputs of the same shapes.

    The first call for these shapes is the function's own, and loads what it needs; the second captures a graph.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._seen: set[tuple[torch.Size, ...]] = set()
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._seen:
            self._seen.add(shapes)
            return self._function(*inputs)
        if shapes not in self._graphs:
            memory = next((other.memory for other in self._graphs.values()), None)  # they never run at once
            self._graphs[shapes] = _Graph(self._function, [tensor.clone() for tensor in inputs], memory)
        return self._graphs[shapes].replay(inputs).clone()


class GraphedBackward:
    """`backward(*inputs)`, which adds to the gradients of `parameters` and returns a loss; all inputs have one shape.

    Random numbers are those of the GPU's generator as it is at a call. What is returned is overwritten by the next.
    """

    def __init__(self, backward: Callable[..., Tensor], parameters: list[nn.Parameter]) -> None:
        self._backward, self._parameters = backward, parameters
        self._gradients: list[Tensor | None] = []
        # By whether there are gradients to add to: PyTorch sets them otherwise, and spares an addition.
        self._graphs: dict[bool, _Graph] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._graphs:
            self._rehearse(inputs)
            self._graphs[False] = _Graph(self._backward, [tensor.clone() for tensor in inputs])
            self._gradients = [parameter.grad for parameter in self._parameters]
            self._forget_gradients()
        adds = self._parameters[0].grad is not None
        if adds and adds not in self._graphs:
            first = self._graphs[False]
            self._graphs[True] = _Graph(self._backward, first.inputs, first.memory)
        loss = self._graphs[adds].replay(inputs)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _rehearse(self, inputs: tuple[Tensor, ...]) -> None:
        """Leaves no trace in gradients and generators. On the stream that captures."""
        here, aside = torch.cuda.current_stream(), _stream_aside(torch.cuda.current_device())
        aside.wait_stream(here)
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]), torch.cuda.stream(aside):
            for _ in range(REHEARSALS):
                self._backward(*inputs)
            self._forget_gradients()
        here.wait_stream(aside)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


@cache
def _stream_aside(device_index: int) -> torch.cuda.Stream:
    """The stream on which a process' runs are captured: cuBLAS keeps memory for each that it has multiplied on.

    Not PyTorch's own, which belongs to the GPU of the first capture in the process. (A newer PyTorch frees what cuBLAS
    keeps for a graph's stream when the graph ends: of two runs that train in turn in one process, one would harm the
    other.)
    """
    return torch.cuda.Stream(device_index)  # type: ignore[no-untyped-call]


class _Graph:
    """One capture of `function(*inputs)`; what it allocates and returns has its place in `memory`."""

    def __init__(self, function: Callable[..., Tensor], inputs: list[Tensor], memory: Any = None) -> None:
        self.inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        aside = _stream_aside(torch.cuda.current_device())
        # The outer one restores the caller's stream after a capture that failed, too. The thread that watches the
        # process may ask of the GPU meanwhile.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self._graph, pool=memory, stream=aside, capture_error_mode="thread_local"),
        ):
            self._result = function(*inputs)
        self.memory = self._graph.pool()

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result
