"""Preparation as a job for `copo.work.engine`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from copo.preparation.config import PrepareConfig
from copo.preparation.process import Preparer, frame_name
from copo.preparation.store import WorkFolder
from copo.preparation.units import Rejected, Unit, UnitResult, result_to_bytes


@dataclass(frozen=True)
class PrepareJob:
    """A `copo.work.engine.Job`: units of photographs to results in the work folder.

    Attributes:
        config: How.
        out: Folder of the data set on this machine.
    """

    config: PrepareConfig
    out: Path

    def worker(self, index: int) -> PrepareWorker:
        """See `Job`."""
        return PrepareWorker(self.config)

    def store(self) -> WorkFolder:
        """See `Job`."""
        return WorkFolder(self.out)

    def crashed(self, unit: Unit, code: int | None) -> bytes:
        """See `Job`."""
        return result_to_bytes(crashed(unit, code))


class PrepareWorker:
    """A `copo.work.engine.Worker`."""

    def __init__(self, config: PrepareConfig) -> None:
        """Args: config: How."""
        self.preparer = Preparer(config)

    def run(self, unit: Unit) -> bytes:
        """See `Worker`."""
        return result_to_bytes(self.preparer.run(unit))


def crashed(unit: Unit, code: int | None) -> UnitResult:
    """The result of a unit that kills whoever works on it."""
    names = [s.name for s in unit.sources] if not unit.times else [frame_name(unit.sources[0], t) for t in unit.times]
    reason = ("crash", f"the worker died twice while working on this (exit code {code})")
    return UnitResult(unit.id, (), tuple(Rejected(name, (reason,)) for name in names))
