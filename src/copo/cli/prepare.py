"""`copo prepare`: photographs and videos to a training set."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from copo.errors import CopoError
from copo.preparation.config import PrepareConfig
from copo.preparation.run import Outcome, RunConfig, merge, prepare
from copo.work.crew import parse_shard


@dataclass
class Command:
    """Photographs and videos to a training set: aligned, fitted, labelled, checked (docs/prepare.md).

    Example: copo prepare --images photos --out sets/photos --size 256

    A run that was stopped goes on with the same command. OUT gets dataset.zip, rejected.csv and report.html.
    """

    out: Path
    """Folder to write to."""
    images: tuple[Path, ...] = ()
    """Folders, zips, pictures or videos. A manifest.csv in (or above) a folder is kept with the portraits."""
    exclude: tuple[str, ...] = ()
    """Patterns of names to leave out, such as 'fairface_crops/*'."""
    mat: Path | None = None
    """Also write the method's per-image .mat and aligned picture into this folder."""
    shard: str | None = None
    """I/N: work on one of N parts only, for batch schedulers; then run --merge."""
    merge: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Assemble what the shards did in the same --out."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as JSON."""
    config: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    run_on: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    def run(self) -> None:
        if self.merge:
            if self.images or self.shard:
                raise CopoError("--merge needs --out only: the plan is stored there")
            outcome = merge(self.out, self.mat, self.run_on.keep_work)
        else:
            if not self.images:
                raise CopoError("--images is missing: give folders, zips, pictures or videos")
            values = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
            config = PrepareConfig(**{**values, "mat_files": self.mat is not None})
            shard = parse_shard(self.shard) if self.shard else None
            outcome = prepare(self.images, self.out, config, self.run_on, self.exclude, shard, self.mat)
        print(self._told(outcome))

    def _told(self, outcome: Outcome) -> str:
        summary = outcome.summary
        if self.json:
            body = {
                "dataset": None if summary is None else str(summary.path),
                "accepted": None if summary is None else summary.accepted,
                "rejected": None if summary is None else len(summary.rejected),
                "reasons": {} if summary is None else summary.reasons,
                "worked": outcome.worked,
                "kept": outcome.kept,
                "seconds": round(outcome.seconds, 2),
                "photographs_per_second": round(outcome.rate, 3),
            }
            return json.dumps(body, indent=2)
        lines = []
        if outcome.worked:
            lines.append(f"{outcome.worked} photographs in {outcome.seconds:.1f} s: {outcome.rate:.2f} a second")
        if outcome.kept:
            lines.append(f"{outcome.kept} photographs were done before")
        if summary is not None:
            reasons = ", ".join(f"{name} {count}" for name, count in summary.reasons.items())
            why = f" ({reasons})" if reasons else ""
            lines.append(f"{summary.accepted} portraits, {len(summary.rejected)} rejected{why}")
            lines.append(f"wrote {summary.path}, rejected.csv and report.html")
        return "\n".join(lines)
