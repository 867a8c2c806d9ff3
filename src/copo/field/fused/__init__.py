"""The fast path of the field on CUDA: Triton kernels, each with a plain PyTorch twin in `copo.field`.

Importing this package needs neither Triton nor a GPU; `backend_for` says whether the fast path can serve a call.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from typing import Literal

from torch import Tensor

from copo.errors import CopoError, unknown_name
from copo.networks.decoder import Decoder

Backend = Literal["auto", "torch", "triton"]
"""Which implementation runs: "triton" (CUDA), "torch" (anywhere), or "auto": triton where it can serve the call."""


def backend_for(choice: Backend, planes: Tensor, decoder: Decoder) -> Literal["torch", "triton"]:
    """Decide which implementation serves a call.

    Args:
        choice: What the caller asked for. "auto" takes triton for planes on a GPU and warns once if it cannot.
        planes: (B, 3, C, H, W).
        decoder: Its sizes decide whether the kernels fit.

    Raises:
        CopoError: `choice` is "triton" and that is not possible here, or it is not a backend's name.
    """
    if choice not in ("auto", "torch", "triton"):
        raise unknown_name("backend", choice, ["auto", "torch", "triton"])
    if choice == "torch" or (choice == "auto" and not planes.is_cuda):
        return "torch"
    obstacle = _obstacle(planes, decoder)
    if obstacle is None:
        return "triton"
    if choice == "triton":
        raise CopoError(f"backend 'triton' cannot be used: {obstacle}; use backend 'torch'")
    _warn_once(f"the fast CUDA path is off, plain PyTorch runs instead: {obstacle}")
    return "torch"


def interpreted() -> bool:
    """Whether Triton kernels are run by Triton's interpreter, for tests without a GPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def march_obstacle(plane_channels: int, hidden: int) -> str | None:
    """Why the fused march cannot run with these widths (or at all), or None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if any(size < 16 or size & (size - 1) for size in (plane_channels, hidden)):
        return f"{plane_channels} plane channels and {hidden} hidden units are not powers of two from 16 on"
    return None


def _obstacle(planes: Tensor, decoder: Decoder) -> str | None:
    if not planes.is_cuda and not interpreted():
        return "the planes are not on a CUDA device"
    if planes.shape[3] != planes.shape[4] or planes.shape[3] < 2:
        return f"planes of {planes.shape[3]} x {planes.shape[4]} texels are not square"
    return march_obstacle(planes.shape[2], decoder.hidden.weight.shape[0])


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
