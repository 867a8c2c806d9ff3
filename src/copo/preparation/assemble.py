"""Finished units to the data set, the table of rejections, the .mat folder and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import copo
from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.dataset import DatasetWriter, write_table
from copo.preparation.store import WorkFolder
from copo.preparation.units import Plan, Rejected

DATASET, REJECTED = "dataset.zip", "rejected.csv"


@dataclass(frozen=True)
class Summary:
    """What came of a preparation.

    Attributes:
        path: The data set.
        accepted: Portraits in it.
        rejected: Photographs that are not, with their reasons.
        ignored: Files that are neither pictures nor videos.
        preparation: Content of the data set's preparation.json.
    """

    path: Path
    accepted: int
    rejected: tuple[Rejected, ...]
    ignored: int
    preparation: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason was the first one."""
        return dict(Counter(r.reasons[0][0] for r in self.rejected).most_common())


def assemble(plan: Plan, out: Path, mat: Path | None = None, progress: Callable[[], None] | None = None) -> Summary:
    """Make the data set from the finished units.

    Portraits come in the order of the plan, whoever finished first, so that the same photographs give the same zip. Of
    photographs with the same content the first is kept.

    Args:
        plan: All units.
        out: Folder with the work folder; gets dataset.zip and rejected.csv.
        mat: Folder for the method's per-image files, or None.
        progress: Called after each unit.

    Raises:
        CopoError: Units are missing, no photograph was accepted, or something cannot be written.
    """
    store = WorkFolder(out)
    missing = [unit for unit in plan.units if not store.has(unit.id)]
    if missing:
        raise CopoError(
            f"{len(missing)} of {len(plan.units)} units are not done, such as {missing[0].sources[0].name}: "
            "run the missing shards, or the same command without --shard"
        )
    rejected = [Rejected(p.name, (("unreadable", p.reason),)) for p in plan.problems]
    seen: dict[str, str] = {}
    preparation = {"program": f"copo {copo.__version__}", "plan": plan.id, "config": plan.config.to_dict()}
    path = out / DATASET
    accepted = 0
    with DatasetWriter(path, preparation) as writer:
        for unit in plan.units:
            result = store.get(unit.id)
            rejected += result.rejected
            for item in result.accepted:
                checksum = item.portrait.manifest["sha256"]
                if checksum in seen:
                    reason = ("duplicate", f"the same picture as {seen[checksum]}")
                    rejected.append(Rejected(item.name, (reason,)))
                    continue
                seen[checksum] = item.name
                name = writer.add(item.portrait)
                accepted += 1
                if mat is not None and item.mat is not None and item.mat_picture is not None:
                    stem = name.rpartition("/")[2].rpartition(".")[0]
                    write_bytes(mat / f"{stem}.png", item.mat_picture)
                    write_bytes(mat / f"{stem}.mat", item.mat)
            if progress is not None:
                progress()
        if not accepted:
            reasons = Counter(r.reasons[0][0] for r in rejected).most_common(3)
            text = ", ".join(f"{name} {count}" for name, count in reasons)
            _write_rejected(rejected, out)
            raise CopoError(f"none of the {plan.count} photographs was accepted ({text}): see {out / REJECTED}")
    _write_rejected(rejected, out)
    return Summary(path, accepted, tuple(rejected), plan.ignored, preparation)


def _write_rejected(rejected: list[Rejected], out: Path) -> None:
    rows = [
        {"source": r.name, "reason": r.reasons[0][0], "detail": "; ".join(text for _, text in r.reasons)}
        for r in rejected
    ]
    table = write_table(rows) if rows else b"source,reason,detail\n"
    write_bytes(out / REJECTED, table)
