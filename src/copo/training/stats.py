"""Statistics of a run, in stylegan3's layout: training_stats.jsonl, tensorboard, and a line on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copo.training.distributed import Processes

STATS_FILE = "training_stats.jsonl"


class Collector:
    """Adds up scalars on the device, so that no step waits for the host.

    Args:
        device: Where the sums lie.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take note of one step's scalars."""
        for name, value in values.items():
            value = value.detach().float()
            row = torch.stack([torch.ones_like(value), value, value * value])
            self._sums[name] = self._sums[name] + row if name in self._sums else row

    def take(self, processes: Processes) -> dict[str, dict[str, float]]:
        """Mean, standard deviation and number of everything since the last call, over all processes."""
        names = sorted(self._sums)
        if not names:
            return {}
        table = processes.mean(torch.stack([self._sums[n] for n in names])) * processes.world
        self._sums = {}
        out = {}
        for name, (count, total, square) in zip(names, table.tolist(), strict=True):
            mean = total / max(count, 1)
            out[name] = {"num": count, "mean": mean, "std": max(square / max(count, 1) - mean * mean, 0.0) ** 0.5}
        return out


class RunLog:
    """Writes what the main process has to say. Going on with a run appends.

    Args:
        folder: Run folder.
        active: Whether this process writes.
    """

    def __init__(self, folder: Path, active: bool) -> None:
        self.folder, self.active = folder, active
        self.started = time.monotonic()
        self._board: Any = None
        if not active:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder))
        except ImportError:
            self.say(
                "tensorboard is not installed: statistics go to training_stats.jsonl only (pip install 'copo[train]')"
            )

    def say(self, text: str) -> None:
        """A line on the terminal and in log.txt."""
        if not self.active:
            return
        print(text, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def write(self, images: int, values: Mapping[str, Mapping[str, float]]) -> None:
        """One line of statistics after so many photographs."""
        if not self.active:
            return
        line = {**{k: dict(v) for k, v in values.items()}, "timestamp": time.time()}
        with (self.folder / STATS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value["mean"], global_step=images)
            self._board.flush()

    def close(self) -> None:
        """Flush."""
        if self._board is not None:
            self._board.close()


def drop_later(folder: Path, kimg: float) -> None:
    """Remove the lines of statistics that were written after a checkpoint from which a run goes on."""
    path = folder / STATS_FILE
    if not path.is_file():
        return
    kept = [json.dumps(record) for shown, record in read_records(path) if shown <= kimg + 1e-6]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_records(path: Path) -> list[tuple[float, dict[str, Any]]]:
    """(kimg, statistics by name) of each line of `STATS_FILE`; one that was cut off when a run was killed is left out.

    Raises:
        OSError: The file cannot be read.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            records.append((float(record["Progress/kimg"]["mean"]), record))
        except (ValueError, KeyError, TypeError):
            continue
    return records
