"""`copo gallery`: one page that shows what a model does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from copo.errors import CopoError
from copo.generation.gallery import Gallery
from copo.portrait import Portrait
from copo.work.crew import progress


@dataclass
class Command:
    """Show what a model does: random people, each factor alone, other sides, shape, a talking clip, hard requests.

    Example: copo gallery --out gallery

    Writes pictures, gallery.md and index.html. docs/gallery of the project was made by it.
    """

    out: Path
    """Folder to write to."""
    people: int = 64
    """How many seeds the first sheet shows, from 0 on."""
    chosen: str = "41,3,7,4,11"
    """Seeds of the other sheets, with commas; at least 3."""
    model: str | None = None
    """Folder of a model or OWNER/NAME on the hub; the packaged one by default."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        """Draw and tell where things are."""
        if not 1 <= self.people <= 1024:
            raise CopoError(f"--people {self.people}: choose 1 to 1024")
        chosen = self._chosen()
        model = Portrait.from_pretrained(self.model, self.device).fast()
        self.out.mkdir(parents=True, exist_ok=True)
        with progress(Gallery.pictures(self.people), "pictures") as advance:
            exhibits = Gallery(model, range(self.people), chosen, advance).write(self.out)
        written = [self.out / "index.html", self.out / "gallery.md", *(self.out / e.file for e in exhibits)]
        if self.json:
            print(json.dumps({"written": [str(path) for path in written]}, indent=2))
            return
        for path in written:
            print(f"wrote {path}")

    def _chosen(self) -> list[int]:
        parts = [part.strip() for part in self.chosen.split(",") if part.strip()]
        if len(parts) < 3 or not all(part.isdecimal() for part in parts):
            raise CopoError(f"--chosen {self.chosen!r}: give at least three seeds with commas, such as 41,3,7")
        return [int(part) for part in parts]
