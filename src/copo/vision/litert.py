"""TensorFlow Lite models through the package `ai-edge-litert`."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError


class LiteModel:
    """One model in memory, with one input.

    Runs one call at a time; several threads may share it, but gain nothing by it.
    """

    def __init__(self, content: bytes, title: str, threads: int = 2) -> None:
        """Read a model.

        Args:
            content: The .tflite file.
            title: What to call it in errors.
            threads: CPU threads for one call.

        Raises:
            CopoError: The package is missing, or the content is no model or a truncated one.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise CopoError(f"{title} needs the package ai-edge-litert: pip install 'copo[mediapipe]'") from None
        try:
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise CopoError(f"{title}: truncated or not a TensorFlow Lite model; get the file again") from error
        self._interpreter: Any = interpreter
        self._lock = threading.Lock()
        (entry,) = interpreter.get_input_details()
        self._input = entry["index"]
        self.input_shape: tuple[int, ...] = tuple(int(n) for n in entry["shape"])
        self._outputs = {tuple(int(n) for n in o["shape"]): o["index"] for o in interpreter.get_output_details()}

    def expect(self, title: str, input_shape: tuple[int | None, ...], *outputs: tuple[int, ...]) -> None:
        """Check that this is the model that the caller means.

        Args:
            title: What to call it in errors.
            input_shape: Sizes of the input; None matches any.
            outputs: Shapes of the outputs.

        Raises:
            CopoError: It is another one.
        """
        fits = len(input_shape) == len(self.input_shape) and all(
            want in (None, have) for want, have in zip(input_shape, self.input_shape, strict=True)
        )
        if not fits or any(shape not in self._outputs for shape in outputs):
            raise CopoError(
                f"{title}: a model with input {self.input_shape} and outputs {sorted(self._outputs)} is another one "
                "than expected; give the file that `copo models list` names"
            )

    def __call__(self, values: NDArray[np.float32]) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Run it: input of shape `input_shape` -> outputs by their shapes."""
        with self._lock:
            self._interpreter.set_tensor(self._input, np.ascontiguousarray(values, np.float32))
            self._interpreter.invoke()
            return {shape: self._interpreter.get_tensor(index) for shape, index in self._outputs.items()}
