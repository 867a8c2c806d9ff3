"""`copo portrait`: a first look, which `make portrait` runs: a grid, a turntable and a short talking clip."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from copo.animation.paths import camera_path
from copo.animation.talk import talk_clip
from copo.camera import Camera
from copo.cli.head import Command as HeadCommand
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.pictures import Picture, contact_sheet, save_image
from copo.formats.provenance import Provenance
from copo.formats.video import write_video
from copo.portrait import Portrait, has_packaged
from copo.work.crew import progress

PEOPLE = 16
_SHARES = (0.2, 0.35, 0.35)
"""Of the time: grid, turntable, talk; the rest is loading and the tools around."""
_FRAMES = (12, 72)
"""Least and most frames of a film."""
_FILM_SECONDS = 3.0


@dataclass
class Command:
    """A first look at the default model: grid.png, turntable.mp4 and talking.mp4, within two minutes on two CPU cores.

    Example: copo portrait --out out

    Slower machines get fewer frames a second. Without a trained model it shows the parametric head instead.
    """

    out: Path = Path("out")
    """Folder to write to."""
    seed: int = 41
    """Who turns and talks; the grid shows the people of this and the following seeds."""
    seconds: float = 100.0
    """About how long it may take."""
    model: str | None = None
    """Folder of a model or OWNER/NAME on the hub; the packaged one by default."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        """Draw and tell where things are."""
        if not 1 <= self.seconds <= 36_000:
            raise CopoError(f"--seconds {self.seconds:g}: choose 1 to 36000")
        if self.seed < 0:
            raise CopoError(f"--seed {self.seed}: give 0 or more")
        if self.model is None and not has_packaged():
            written, note = (
                self._head(),
                "the trained portrait model is not part of this installation: this is its head",
            )
        else:
            written, note = self._tour(Portrait.from_pretrained(self.model, self.device).fast()), ""
        if self.json:
            print(json.dumps({"written": [str(path) for path in written], "note": note}, indent=2))
            return
        if note:
            print(note)
        print("look at:")
        for path in written:
            print(f"  {path}")

    def _tour(self, model: Portrait) -> list[Path]:
        start = time.perf_counter()
        model.render(model.sample(seed=self.seed), sampling=model.field.sampling.fast())
        pace = time.perf_counter() - start  # slower than later ones: the first call sets things up
        grid, turn, talk = (share * self.seconds for share in _SHARES)
        written = [self._grid(model, max(min(PEOPLE, int(grid / pace)), 1))]
        person = model.sample(seed=self.seed)
        frames = min(max(int(turn / pace), _FRAMES[0]), _FRAMES[1])
        path = camera_path("sway", model.default_camera, frames)
        written.append(self._film(model, person, None, path, frames / _FILM_SECONDS, "turntable.mp4"))
        frames = min(max(int(talk / (1.5 * pace)), _FRAMES[0]), _FRAMES[1])  # blending looks twice at some rays
        clip = talk_clip(frames / _FILM_SECONDS).first(_FILM_SECONDS)
        drive = clip.for_spec(model.spec)
        written.append(self._film(model, person, drive, model.default_camera, clip.rate, "talking.mp4"))
        return written

    def _grid(self, model: Portrait, people: int) -> Path:
        seeds = list(range(self.seed, self.seed + people))
        tiles = []
        with progress(people, "portraits") as advance:
            for seed in seeds:
                picture = model.render(model.sample(seed=seed), seeds=[seed], sampling=model.field.sampling.fast())
                tiles.append(picture.to_uint8()[0])
                advance(1)
        sheet = contact_sheet(tiles, captions=[f"seed {seed}" for seed in seeds])
        told = {"command": "portrait", "model": model.name, "seeds": seeds}
        save_image(self.out / "grid.png", sheet, Provenance(metadata=told))
        return self.out / "grid.png"

    def _film(
        self, model: Portrait, person: Factors, drive: torch.Tensor | None, camera: Camera, rate: float, name: str
    ) -> Path:
        count = len(camera) if drive is None else len(drive)
        frames = model.animate(person, drive, camera, sampling=model.field.sampling.fast())
        first = next(frames)
        told = {**first.provenance().metadata, "command": "portrait", "model": model.name, "seed": self.seed}
        with progress(count, f"frames of {name}") as advance:

            def shown() -> Iterator[Picture]:
                yield first.to_uint8()[0]
                advance(1)
                for picture in frames:
                    yield picture.to_uint8()[0]
                    advance(1)

            write_video(self.out / name, shown(), rate, Provenance(metadata=told))
        return self.out / name

    def _head(self) -> list[Path]:
        """Pictures and a mesh of the parametric head."""
        written = [self.out / name for name in ("head.png", "identities.png", "head.glb")]
        with contextlib.redirect_stdout(io.StringIO()):
            HeadCommand(
                out=written[0], seed=3, expression="jawOpen=0.25,smile=0.8", yaw=20, light="45,30", size=768
            ).run()
            HeadCommand(out=written[1], sheet="identities").run()
            HeadCommand(out=written[2], seed=3).run()
        return written
