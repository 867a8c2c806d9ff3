"""Who works: options that commands share, shards, and the progress that people see."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from copo.errors import CopoError
from copo.work.engine import Done, Job, run_here, run_pool, run_ray

Engine = Literal["local", "ray"]
_QUIET_STEP = 30.0
"""Seconds between lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Crew:
    """Where and by whom the work is done. Nothing here changes the result."""

    workers: int = 0
    """Processes on this machine; 0: one for each CPU. 1 works without a second process. With ray: actors, 0 for all."""
    engine: Engine = "local"
    """local, or ray (an extra): a Ray cluster."""
    ray_address: str = "local"
    """Of the cluster: auto, HOST:PORT or ray://HOST:10001; local starts one here."""


def check_crew(crew: Crew) -> None:
    """Refuse a crew that cannot work, before anything is written.

    Raises:
        CopoError: A negative number of workers, or Ray is not installed.
    """
    if crew.workers < 0:
        raise CopoError(f"--workers {crew.workers}: give 1 or more, or 0 for all CPUs")
    if crew.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise CopoError("--engine ray needs the package ray: pip install 'copo[ray]'")


def work(
    units: Sequence[Any], job: Job, crew: Crew, done: Done, default: int | None = None, gpus: bool = False
) -> None:
    """Do the job with every unit.

    Args:
        units: What to work on.
        job: What to do.
        crew: Who does it.
        done: Told about each finished unit.
        default: Processes where the crew leaves it open; one for each CPU if left out.
        gpus: Whether actors of a Ray cluster want a GPU.

    Raises:
        CopoError: Going on is useless, see `copo.work.engine`.
    """
    check_crew(crew)
    if crew.engine == "ray":
        run_ray(units, job, crew.workers, crew.ray_address, done, gpus)
        return
    workers = min(crew.workers or default or os.cpu_count() or 1, len(units))
    if workers == 1:
        run_here(units, job, done)
    else:
        run_pool(units, job, workers, done)


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8).

    Raises:
        CopoError: It is not i/n with 1 <= i <= n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise CopoError(f"--shard {text!r}: write i/n, from 1/n to n/n, for example 2/8")
    return int(match[1]), int(match[2])


def torchrun_shard(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The shard of a process that torchrun (or a scheduler with its variables) started, or None.

    Args:
        environment: RANK and WORLD_SIZE are read.

    Raises:
        CopoError: They are no numbers that belong together.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    rank, world = environment["RANK"], environment["WORLD_SIZE"]
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise CopoError(f"RANK={rank} and WORLD_SIZE={world}: start with torchrun, or unset both")
    return (int(rank) + 1, int(world)) if int(world) > 1 else None


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal; elsewhere a line now and then. Both on standard error.

    Yields:
        To be told how much is done, of how much; 0 where that is not known.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return
    start = last = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last >= _QUIET_STEP:
            last = now
            left = (total - done) * (now - start) / max(done - first, 1) / 60
            told = f"{done} of {total} {what}, about {left:.0f} minutes left" if total else f"{done} {what}"
            print(told, file=sys.stderr, flush=True)

    yield show


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """As `counted`, told how many more are done."""
    so_far = 0
    with counted(what) as show:
        show(0, total)

        def advance(count: int) -> None:
            nonlocal so_far
            so_far += count
            show(so_far, total)

        yield advance


@contextmanager
def shared(what: str) -> Iterator[Callable[[float], None]]:
    """As `counted`, told which share is done, 0 to 1."""
    with counted(f"percent of {what}") as show:
        show(0, 100)
        yield lambda share: show(int(100 * share), 100)
