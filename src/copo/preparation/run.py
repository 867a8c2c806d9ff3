"""The whole preparation: list, work, assemble, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.preparation.assemble import DATASET, Summary, assemble
from copo.preparation.config import PrepareConfig
from copo.preparation.engine import PrepareJob
from copo.preparation.report import write_report
from copo.preparation.sources import find_sources
from copo.preparation.store import WorkFolder
from copo.preparation.units import Plan, make_plan
from copo.work.crew import Crew, progress, work
from copo.work.engine import one_thread


@dataclass(frozen=True)
class RunConfig(Crew):
    """Where and by whom the work is done. Nothing here changes the result."""

    keep_work: bool = False
    """Keep the folder `work` with the result of each unit after the data set is complete."""


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        summary: The data set; None where only a shard was worked on.
        worked: Photographs that this run worked on.
        seconds: Time that took, model loading included.
        kept: Photographs that earlier runs had finished.
    """

    summary: Summary | None
    worked: int
    seconds: float
    kept: int

    @property
    def rate(self) -> float:
        """Photographs a second."""
        return self.worked / self.seconds if self.seconds > 0 else 0.0


def prepare(
    inputs: Sequence[Path],
    out: Path,
    config: PrepareConfig | None = None,
    run: RunConfig | None = None,
    exclude: Sequence[str] = (),
    shard: tuple[int, int] | None = None,
    mat: Path | None = None,
) -> Outcome:
    """Photographs to a data set. A run that was interrupted goes on where it stopped.

    Args:
        inputs: Folders, zips, pictures, videos.
        out: Folder for dataset.zip, rejected.csv, report.html.
        config: What is done to each photograph.
        run: Who does it.
        exclude: Patterns of names to leave out.
        shard: (i, n): work on the i-th of n parts only, 1 <= i <= n, and do not assemble.
        mat: Folder for the method's per-image files.

    Raises:
        CopoError: Bad input, a missing model, a full disk, or no usable photograph.
    """
    config, run = config or PrepareConfig(), run or RunConfig()
    plan = make_plan(find_sources(inputs, exclude), config)
    if not plan.units:
        first = plan.problems[0]
        raise CopoError(f"{first.name}: {first.reason}; and nothing else is there to prepare")
    store = WorkFolder(out)
    with store.lock("all" if shard is None else f"{shard[0]}-of-{shard[1]}"):
        if shard is None and finished(out, plan):
            dataset = PortraitDataset(out / DATASET)
            return Outcome(
                Summary(out / DATASET, len(dataset), (), plan.ignored, dataset.preparation), 0, 0.0, plan.count
            )
        store.begin(plan)
        units = plan.units if shard is None else plan.shard(*shard)
        todo = [unit for unit in units if not store.has(unit.id)]
        kept = sum(unit.count for unit in units) - sum(unit.count for unit in todo)
        start = time.monotonic()
        if todo:
            with progress(sum(unit.count for unit in todo), "photographs") as advance, one_thread():
                work(todo, PrepareJob(config, out), run, lambda unit: advance(unit.count))
        seconds = time.monotonic() - start
        outcome = Outcome(None, sum(unit.count for unit in todo), seconds, kept)
        return outcome if shard is not None else _finish(plan, out, mat, run.keep_work, outcome)


def merge(out: Path, mat: Path | None = None, keep_work: bool = False) -> Outcome:
    """Assemble the results of all shards in one work folder.

    Raises:
        CopoError: There is no work folder, or units are missing.
    """
    store = WorkFolder(out)
    plan = store.plan()
    if plan is None:
        raise CopoError(f"--merge: there is no {store.path / 'plan.json'}: run the shards with the same --out first")
    with store.lock("all"):
        return _finish(plan, out, mat, keep_work, Outcome(None, 0, 0.0, plan.count))


def finished(out: Path, plan: Plan) -> bool:
    """Whether the data set of exactly this plan is there already."""
    path = out / DATASET
    if not path.exists():
        return False
    made = PortraitDataset(path).preparation.get("plan")
    if made != plan.id and not WorkFolder(out).path.joinpath("plan.json").exists():
        raise CopoError(
            f"--out {out}: holds a data set of other photographs or choices: give another --out or delete it"
        )
    return bool(made == plan.id)


# --- inside -----------------------------------------------------------------------------------------------------


def _finish(plan: Plan, out: Path, mat: Path | None, keep_work: bool, outcome: Outcome) -> Outcome:
    summary = assemble(plan, out, mat)
    dataset = PortraitDataset(summary.path)
    facts = {
        "Data set": f"{summary.path.name}, {plan.config.size} x {plan.config.size} pixels, align {plan.config.align}"
    }
    if outcome.worked:
        text = f"{outcome.worked} photographs in {outcome.seconds:.0f} s: {outcome.rate:.2f} a second"
        facts["Rate"] = text + (f"; {outcome.kept} were done before" if outcome.kept else "")
    with one_thread():
        write_report(dataset, summary, out, facts)
    if not keep_work:
        WorkFolder(out).remove()
    return Outcome(summary, outcome.worked, outcome.seconds, outcome.kept)
