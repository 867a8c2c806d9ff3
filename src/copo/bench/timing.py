"""Timing of calls, and the table that shows the figures."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Figure:
    """One line of a table of figures.

    Attributes:
        what: What was measured.
        value: The figure.
        unit: Its unit.
        goal: What is asked for, at most (times, memory) or at least (decibels); None where nothing is.
        peers: The same figure of other programs, by their names, as recorded on the same kind of machine.
    """

    what: str
    value: float
    unit: str = "ms"
    goal: float | None = None
    peers: Mapping[str, float] = field(default_factory=dict)


def median_ms(call: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3) -> float:
    """Median time of a call from start to finished result, milliseconds.

    Args:
        call: What is timed.
        device: Where it runs; a GPU is waited for before and after each call.
        repeats: Timed calls.
        warm_up: Calls before them.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for repeat in range(warm_up + repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        if repeat >= warm_up:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def table(figures: Sequence[Figure]) -> str:
    """Figures as text, a column for each peer."""
    peers = list(dict.fromkeys(name for figure in figures for name in figure.peers))
    header = ["what", "ours", "", "goal", *peers]
    rows = [header]
    for figure in figures:
        goal = "" if figure.goal is None else f"{figure.goal:g}"
        others = [f"{figure.peers[name]:g}" if name in figure.peers else "" for name in peers]
        rows.append([figure.what, f"{figure.value:.2f}", figure.unit, goal, *others])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2])]
        lines.append("  ".join([*cells, *(c.rjust(w) for c, w in zip(row[3:], widths[3:], strict=True))]).rstrip())
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, object]:
    """What the figures were measured on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
    }
