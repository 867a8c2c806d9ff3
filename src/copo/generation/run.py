"""The whole generation: plan, draw, grid, page, data set. A run that was stopped goes on with the same command."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import copo
from copo.camera import Camera
from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.dataset import DatasetWriter
from copo.formats.dataset import Portrait as Row
from copo.formats.factor_files import load_factors
from copo.formats.provenance import Provenance
from copo.generation.job import MARK, DrawJob, ModelSource, PictureFolder
from copo.generation.page import write_grid, write_page
from copo.generation.settings import FLAT, DrawSettings, Item, People, Unit
from copo.portrait import Portrait
from copo.work.crew import Crew, check_crew, progress, work

PLAN, DATASET = "generate.json", "dataset.zip"
FORMAT = "copo-generate-1"


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        made: Pictures made by this run, those left out included.
        kept: Pictures that were there before.
        rejected: Names of pictures that were too near to a training face, of the whole set.
        missing: Pictures of the set that other shards still have to make.
        seconds: Of drawing, model loading included.
        written: The grid, the page, the data set; empty while pictures are missing.
        pictures: Files of pictures that exist, in order.
    """

    made: int
    kept: int
    rejected: tuple[str, ...]
    missing: int
    seconds: float
    written: tuple[Path, ...]
    pictures: tuple[Path, ...]


def generate(
    people: People,
    settings: DrawSettings,
    out: Path,
    source: ModelSource | None = None,
    crew: Crew | None = None,
    shard: tuple[int, int] | None = None,
    dataset: bool = False,
    model: Portrait | None = None,
) -> Outcome:
    """Draw people into a folder.

    Args:
        people: Who.
        settings: How.
        out: Folder; pictures that are there already, made with the same settings, are kept.
        source: With which model.
        crew: Who draws.
        shard: (i, n): only every n-th unit, from the i-th on. Whoever makes the last picture writes grid and page.
        dataset: Also write `dataset.zip`, which training reads; needs labels, and png or jpg.
        model: The model of `source` where it is loaded already.

    Raises:
        CopoError: Bad input, a folder of other settings, or a full disk; what was drawn stays.
    """
    source, crew = source or ModelSource(), crew or Crew()
    if dataset and (not settings.labels or settings.format == "webp"):
        raise CopoError("--dataset needs --labels, and --format png or jpg")
    if not len(people):
        raise CopoError("nobody to draw: give --seeds, --portrait or --from")
    check_crew(crew)
    start = time.monotonic()
    model = model or source.load()
    if settings.labels or settings.min_distance:
        _ = model.head  # one line now rather than in every worker
    layout = _layout(out, len(people))
    people, settings = replace(people, folders=layout), replace(settings, folders=layout)
    job = DrawJob(settings, source, out, model)
    units, artist = people.units(), job.worker(0)
    for unit in units[len(units) - len(people.files) :]:
        artist.check(unit)  # bad input is told before anything is written
    _begin(out, settings, model)
    folder = PictureFolder(out, settings.format)
    mine = units if shard is None else units[shard[0] - 1 :: shard[1]]
    todo = [unit for unit in (_rest(unit, folder) for unit in mine) if unit.items]
    count = sum(len(unit.items) for unit in todo)
    if todo:
        with progress(count, "portraits") as advance:
            default = torch.cuda.device_count() if source.device in ("auto", "cuda") else 1
            work(todo, job, crew, lambda unit: advance(len(unit.items)), default=max(default, 1), gpus=True)
    seconds = time.monotonic() - start
    items = people.items()
    missing = [item for item in items if not folder.has(item)]
    pictures = tuple(folder.picture(item) for item in items if folder.picture(item).is_file())
    rejected = tuple(item.name for item in items if folder.rejection(item).is_file())
    kept = sum(len(unit.items) for unit in mine) - count
    written: list[Path] = []
    if not missing:
        facts = _facts(settings, model)
        grid = write_grid(folder, items, {"command": "generate", "model": model.name})
        written += [grid] if grid is not None else []
        written.append(write_page(folder, items, settings, facts))
        if dataset and pictures:
            written.append(write_dataset(folder, items, out / DATASET, facts))
    return Outcome(count, kept, rejected, len(missing), seconds, tuple(written), pictures)


