"""`copo invert`: photographs of a person to a portrait of the model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from copo.inversion.service import PORTRAIT_NAME, Inverted, invert_photographs, report, save_inverted
from copo.portrait import Portrait
from copo.work.crew import shared


@dataclass
class Command:
    """Find the person of photographs in the model (docs/invert.md).

    Example: copo invert photo.jpg --out me

    Writes portrait.safetensors, which other commands take in place of a seed, portrait.png, comparison.png and
    report.json. Several photographs of one person give a better likeness from the sides.
    """

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photographs of one person."""
    out: Path
    """Folder to write to."""
    face: int | None = None
    """Which face, counted from the left, from 1; needed where a photograph shows several."""
    mode: Literal["auto", "full", "fast"] = "auto"
    """full: for a GPU, within 30 s. fast: for two CPU cores, within 2 minutes. auto: by the device."""
    seconds: float | None = None
    """Time for all of it, instead of the mode's; inf takes all steps of the mode, the same every time."""
    looker: Literal["auto", "analyser", "fitter"] = "auto"
    """What analyses the photographs: our analyser where its weights are there, else landmarks and the head fitter."""
    size: int | None = None
    """Side of portrait.png in pixels; by default the model's own."""
    seed: int = 0
    """Of everything random."""
    model: str | None = None
    """Folder of a model, a training run, or OWNER/NAME on the hub; by default the packaged one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the report as JSON."""

    def run(self) -> None:
        """Invert, write, tell."""
        model = Portrait.from_pretrained(self.model, device=self.device)
        with contextlib.ExitStack() as bars:
            shows: dict[str, Callable[[float], None]] = {}

            def show(stage: str, share: float) -> None:
                if stage not in shows:
                    bars.close()
                    shows[stage] = bars.enter_context(shared(f"stage {stage}"))
                shows[stage](share)

            done = invert_photographs(
                model, self.photos, mode=self.mode, face=self.face, seconds=self.seconds, seed=self.seed,
                looker=self.looker, progress=show,
            )  # fmt: skip
        files = save_inverted(self.out, done, self.size)
        if self.json:
            print(json.dumps({"written": [str(path) for path in files], **report(done)}, indent=2))
            return
        for line in summary(done):
            print(line)
        for path in files:
            print(f"wrote {path}")
        given = f" --model {self.model}" if self.model else ""
        print(f"use it: copo generate --portrait {self.out / PORTRAIT_NAME}{given} --out pictures")


def summary(done: Inverted) -> list[str]:
    """The report for people."""
    lines = []
    if done.missing:
        lines.append(f"without {' and '.join(done.missing)}: the likeness is worse (pip install 'copo[features,dlib]')")
    lines.append("stage     photo  difference  PSNR   perceptual  identity  seconds")
    for stage in done.inversion.stages:
        for i, error in enumerate(stage.errors):
            lines.append(
                f"{stage.name:9s} {i + 1:5d}  {error.difference:10.2f}  {error.psnr:5.2f}  {error.perceptual:10.3f}  "
                f"{error.identity:8.3f}  {stage.seconds:7.1f}"
            )
    kept = done.inversion.kept
    lines.append(f"controls: {kept.change:.0%} of the change kept, depth within {kept.depth:.1f} mm")
    lines.append(f"{done.seconds:.1f} s, of which analysis ({done.photographs.looker}) {done.analysis:.1f} s")
    return lines
