"""Steps as CUDA graphs: the launches of a whole step are recorded once and replayed as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from copo.field.graphs import Graph

Tensors = dict[str, Tensor]


class RecordedStep:
    """A function that leaves gradients in `.grad`, recorded on its first call with each kind of input.

    On a CPU, and where a step cannot be recorded (it waits for values, say), the function is called as it is.

    Args:
        parameters: Whose gradients the function makes; they are replaced, not added to.
        enabled: Whether to record at all.
    """

    def __init__(self, parameters: Sequence[Tensor], enabled: bool) -> None:
        self.parameters, self.enabled = list(parameters), enabled
        self._graphs: dict[Any, tuple[Graph, list[str], list[Tensor | None]]] = {}
        self._pool: Any = None

    def __call__(self, key: Any, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        """Run a function on inputs.

        Args:
            key: What the function does besides its inputs; every key has its own recording.
            function: Takes and gives tensors by name; the same work on every call with one key.
            inputs: Of the same names and shapes on every call with one key.

        Returns:
            What the function gives; overwritten by the next call.
        """
        on_gpu = any(value.is_cuda for value in inputs.values())
        if not (self.enabled and on_gpu):
            return self._plain(function, inputs)
        key = (key, tuple(sorted((n, tuple(v.shape)) for n, v in inputs.items())))
        if key not in self._graphs:
            try:
                return self._record(key, function, inputs)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                warnings.warn(f"this step runs without a CUDA graph: {reason}", RuntimeWarning, stacklevel=2)
                self.enabled = False
                torch.cuda.synchronize()
                return self._plain(function, inputs)
        graph, names, gradients = self._graphs[key]
        outputs = graph(*inputs.values())
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return _named(names, outputs)

    def _plain(self, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        for parameter in self.parameters:
            parameter.grad = None
        return function(inputs)

    def _record(self, key: Any, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        input_names, names = list(inputs), list[str]()

        def run(*values: Tensor) -> tuple[Tensor | None, ...]:
            result = self._plain(function, dict(zip(input_names, values, strict=True)))
            names[:] = list(result)
            return tuple(result.values())

        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = Graph(run, self._pool)
        outputs = graph(*inputs.values())
        self._graphs[key] = (graph, names, [p.grad for p in self.parameters])
        return _named(names, outputs)


def _named(names: Sequence[str], outputs: Sequence[Tensor | None]) -> Tensors:
    """Outputs by name, as new tensor objects: a graph that reads them next must not take them for those of before."""
    return {n: v.detach() for n, v in zip(names, outputs, strict=True) if v is not None}