def write_dataset(folder: PictureFolder, items: Sequence[Item], path: Path, facts: dict[str, Any]) -> Path:
    """All pictures with their labels as one training set (docs/dataset.md).

    Raises:
        CopoError: Labels are missing or damaged, or the file cannot be written.
    """
    with DatasetWriter(path, {"generated": True, MARK: Provenance().uri(), **facts}) as writer:
        for item in items:
            picture = folder.picture(item)
            if not picture.is_file():
                continue
            place = folder.out / f"{item.name}.json"
            stored = load_factors(place)
            try:
                document = json.loads(place.read_text(encoding="utf-8"))
                points = {
                    target: np.asarray(document[name], np.float32)
                    for name, target in (("landmarks68", "points68"), ("landmarks478", "points478"))
                    if name in document
                }
                classes = np.array(Image.open(folder.out / f"{item.name}_classes.png").convert("L"))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CopoError(f"{place}: labels are damaged; delete {picture} and run again") from error
            camera = stored.camera or Camera.from_degrees()
            writer.add(
                Row(
                    picture=picture.read_bytes(),
                    suffix=picture.suffix,
                    camera=camera.to_eg3d()[0].numpy(),
                    factors=stored.factors,
                    labels=_grey_png(classes),
                    manifest={"source": f"{item.name}.{folder.suffix}", "set": "generated", "person": item.name,
                              "licence": "generated", MARK: Provenance().uri()},
                    **points,
                )
            )  # fmt: skip
    return path


# --- inside -----------------------------------------------------------------------------------------------------


def _rest(unit: Unit, folder: PictureFolder) -> Unit:
    """The part of a unit that is not done."""
    return Unit(unit.id, tuple(item for item in unit.items if not folder.has(item)))


def _layout(out: Path, count: int) -> bool:
    """Whether there is a folder for every thousand seeds: as the set was begun, or by its size."""
    known = _plan(out)
    return count > FLAT if known is None else bool(known["settings"].get("folders"))


def _plan(out: Path) -> dict[str, Any] | None:
    """What the folder was begun with.

    Raises:
        CopoError: The file is damaged.
    """
    path = out / PLAN
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        body = None
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("settings"), dict):
        raise CopoError(f"{path} is damaged or another program's: give another --out, or delete it")
    return body


def _facts(settings: DrawSettings, model: Portrait) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "settings": settings.to_dict(),
        "software": f"copo {copo.__version__}",
        MARK: Provenance().uri(),
    }


def _begin(out: Path, settings: DrawSettings, model: Portrait) -> None:
    """Store what the folder is made with, or check that it is the same.

    Raises:
        CopoError: The folder was begun with another model or other settings.
    """
    known, mine = _plan(out), _facts(settings, model)
    if known is None:
        write_bytes(out / PLAN, (json.dumps(mine, indent=1) + "\n").encode())
        return
    theirs = {"fingerprint": known.get("fingerprint"), **known["settings"]}
    wanted = json.loads(json.dumps({"fingerprint": model.fingerprint, **settings.to_dict()}))
    for name, value in wanted.items():
        if theirs.get(name) != value:
            was, now = (_short(v) for v in (theirs.get(name), value))
            title = {"fingerprint": "model", "vary": "factor"}.get(name, name.replace("_", "-"))
            raise CopoError(
                f"--out {out}: holds pictures made with another {title} ({was}, now {now}): give another --out"
            )


def _short(value: object) -> str:
    """A setting for one line of text."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return (text[:60] + "...") if len(text) > 63 else text or "none"


def _grey_png(classes: np.ndarray) -> bytes:
    """One-channel PNG without metadata, as data sets hold them."""
    out = io.BytesIO()
    Image.fromarray(classes).save(out, "PNG")
    return out.getvalue()
