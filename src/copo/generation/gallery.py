"""A page that shows what a model does: random people, every factor by itself, shapes, a clip, and hard requests."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from copo.animation.talk import talk_clip
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors, expression_vector
from copo.formats.atomic import write_bytes
from copo.formats.pictures import Picture, contact_sheet, save_image
from copo.formats.provenance import Provenance
from copo.formats.video import write_video
from copo.generation.page import marked_page
from copo.head.renderer import render_mesh
from copo.illumination import direction_from_angles, directional_light
from copo.portrait import Portrait

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
EXPRESSIONS = ("jawOpen", "smile", "blink", "browInnerUp", "frown", "mouthLeft")
LAMPS = (-75.0, -40.0, 0.0, 40.0, 75.0)
"""Azimuths of the lamp, degrees; it stands 15 degrees high."""
YAWS = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
_RATE, _CLIP_SECONDS = 12.0, 3.0
_MAPS = ("depth", "normals", "semantics")
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Exhibit:
    """One picture of the page.

    Attributes:
        title: Its heading.
        file: Its name in the folder.
        caption: What is seen, and how to make it.
    """

    title: str
    file: str
    caption: str


@dataclass
class Gallery:
    """Draws the exhibits.

    Attributes:
        model: The model.
        seeds: Whom the first sheet shows.
        chosen: Seeds that the other sheets use, in order; at least 3.
        advance: Told how many pictures were drawn.
    """

    model: Portrait
    seeds: Sequence[int]
    chosen: Sequence[int]
    advance: Advance

    @staticmethod
    def pictures(people: int) -> int:
        """How many pictures a gallery of so many people draws."""
        sweeps = len(EXPRESSIONS) * len(STRENGTHS) + 3 * len(LAMPS)
        return people + sweeps + 3 * len(YAWS) + 3 + 2 * round(_RATE * _CLIP_SECONDS) + 4

    def write(self, out: Path) -> list[Exhibit]:
        """Draw everything.

        Args:
            out: Folder; made if missing.
        """
        parts = (self._people, self._expressions, self._others, self._turntable, self._shapes, self._clip, self._hard)
        exhibits = [part(out) for part in parts]
        write_bytes(out / "gallery.md", _markdown(self.model.name, exhibits).encode())
        write_bytes(out / "index.html", _page(self.model.name, exhibits).encode())
        return exhibits

    # --- exhibits ---------------------------------------------------------------------------------------------------

    def _people(self, out: Path) -> Exhibit:
        tiles = [self._draw(self.model.sample(seed=seed), side=136) for seed in self.seeds]
        self._save(out / "people.jpg", tiles, 8, gap=2)
        first, last = self.seeds[0], self.seeds[-1]
        return Exhibit(
            "Random people",
            "people.jpg",
            f"Seeds {first} to {last}, none left out. `copo generate --seeds {first}-{last} --out people`",
        )

    def _expressions(self, out: Path) -> Exhibit:
        tiles, captions = [], []
        usable = [name for name in EXPRESSIONS if _knows(self.model, name)]
        for number, name in enumerate(usable):
            person = self.model.sample(seed=self._seed(number))
            for strength in STRENGTHS:
                asked = expression_vector(self.model.spec, {name: strength})
                tiles.append(self._draw(person.replace(expression=asked), side=144))
                captions.append(f"{name} {strength:g}")
        if not tiles:  # a head whose expressions have no names
            person = self.model.sample(seed=self._seed(0))
            tiles, captions = [self._draw(person, side=144)], ["as sampled"]
        self._save(out / "expressions.jpg", tiles, len(STRENGTHS), captions)
        return Exhibit(
            "Expression alone",
            "expressions.jpg",
            "One expression in each row, from 0 to 1; the rest of the face is at rest. "
            f"`copo generate --seeds {self._seed(0)} --expression jawOpen=0.5 --out face`",
        )

    def _others(self, out: Path) -> Exhibit:
        tiles, captions = [], []
        person = self.model.sample(seed=self._seed(0))
        lit = self.model.spec.illumination == 27
        for azimuth in LAMPS if lit else ():
            tiles.append(self._draw(_under_lamp(person, azimuth, 15.0, intensity=1.2, ambient=0.4), side=144))
            captions.append(f"lamp at {azimuth:g} degrees")
        for name in ("identity", "noise"):
            for number in range(len(LAMPS)):
                other = self.model.sample(seed=self._seed(number))
                changed = (
                    person.replace(noise=other.noise)
                    if name == "noise"
                    else person.replace(shape=other.shape, albedo=other.albedo)
                )
                tiles.append(self._draw(changed, side=144))
                captions.append(f"{name} of {self._seed(number)}")
        self._save(out / "factors.jpg", tiles, len(LAMPS), captions)
        return Exhibit(
            "Light, identity, noise alone",
            "factors.jpg",
            "One person under a lamp that goes around; then only its identity is another's, then only its noise code "
            f"(hair, clothes, background). `copo relight --seed {self._seed(0)} --out relit.mp4`",
        )

    def _turntable(self, out: Path) -> Exhibit:
        tiles = [
            self._draw(self.model.sample(seed=self._seed(number)), self.model.camera(yaw=yaw), side=144)
            for number in range(3)
            for yaw in YAWS
        ]
        captions = [f"{yaw:g}" for _ in range(3) for yaw in YAWS]
        self._save(out / "turntable.jpg", tiles, len(YAWS), captions)
        return Exhibit(
            "From other sides",
            "turntable.jpg",
            f"Yaw from -45 to 45 degrees. `copo animate --seed {self._seed(0)} --camera orbit --out turn.mp4`",
        )

    def _shapes(self, out: Path) -> Exhibit:
        tiles, captions = [], []
        camera = self.model.camera(yaw=20)
        for number in range(3):
            person = self.model.sample(seed=self._seed(number))
            side = self.model.generator.config.raw_resolution * 2
            drawn = self.model.render(person, camera, maps=_MAPS, map_rays=side)
            maps = {name: drawn.map_picture(name) for name in _MAPS}
            assert drawn.semantics is not None
            maps["normals"][(drawn.semantics[0] == 0).cpu().numpy()] = 255  # air has none
            tiles += [_scaled(drawn.to_uint8()[0], 200), *(_scaled(maps[name], 200) for name in _MAPS)]
            tiles.append(_scaled(self._mesh(person, camera, 400), 200))
            captions += [f"seed {self._seed(number)}", *_MAPS, "mesh"]
            self.advance(1)
        self._save(out / "shapes.jpg", tiles, len(_MAPS) + 2, captions)
        return Exhibit(
            "Shape",
            "shapes.jpg",
            "Picture, depth, normals and classes of one view, and the mesh of the volume. "
            f"`copo export --seed {self._seed(0)} --out portrait.glb`",
        )

    def _clip(self, out: Path) -> Exhibit:
        clip = talk_clip(_RATE).first(_CLIP_SECONDS)
        drive, person = clip.for_spec(self.model.spec), self.model.sample(seed=self._seed(0))
        free, held = (
            self.model.animate(person, drive, sampling=self.model.field.sampling.fast(), blend=blend)
            for blend in ("none", "still")
        )

        def frames() -> Iterator[Picture]:
            for a, b in zip(free, held, strict=True):
                self.advance(2)
                yield np.concatenate([_scaled(v.to_uint8()[0], 224) for v in (a, b)], axis=1)

        write_video(out / "talking.webp", frames(), clip.rate, Provenance(metadata=self._told()), quality=60)
        return Exhibit(
            "Talking",
            "talking.webp",
            "Left without blending, right with hair, clothes and background held still. "
            f"`copo animate --seed {self._seed(0)} --drive talk --blend still --out talking.mp4`",
        )

    def _hard(self, out: Path) -> Exhibit:
        """Requests beyond what the model was trained for."""
        model, person = self.model, self.model.sample(seed=self._seed(1))
        asked: list[tuple[str, Factors, Camera]] = [("yaw 85", person, model.camera(yaw=85))]
        asked.append(("pitch 40", person, model.camera(pitch=40)))
        if model.spec.illumination == 27:
            behind = _under_lamp(person, 150.0, 0.0, intensity=1.6, ambient=0.05)
            asked.append(("lamp from behind", behind, model.camera()))
        if _knows(model, "jawOpen") and _knows(model, "browDownLeft") and _knows(model, "mouthLeft"):
            both = expression_vector(
                model.spec, {"jawOpen": 1.0, "browDownLeft": 1.0, "mouthLeft": 1.0, "eyeBlinkRight": 1.0}
            )
            asked.append(("four units at 1", person.replace(expression=both), model.camera()))
        tiles = [self._draw(factors, camera, side=224) for _, factors, camera in asked]
        self._save(out / "hard.jpg", tiles, 4, [name for name, _, _ in asked])
        return Exhibit(
            "Where it fails", "hard.jpg", "Asked on purpose: views, light and expressions far from the training set."
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _seed(self, number: int) -> int:
        return self.chosen[number % len(self.chosen)]

    def _draw(self, factors: Factors, camera: Camera | None = None, side: int = 256) -> Picture:
        picture = self.model.render(factors, camera).to_uint8()[0]
        self.advance(1)
        return _scaled(picture, side)

    def _mesh(self, person: Factors, camera: Camera, side: int) -> Picture:
        """The surface of the volume in grey, lit from the camera; white where there is none, as early in training."""
        try:
            mesh = self.model.mesh(person, resolution=160)
        except CopoError:
            return np.full((side, side, 3), 255, np.uint8)
        vertices = torch.from_numpy(mesh.vertices).float()[None]
        drawn = render_mesh(vertices, torch.from_numpy(mesh.faces).long(), camera.to("cpu"), side)
        towards = F.normalize(camera.position.cpu(), dim=1)[:, :, None, None]
        facing = (drawn.normals * towards).sum(1, keepdim=True).clamp(0, 1)
        shade = torch.where(drawn.mask, 0.15 + 0.75 * facing, torch.ones_like(facing))
        return _grey(shade[0, 0])

    def _told(self) -> dict[str, Any]:
        return {"command": "gallery", "model": self.model.name}

    def _save(
        self, path: Path, tiles: list[Picture], columns: int, captions: list[str] | None = None, gap: int = 4
    ) -> None:
        save_image(path, contact_sheet(tiles, columns, captions, gap), Provenance(metadata=self._told()), quality=85)


def _under_lamp(person: Factors, azimuth: float, elevation: float, intensity: float, ambient: float) -> Factors:
    """One portrait in the light of a lamp; angles in degrees."""
    direction = direction_from_angles(math.radians(azimuth), math.radians(elevation))
    return person.replace(illumination=directional_light(direction, intensity=intensity, ambient=ambient)[None])


def _knows(model: Portrait, name: str) -> bool:
    try:
        expression_vector(model.spec, {name: 0.0})
    except CopoError:
        return False
    return True


def _scaled(picture: Picture, side: int) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _grey(values: Tensor) -> Picture:
    picture = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.repeat(picture[..., None], 3, axis=-1)


def _markdown(name: str, exhibits: Sequence[Exhibit]) -> str:
    lines = [f"# What {name} does", "", "Made by `copo gallery`; every picture is AI-generated and shows nobody.", ""]
    for e in exhibits:
        lines += [f"## {e.title}", "", f"![{e.title}]({e.file})", "", e.caption, ""]
    return "\n".join(lines)


def _page(name: str, exhibits: Sequence[Exhibit]) -> str:
    body = "".join(
        f'<h2>{html.escape(e.title)}</h2><img src="{html.escape(e.file)}" alt="{html.escape(e.title)}">'
        f"<p>{html.escape(e.caption)}</p>"
        for e in exhibits
    )
    return marked_page(f"What {name} does", _STYLE, body)


_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
