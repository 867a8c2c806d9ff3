"""From a model and photographs to a folder: what the command, the viewer and `Portrait.invert` share."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from copo.camera import Camera, turn_cameras
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.atomic import write_bytes
from copo.formats.pictures import contact_sheet, save_image, to_uint8
from copo.formats.portrait_file import save_portrait_file
from copo.formats.provenance import Provenance
from copo.inversion.config import Mode, inversion_config
from copo.inversion.invert import Inversion, Inverter, Progress
from copo.inversion.photographs import Looker, Photographs, needs_open_head, read_photographs
from copo.portrait import Portrait
from copo.training.perception import Perception
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.efficientnet import ImageFeatures

Picture = NDArray[np.uint8]
Part = TypeVar("Part")
PORTRAIT_NAME = "portrait.safetensors"


@dataclass(frozen=True)
class Inverted:
    """A person found in a model.

    Attributes:
        model: The personal model.
        factors: (1) the first photograph's.
        camera: (1) the first photograph's.
        photographs: What was inverted.
        inversion: How it went.
        seconds: All of it, with the analysis.
        analysis: Seconds that the analysis took.
        missing: Networks that were not there.
    """

    model: Portrait
    factors: Factors
    camera: Camera
    photographs: Photographs
    inversion: Inversion
    seconds: float
    analysis: float
    missing: tuple[str, ...]


def invert_photographs(
    model: Portrait,
    paths: Sequence[str | Path],
    *,
    mode: Literal["auto", "full", "fast"] = "auto",
    face: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    looker: Looker = "auto",
    progress: Progress | None = None,
) -> Inverted:
    """Find the person of photographs in a model.

    Args:
        model: Of the open head; it stays as it is.
        paths: Photographs of one person.
        mode: full (a GPU within 30 s), fast (two CPU cores within 2 minutes), or what suits the model's device.
        face: Which face, from the left, from 1, where there are several.
        seconds: Time for all of it, instead of the mode's; infinite for all steps.
        seed: Of everything random.
        looker: What analyses the photographs.
        progress: Is told the stage and how far it is.

    Raises:
        CopoError: A photograph cannot be used, the model has another head, or a network's file is missing.
    """
    began = time.perf_counter()
    needs_open_head(model.spec.head)
    chosen: Mode = ("full" if model.device.type == "cuda" else "fast") if mode == "auto" else mode
    config = inversion_config(chosen, seconds, seed)
    if progress is not None:
        progress("analysis", 0.0)
    photographs = read_photographs(paths, model.size, face, looker)
    photographs = _as_model(photographs, model)
    looked = time.perf_counter()
    perception, missing = open_perception()
    done = Inverter(model.generator, photographs, perception, config, model.device, progress, began).run()
    personal = model.with_generator(done.generator)
    camera = done.portrait.camera[0]
    return Inverted(
        personal, done.portrait.person, camera, photographs, done, time.perf_counter() - began, looked - began, missing
    )


def open_perception() -> tuple[Perception, tuple[str, ...]]:
    """The networks that compare pictures, as far as they are there, and the names of those that are not."""
    missing: list[str] = []

    def part(name: str, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except CopoError:
            missing.append(name)
            return None

    features = part("EfficientNet-Lite0", ImageFeatures.load)
    recogniser = part("dlib's descriptor", DlibDescriptor.load)
    return Perception(features=features, recogniser=recogniser), tuple(missing)


def _as_model(photographs: Photographs, model: Portrait) -> Photographs:
    """With the length of the model's noise code; the rest of the factors must be those of its head."""
    given, spec = photographs.factors, model.spec
    same = {
        **given.spec.sizes,
        "noise": spec.noise,
    } == spec.sizes and given.spec.expression_names == spec.expression_names
    if not same:
        raise CopoError(f"model {model.name}: its head is another version of the open head than the one that looks")
    parts = {name: getattr(given, name) for name in ("shape", "albedo", "expression", "illumination")}
    factors = Factors(spec=spec, noise=torch.zeros(len(given), spec.noise), **parts)
    return Photographs(**{**vars(photographs), "factors": factors})


def save_inverted(folder: str | Path, done: Inverted, picture_size: int | None = None) -> list[Path]:
    """Write portrait.safetensors, portrait.png, comparison.png and report.json; the portrait file comes last.

    Args:
        folder: Made where it does not exist.
        done: What was found.
        picture_size: Side of portrait.png, instead of the model's own.

    Returns:
        The files.

    Raises:
        CopoError: They cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise CopoError(f"--out {target}: it is a file; give a folder")
    drawn = done.model.render(done.factors, done.camera, picture_size)
    files = [target / name for name in ("portrait.png", "comparison.png", "report.json", PORTRAIT_NAME)]
    mark = drawn.provenance().metadata
    save_image(files[0], drawn.to_uint8()[0], Provenance("compositeWithTrainedAlgorithmicMedia", mark))
    sheet = comparison(done)
    save_image(files[1], sheet, Provenance("compositeWithTrainedAlgorithmicMedia", {"command": "invert"}))
    write_bytes(files[2], (json.dumps(report(done), indent=2) + "\n").encode())
    save_portrait_file(files[3], done.inversion.portrait)
    return files


def report(done: Inverted) -> dict[str, Any]:
    """What the command tells: errors by stage and photograph, what is left of the controls, times."""
    body = dict(done.inversion.portrait.report)
    return {
        **body,
        "photographs": len(done.photographs),
        "seconds": round(done.seconds, 2),
        "seconds_analysis": round(done.analysis, 2),
        "device": str(done.model.device),
        "missing": list(done.missing),
    }


def comparison(done: Inverted) -> Picture:
    """One row for each photograph: itself, each stage, and three edits that show whether the controls still work."""
    rows: list[Picture] = []
    captions: list[str] = []
    factors = done.inversion.portrait.factors
    names = factors.spec.expression_names
    for i in range(len(done.photographs)):
        person, camera = factors[i], done.inversion.portrait.camera[i]
        shots = [("photograph", to_uint8(done.photographs.pictures[i]))]
        shots += [(stage.name, stage.pictures[i]) for stage in done.inversion.stages]
        edits: list[tuple[str, Factors, Camera]] = []
        if "mouthSmileLeft" in names and "jawOpen" in names:
            edits.append(("smile", person.with_expression(smile=0.8, jawOpen=0.3), camera))
        for title, yaw in (("25 deg left", -25.0), ("25 deg right", 25.0)):
            turn = torch.tensor([math.radians(yaw)])
            edits.append((title, person, turn_cameras(camera, turn, torch.zeros(1))))
        shots += [(title, done.model.render(who, view).to_uint8()[0]) for title, who, view in edits]
        rows += [picture for _, picture in shots]
        captions += [title for title, _ in shots]
    return contact_sheet(rows, len(rows) // len(done.photographs), captions)
