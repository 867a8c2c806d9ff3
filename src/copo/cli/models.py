"""`copo models`: which model files the vision adapters can read, where they are, and fetching them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from copo.errors import CopoError
from copo.vision.models import MODELS, ModelFile, Progress, fetch, locate, model, models_folder

_BAR = 30


@dataclass
class Command:
    """List the model files that read photographs, or fetch some. Nothing is downloaded unless you say `fetch`.

    Example: copo models fetch mediapipe-face mediapipe-hair mediapipe-person yunet
    """

    action: Annotated[Literal["list", "fetch"], tyro.conf.Positional] = "list"
    """`list` says what is present and where; `fetch` gets files."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names from `copo models list`; `fetch` needs at least one."""
    folder: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Take the files from this folder (found by name or checksum) instead of the network."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of text."""

    def run(self) -> None:
        entries = [model(name) for name in self.names]
        if self.action == "fetch":
            self._fetch(entries)
        elif self.folder is not None:
            raise CopoError("--from goes with `copo models fetch`")
        else:
            self._list(entries or list(MODELS))

    def _fetch(self, entries: list[ModelFile]) -> None:
        if not entries:
            known = ", ".join(entry.name for entry in MODELS)
            raise CopoError(f"copo models fetch: name at least one of {known}")
        paths = {}
        for entry in entries:
            paths[entry.name] = str(fetch(entry, self.folder, None if self.json else _bar(entry.name)))
            if not self.json:
                print(f"{entry.name}: {paths[entry.name]}")
        if self.json:
            print(json.dumps(paths, indent=2))

    def _list(self, entries: list[ModelFile]) -> None:
        places = {entry.name: locate(entry) for entry in entries}
        if self.json:
            paths = {name: str(place) if place else None for name, place in places.items()}
            rows = [{**asdict(entry), "path": paths[entry.name]} for entry in entries]
            print(json.dumps({"folder": str(models_folder()), "models": rows}, indent=2))
            return
        print(f"folder: {models_folder()}")
        for entry in entries:
            place = places[entry.name]
            size = f"{entry.size / 1e6:.1f} MB" if entry.size else "size unknown"
            print(f"{'present' if place else 'missing'}:  {entry.name}, {entry.purpose} ({size}; {entry.licence})")
            print(f"          {place or 'to get it: ' + entry.source}")


def _bar(name: str) -> Progress | None:
    """A progress bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int | None) -> None:
        share = done / total if total else 0.0
        filled = "#" * int(share * _BAR)
        end = "\n" if total and done >= total else ""
        print(f"\r{name} [{filled:<{_BAR}}] {done / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)

    return show
