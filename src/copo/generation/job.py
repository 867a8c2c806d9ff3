"""Drawing as a job for `copo.work.engine`: units of people to files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from copo.camera import Camera, turn_cameras
from copo.errors import CopoError
from copo.factors import Factors, expression_vector
from copo.formats.atomic import write_bytes
from copo.formats.factor_files import factor_document, load_factors
from copo.formats.pictures import FORMATS, encode_depth, encode_image
from copo.formats.portrait_file import is_portrait_file, load_portrait_file
from copo.formats.provenance import Provenance
from copo.formats.recipe import Recipe, read_recipe
from copo.generation.privacy import DESCRIPTORS, Guard, load_descriptors
from copo.generation.settings import FACTOR_SUFFIXES, DrawSettings, Item, Unit
from copo.head.bfm import BaselFaceModel
from copo.head.landmarks import head_landmarks
from copo.head.protocol import HeadModel
from copo.portrait import Portrait, PortraitPicture, find_model

REJECTED = "rejected"
"""Folder of notes on pictures that were too near to a training face."""
MARK = "digital_source_type"
LIGHT = {"light": "illumination"}


@dataclass(frozen=True)
class ModelSource:
    """Where a worker gets its model.

    Attributes:
        model: Folder or hub id; None for the default one.
        bfm: Folder of the Basel Face Model, or None.
        device: auto, cpu, cuda or cuda:N.
    """

    model: str | None = None
    bfm: str | None = None
    device: str = "auto"

    def load(self, index: int = 0) -> Portrait:
        """Load it; workers of one machine share out its GPUs by their index, processes of torchrun by LOCAL_RANK.

        Raises:
            CopoError: See `Portrait.from_pretrained`.
        """
        device, count = self.device, torch.cuda.device_count()
        if device in ("auto", "cuda") and count:
            local = os.environ.get("LOCAL_RANK", "")
            device = f"cuda:{(int(local) if local.isdigit() else index) % count}"
        head: HeadModel | None = None
        if self.bfm is not None:
            head = BaselFaceModel.load(self.bfm)
        return Portrait.from_pretrained(self.model, device, head)


@dataclass(frozen=True)
class DrawJob:
    """A `copo.work.engine.Job`.

    Attributes:
        settings: How.
        source: With which model.
        out: Output folder on this machine.
        loaded: The model where this process has it already; it does not travel.
    """

    settings: DrawSettings
    source: ModelSource
    out: Path
    loaded: Portrait | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "loaded": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def worker(self, index: int) -> Artist:
        """See `Job`."""
        return Artist(self.loaded or self.source.load(index), self.settings, self.source.model)

    def store(self) -> PictureFolder:
        """See `Job`."""
        return PictureFolder(self.out, self.settings.format)

    def crashed(self, unit: Unit, code: int | None) -> bytes:
        """See `Job`."""
        raise CopoError(f"a worker died twice while drawing {unit.items[0].name} and following (exit code {code})")


class PictureFolder:
    """Where files go. The picture itself comes last: who finds it finds its labels."""

    def __init__(self, out: Path, suffix: str) -> None:
        """Args: out: Folder. suffix: Ending of pictures, without the dot."""
        self.out, self.suffix = out, suffix

    def picture(self, item: Item) -> Path:
        """The file of a picture."""
        return self.out / f"{item.name}.{self.suffix}"

    def rejection(self, item: Item) -> Path:
        """The note on a picture that was too near to a training face."""
        return self.out / REJECTED / f"{PurePosixPath(item.name).name}.json"

    def has(self, item: Item) -> bool:
        """Whether an item is done."""
        return self.picture(item).is_file() or self.rejection(item).is_file()

    def put_bytes(self, unit: str, data: bytes) -> None:
        """Unpack the files of a unit."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                write_bytes(self.out / name, archive.read(name))


