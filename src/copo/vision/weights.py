"""Weights of others into our definitions: read without running anything, checked name by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from copo.errors import CopoError
from copo.formats.checkpoint import check_state

Module = TypeVar("Module", bound=nn.Module)


def load_weights(module: Module, path: Path, title: str, key: str | None = None) -> Module:
    """Fill a network from a file of torch.save or safetensors, and put it into evaluation mode with frozen weights.

    PyTorch's restricted unpickler builds tensors and plain containers only; anything else is refused.

    Args:
        module: The network; its names are the file's.
        path: The file.
        title: What to call it in errors.
        key: Where the file holds several state dicts, the one to take.

    Raises:
        CopoError: The file is missing, damaged, refused, or made for another network.
    """
    state = _state(_read(path, title), path, title, key)
    expected = module.state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    counters = {k: v for k, v in expected.items() if k.endswith("num_batches_tracked")}
    check_state({k: v for k, v in expected.items() if k not in counters}, state, f"{title} {path}")
    return freeze(module, {**counters, **state})


def freeze(module: Module, state: Mapping[str, Tensor]) -> Module:
    """Load a state dict, switch to evaluation, and stop gradients into the weights (those into pictures remain)."""
    module.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    return module.eval().requires_grad_(False)


def _read(path: Path, title: str) -> object:
    if not path.is_file():
        raise CopoError(f"{title} {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CopoError(f"{title} {path}: truncated or damaged; get the file again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can provoke nearly anything
        refused = re.search(r"(?:GLOBAL|global|function|class)\s+([\w.]+\.[\w.]+)", str(error))
        why = f"it names {refused[1]}, which is not allowed" if refused else "it is damaged or of an unknown kind"
        raise CopoError(f"{title} {path}: refused, {why}; get the file again") from error


def _state(data: object, path: Path, title: str, key: str | None) -> dict[str, Tensor]:
    if key is not None and isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
        data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(v, Tensor) for v in data.values()):
        wanted = f"no state dict {key!r} in it" if key else "it is not a state dict"
        raise CopoError(f"{title} {path}: {wanted}; give the published file")
    return {str(name).removeprefix("module."): value for name, value in data.items()}
