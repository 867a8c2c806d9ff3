"""The whole state of a training in pieces of a chosen size, complete or absent, the last good ones kept.

A checkpoint is a folder `checkpoints/state-00001234` (thousand photographs, rounded down, at six digits or more) with
`state.json` and `shard-0000.safetensors`, ...: every tensor is cut along its flattened elements so that no file is
larger than asked. The folder is written under a hidden name and renamed when all of it is on the disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from copo.errors import CopoError

FORMAT, VERSION = "copo-training", 1
FOLDER, INDEX = "checkpoints", "state.json"
_NAME = re.compile(r"^state-(\d+)$")


@dataclass(frozen=True)
class TrainingState:
    """What is saved.

    Attributes:
        tensors: By name.
        progress: Plain data: photographs shown, steps, rollbacks.
        config: Plain data that a resuming run must agree with.
    """

    tensors: Mapping[str, Tensor]
    progress: Mapping[str, Any]
    config: Mapping[str, Any]

    def part(self, title: str) -> dict[str, Tensor]:
        """Float32 weights under a title such as "average/", by their names without it; empty where there are none."""
        return {k.removeprefix(title): v.float() for k, v in self.tensors.items() if k.startswith(title)}


def save_state(run: Path, state: TrainingState, images: int, shard_mb: float, keep: int) -> Path:
    """Write a checkpoint, then remove the oldest ones.

    Args:
        run: Run folder.
        state: What to write.
        images: Photographs shown; names the checkpoint.
        shard_mb: Largest file, MiB.
        keep: Checkpoints to keep, at least 1.

    Returns:
        Its folder.

    Raises:
        CopoError: The disk is full or not writable; older checkpoints are as they were.
    """
    parent = run / FOLDER
    target = parent / f"state-{images:09d}"
    work = parent / f".{target.name}.tmp"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        index = _write_shards(work, state.tensors, max(int(shard_mb * 2**20), 1 << 16))
        body = {"format": FORMAT, "version": VERSION, "progress": dict(state.progress), "config": dict(state.config),
                "tensors": index}  # fmt: skip
        (work / INDEX).write_text(json.dumps(body) + "\n", encoding="utf-8")
        for file in work.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise CopoError(f"checkpoint {target}: {reason}; free the space and go on with the same command") from error
    for old in _folders(run)[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def pack_state(folder: Path, out: Path, shard_mb: float) -> Path:
    """A small copy of a checkpoint, to carry a run from one machine to another where the way is narrow.

    Weights are kept in half precision and the optimisers' moments are left out, which makes it a sixth as large. A run
    that goes on from it is not the same to the bit: the optimisers find their moments anew within a hundred steps.

    Args:
        folder: The checkpoint.
        out: Run folder to write it into.
        shard_mb: Largest file, MiB.

    Returns:
        Its folder.

    Raises:
        CopoError: The checkpoint is damaged, a weight does not fit into half precision, or the disk is full.
    """
    state = load_state(folder)
    small: dict[str, Tensor] = {}
    for name, value in state.tensors.items():
        if name.startswith("adam_"):
            continue
        large = value.is_floating_point() and value.numel() > 1
        small[name] = value.half() if large else value
        if large and not torch.isfinite(small[name]).all():
            raise CopoError(
                f"checkpoint {folder}: {name} does not fit into half precision; carry the checkpoint itself"
            )
    images = int(folder.name.removeprefix("state-"))
    return save_state(out, TrainingState(small, state.progress, state.config), images, shard_mb, keep=1)


def latest_state(run: Path) -> Path | None:
    """The newest checkpoint of a run folder, or None."""
    folders = _folders(run)
    return folders[-1] if folders else None


def load_state(folder: Path) -> TrainingState:
    """Read a checkpoint onto the CPU.

    Raises:
        CopoError: A file is missing, damaged or of another version.
    """
    try:
        body = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if body.get("format") != FORMAT or body.get("version") != VERSION:
            raise CopoError(f"checkpoint {folder}: written by another version of the program; start a new run folder")
        tensors = {name: _read(folder, entry) for name, entry in body["tensors"].items()}
        return TrainingState(tensors, body["progress"], body["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RuntimeError) as error:
        if isinstance(error, CopoError):
            raise
        raise CopoError(f"checkpoint {folder} is damaged: remove it to resume from the one before") from error


def _folders(run: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    with suppress(OSError):
        return sorted(
            (p for p in (run / FOLDER).iterdir() if _NAME.match(p.name) and (p / INDEX).is_file()),
            key=lambda p: int(p.name.removeprefix("state-")),
        )
    return []


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> dict[str, Any]:
    """Write all tensors as flat pieces. Returns {name: {shape, dtype, pieces: [[file, key], ...]}}."""
    index: dict[str, Any] = {}
    shard: dict[str, Tensor] = {}
    held = number = 0

    def flush() -> None:
        nonlocal shard, held, number
        if shard:
            save_file(shard, folder / f"shard-{number:04d}.safetensors")
            shard, held, number = {}, 0, number + 1

    room = max(limit - 4096, 1024)  # names and offsets need some too
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        size = flat.element_size()
        pieces: list[list[str]] = []
        start = 0
        while start < flat.numel() or not pieces:
            free = (room - held) // size
            if free < 1 or len(shard) >= 200:
                flush()
                free = room // size
            piece = flat[start : start + free].clone()
            key = f"{name}#{len(pieces)}"
            shard[key] = piece
            held += piece.numel() * size + 160
            pieces.append([f"shard-{number:04d}.safetensors", key])
            start += free
        index[name] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "pieces": pieces}
    flush()
    return index


def _read(folder: Path, entry: Mapping[str, Any]) -> Tensor:
    parts = []
    for file, key in entry["pieces"]:
        with safe_open(str(folder / file), framework="pt") as handle:
            parts.append(handle.get_tensor(key))
    dtype = getattr(torch, entry["dtype"])
    return torch.cat(parts).to(dtype).reshape(entry["shape"])


MAY_CHANGE = frozenset({"styled_by"})
"""Settings that weights do not depend on; a run goes on with another value."""


def check_config(saved: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    """Refuse a checkpoint of another configuration.

    Args:
        saved: From the checkpoint.
        mine: Of this run; each key is compared.
        folder: Of the checkpoint.

    Raises:
        CopoError: Names the first setting that differs.
    """
    for part in mine:
        value, theirs = _kept(mine[part]), _kept(saved.get(part))
        if theirs == value:
            continue
        if isinstance(value, Mapping) and isinstance(theirs, Mapping):
            for key in value:
                if value[key] != theirs.get(key):
                    raise CopoError(
                        f"checkpoint {folder} was made with {part}.{key} = {theirs.get(key)}, this run has "
                        f"{value[key]}: use another --out or the same configuration"
                    )
        raise CopoError(f"checkpoint {folder} was made with {part} = {theirs}, this run has {value}: use another --out")


def _kept(part: Any) -> Any:
    """A part of a configuration without what may change."""
    return {k: v for k, v in part.items() if k not in MAY_CHANGE} if isinstance(part, Mapping) else part