class Artist:
    """A `copo.work.engine.Worker`: draws people."""

    def __init__(self, model: Portrait, settings: DrawSettings, source: str | None = None) -> None:
        """Prepare.

        Args:
            model: The model.
            settings: How.
            source: Of the model, to find its training descriptors.

        Raises:
            CopoError: An expression is unknown, or the privacy filter lacks a file.
        """
        self.model, self.settings = model, settings
        self.expression: Tensor | None = None
        if settings.expression:
            self.expression = expression_vector(model.spec, settings.expression)
        self.guard: Guard | None = None
        if settings.min_distance:
            self.guard = Guard(load_descriptors(find_model(source)[0] / DESCRIPTORS))
        self.threads = min(os.cpu_count() or 1, 8) if model.device.type == "cuda" else 1

    def run(self, unit: Unit) -> bytes:
        """See `Worker`."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.files(unit):
                archive.writestr(name, data)
        return out.getvalue()

    def check(self, unit: Unit) -> None:
        """Refuse a file that cannot be drawn, before anything is drawn.

        Raises:
            CopoError: It is damaged, or of another model or head.
        """
        if unit.items[0].file is not None:
            self.people(unit)

    def files(self, unit: Unit) -> list[tuple[str, bytes]]:
        """(name, content) of all files of a unit; each picture after what belongs to it."""
        picture, items, factors, points = self.draw(unit)
        distances = None
        if self.guard is not None and points is not None:
            side = picture.image.shape[-1]
            distances = self.guard.distances(picture.image, points[0] * side)
        labels = points if self.settings.labels else None

        def encode(i: int) -> list[tuple[str, bytes]]:
            if distances is not None and distances[i] < self.settings.min_distance:
                note = {"name": items[i].name, "seed": items[i].seed, "distance": round(float(distances[i]), 4)}
                place = f"{REJECTED}/{PurePosixPath(items[i].name).name}.json"
                return [(place, (json.dumps(note) + "\n").encode())]
            return self.encode(picture[i], items[i], factors[i], None if labels is None else [p[i] for p in labels])

        with ThreadPoolExecutor(self.threads) as pool:
            return [file for files in pool.map(encode, range(len(items))) for file in files]

    def draw(self, unit: Unit) -> tuple[PortraitPicture, tuple[Item, ...], Factors, list[Tensor] | None]:
        """Pictures of a unit with maps, items, factors, and landmarks (shares of the side; facing) where needed."""
        s = self.settings
        model, factors, camera = self.people(unit)
        maps = set(s.maps) | ({"depth", "semantics"} if s.labels else set())
        map_rays = (s.map_size or s.size or model.size) if maps else None
        first = unit.items[0]
        if first.file is not None and _is_picture(first):
            picture = model.remake(self.recipe(model, first.file), maps=tuple(sorted(maps)), map_rays=map_rays)
        else:
            seeds = [item.seed for item in unit.items if item.seed is not None]
            picture = model.render(
                factors, camera, s.size, psi=s.psi, maps=tuple(sorted(maps)), map_rays=map_rays, seeds=seeds or None,
            )  # fmt: skip
        points = None
        if s.labels or self.guard is not None:
            found = head_landmarks(model.head, factors.to(model.device), picture.camera.to(model.device))
            points = [found.points68, found.facing68]
            if found.points478 is not None and found.facing478 is not None:
                points += [found.points478, found.facing478]
            points = [value.cpu() for value in points]
        return picture, unit.items, factors, points

    def people(self, unit: Unit) -> tuple[Portrait, Factors, Camera]:
        """The model (a person's own, for a portrait file), factors and cameras of a unit."""
        s, first = self.settings, unit.items[0]
        if first.file is None:
            seeds = [item.seed for item in unit.items if item.seed is not None]
            factors = self._sampled(seeds)
            poses = self.model.sample_cameras(seeds) if "pose" in s.vary else self.model.default_camera
            return self.model, self.edited(factors), self._turned(poses.expand(len(seeds)))
        if _is_picture(first):
            model = self.model if s.person is None else self.model.load_portrait(s.person)[0]
            recipe = self.recipe(model, first.file)
            return model, recipe.factors, recipe.camera
        model, factors, own = load_person(self.model, Path(first.file))
        rows = torch.tensor([item.row for item in unit.items])
        camera = model.default_camera.expand(len(rows)) if own is None else own.expand(len(factors))[rows]
        if s.yaw or s.pitch:
            camera = self._turned(model.default_camera.expand(len(rows)))
        return model, self.edited(factors[rows]), camera

    def recipe(self, model: Portrait, file: str) -> Recipe:
        """The recipe of a picture, with what is asked for otherwise: without any wish it is followed exactly."""
        s = self.settings
        recipe = read_recipe(file, model.spec, model.fingerprint)
        if s.yaw or s.pitch:
            recipe = replace(recipe, camera=self._turned(recipe.camera))
        return replace(
            recipe,
            factors=self.edited(recipe.factors),
            psi=recipe.psi if s.psi == 1.0 else s.psi,
            size=recipe.size if s.size is None else s.size,
        )

    def edited(self, factors: Factors) -> Factors:
        """Factors with the wanted expression and light."""
        if self.expression is not None:
            factors = factors.replace(expression=self.expression)
        if self.settings.light is not None:
            factors = factors.replace(illumination=torch.tensor([self.settings.light]))
        return factors

    def encode(
        self, picture: PortraitPicture, item: Item, factors: Factors, labels: list[Tensor] | None
    ) -> list[tuple[str, bytes]]:
        """Files of one picture, itself last."""
        s = self.settings
        mark = picture.provenance()
        out: list[tuple[str, bytes]] = []

        def marked(kind: str) -> Provenance:
            return replace(mark, metadata={**mark.metadata, "map": kind})

        for name in s.maps:
            if name == "depth":
                continue
            drawn = encode_image(picture.map_picture(name), "PNG", marked(name))
            out.append((f"{item.name}_{name}.png", drawn))
        if picture.depth is not None and (s.labels or "depth" in s.maps):
            out.append((f"{item.name}_depth.png", encode_depth(picture.depth[0].cpu().numpy(), marked("depth"))))
        if labels is not None:
            assert picture.semantics is not None
            classes = picture.semantics[0].cpu().numpy().astype(np.uint8)
            out.append((f"{item.name}_classes.png", encode_image(classes, "PNG", marked("classes"))))
            document = self.label_document(picture, item, factors, labels)
            out.append((f"{item.name}.json", (json.dumps(document, allow_nan=False) + "\n").encode()))
        kind = FORMATS[f".{s.format}"]
        out.append((f"{item.name}.{s.format}", encode_image(picture.to_uint8()[0], kind, mark, s.quality, item.name)))
        return out

    def label_document(
        self, picture: PortraitPicture, item: Item, factors: Factors, labels: list[Tensor]
    ) -> dict[str, Any]:
        """A factor file (`copo.formats.factor_files`) with the camera, and the landmarks in pixels beside it."""
        side = picture.image.shape[-1]
        out = factor_document(factors, picture.camera)
        names = ("landmarks68", "facing68", "landmarks478", "facing478")
        for name, value in zip(names, labels, strict=False):
            points = (
                (value * side).double().numpy().round(3).tolist() if value.is_floating_point() else value.int().tolist()
            )
            out[name] = points
        recipe = picture.recipes[0] if picture.recipes else None
        out["picture"] = f"{PurePosixPath(item.name).name}.{self.settings.format}"
        out["seed"], out["size"] = item.seed, side
        out[MARK] = picture.provenance().uri()
        if recipe is not None:
            out["model"], out["fingerprint"], out["psi"] = recipe.model, recipe.fingerprint, recipe.psi
        return out

    # --- inside -------------------------------------------------------------------------------------------------

    def _sampled(self, seeds: list[int]) -> Factors:
        s = self.settings
        kept = [name for name in ("identity", "expression", "light", "noise") if name not in s.vary]
        if not kept:
            return self.model.sample(seeds, psi=dict(s.factor_psi))
        base = self.model.sample(seed=s.base_seed, psi=dict(s.factor_psi))
        drawn = self.model.sample(seeds, psi=dict(s.factor_psi), people=base if "identity" in kept else None)
        return drawn.replace(**{LIGHT.get(name, name): getattr(base, LIGHT.get(name, name)) for name in kept})

    def _turned(self, camera: Camera) -> Camera:
        s = self.settings
        if not (s.yaw or s.pitch):
            return camera
        angles = torch.deg2rad(torch.tensor([s.yaw, s.pitch])).expand(len(camera), 2)
        return turn_cameras(camera, angles[:, 0], angles[:, 1])


def _is_picture(item: Item) -> bool:
    return item.file is not None and Path(item.file).suffix.lower() in FORMATS


def load_person(model: Portrait, path: Path) -> tuple[Portrait, Factors, Camera | None]:
    """A portrait file (`copo invert`) or a factor file in place of a seed.

    Args:
        model: The model.
        path: The file.

    Returns:
        The model as that person, (N) factors, and their cameras where the file has them.

    Raises:
        CopoError: The file is missing, damaged, of another kind, or belongs to another model or head.
    """
    if path.suffix.lower() not in FACTOR_SUFFIXES:
        raise CopoError(
            f"--portrait {path}: give a portrait file of copo invert, or factors ({', '.join(FACTOR_SUFFIXES)})"
        )
    if not path.is_file():
        raise CopoError(f"--portrait {path}: no such file")
    if is_portrait_file(path):
        stored = load_portrait_file(path)
        return model.load_portrait(path)[0], stored.factors, stored.camera
    factors, camera = load_factors(path, model.spec)
    return model, factors, camera
