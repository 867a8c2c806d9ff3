"""Pictures of a run: what it is shown, what it makes, and whether the factors control it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from copo.camera import Camera, turn_cameras
from copo.factors import seeded_normal
from copo.field.portrait_field import PortraitField, PortraitFrame
from copo.formats.atomic import atomic_write
from copo.formats.pictures import depth_picture, label_picture, to_uint8
from copo.illumination import rotate_illumination
from copo.training.conditioning import pose_of

if TYPE_CHECKING:
    from copo.training.loop import Trainer

Picture = NDArray[np.uint8]
GRID = 8
"""Columns of the sheets of photographs and of samples."""
COLUMNS = 5
"""Values of a factor in the control sheet."""
UNITS = ("jawOpen", "smile", "blink", "browInnerUp")
"""Expressions that are swept where the head has them; otherwise its first coefficients."""
YAWS = (-50.0, -25.0, 0.0, 25.0, 50.0)
"""Degrees."""
BATCH = 8
"""Portraits drawn together."""


def save_reals(trainer: Trainer, path: Path) -> None:
    """Photographs of the training set, evenly spread."""
    data, side = trainer.ingredients.data, trainer.config.generator.output_resolution
    wanted = torch.linspace(0, len(data) - 1, min(GRID * 4, len(data))).long().tolist()
    tiles = []
    for position in wanted:
        try:
            tiles.append(data.picture(position, side).permute(1, 2, 0).numpy())
        except ValueError:  # a damaged photograph is reported when it is trained on
            continue
    _save(path, _grid(tiles, GRID, side))


def save_fakes(trainer: Trainer, path: Path, rows: int = 4) -> None:
    """Samples of the averaged generator: the same latents and cameras in every sheet of a run."""
    z, camera = fixed_latents(trainer, GRID * rows)
    frames = draw(trainer, z, camera)
    tiles = list(to_uint8(torch.cat([f.image for f in frames])))
    _save(path, _grid(tiles, GRID, trainer.config.generator.output_resolution))


def save_control(trainer: Trainer, path: Path) -> None:
    """One factor swept in every row: portraits, with the rendered head, depth and classes below.

    Rows: expressions, yaw, light turned around the head, another identity, another noise code.
    """
    side = trainer.config.generator.output_resolution
    raw = trainer.config.generator.raw_resolution
    z, camera = fixed_latents(trainer, trainer.config.run.sheet_people, frontal=True)
    tiles: list[Picture] = []
    titles: list[str] = []
    sweeps = control_sweeps(trainer, z, camera)
    for number, (title, latents, cameras) in enumerate(sweeps):
        frame = _joined(draw(trainer, latents, cameras))
        view = trainer.guide.view(latents[:, trainer.config.generator.noise :].to(trainer.processes.device),
                                  cameras.to(trainer.processes.device), raw)  # fmt: skip
        images, heads = to_uint8(frame.image), to_uint8(view.colour)
        tiles += list(images)
        titles += [title] + [""] * (len(images) - 1)
        tiles += [_enlarge(t, side) for t in heads]
        titles += [f"{title}: head"] + [""] * (len(heads) - 1)
        if number < 2:
            depth = frame.depth.float().cpu().numpy()
            labels = frame.classes.argmax(1).cpu().numpy()
            tiles += [_enlarge(depth_picture(d), side) for d in depth]
            tiles += [_enlarge(p, side) for p in label_picture(labels)]
            titles += ["depth"] + [""] * (len(depth) - 1) + ["classes"] + [""] * (len(depth) - 1)
    _save(path, _grid(tiles, COLUMNS, side, titles))


def control_sweeps(trainer: Trainer, z: Tensor, camera: Camera) -> list[tuple[str, Tensor, Camera]]:
    """(title, latents (COLUMNS, n), cameras) of each row; people take turns."""
    spec, noise = trainer.spec, trainer.config.generator.noise
    steps = torch.linspace(0, 1, COLUMNS)
    out: list[tuple[str, Tensor, Camera]] = []

    def row(person: int) -> tuple[Tensor, Camera]:
        person %= len(z)
        return z[person : person + 1].repeat(COLUMNS, 1), camera[person].expand(COLUMNS)

    slices = spec.slices
    start = slices["expression"].start
    index = {name: start + i for i, name in enumerate(spec.expression_names)}
    groups = {
        "smile": ("mouthSmileLeft", "mouthSmileRight"), "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
        "jawOpen": ("jawOpen",), "browInnerUp": ("browInnerUp",),
    }  # fmt: skip
    swept = [(name, groups[name]) for name in UNITS if all(u in index for u in groups[name])]
    swept = swept or [(name, (name,)) for name in spec.expression_names[:4]]
    high = spec.expression_range[1] / spec.normaliser("expression")
    high = high if math.isfinite(high) else 1.0
    for number, (name, units) in enumerate(swept):
        latents, cameras = row(number)
        latents[:, slices["expression"]] = 0
        for unit in units:
            latents[:, index[unit]] = steps * high
        out.append((name, latents, cameras))
    latents, cameras = row(0)
    turned = turn_cameras(cameras, torch.deg2rad(torch.tensor(YAWS)), torch.zeros(COLUMNS))
    out.insert(1, ("yaw", latents, turned))
    if spec.illumination == 27:
        latents, cameras = row(1)
        light = latents[:, slices["illumination"]] * spec.normaliser("illumination")
        angle = (steps - 0.5) * math.pi
        c, s, zero, one = angle.cos(), angle.sin(), torch.zeros(COLUMNS), torch.ones(COLUMNS)
        turn = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=1).view(-1, 3, 3)
        latents[:, slices["illumination"]] = rotate_illumination(light, turn) / spec.normaliser("illumination")
        out.append(("light", latents, cameras))
    generator = torch.Generator().manual_seed(trainer.config.run.seed + 5)
    latents, cameras = row(2)
    identity = slices["identity"]
    latents[1:, identity] = trainer.sampler.factor("identity", COLUMNS - 1, generator)
    out.append(("identity", latents, cameras))
    latents, cameras = row(3)
    latents[1:, :noise] = torch.randn(COLUMNS - 1, noise, generator=generator)
    out.append(("noise", latents, cameras))
    return out


def fixed_latents(trainer: Trainer, count: int, frontal: bool = False) -> tuple[Tensor, Camera]:
    """(count, latent) z and cameras, the same in every call of a run; `frontal` takes cameras near the front."""
    generator = torch.Generator().manual_seed(trainer.config.run.seed + 1)
    noise = seeded_normal("noise", list(range(count)), trainer.config.generator.noise)
    cameras = trainer.ingredients.data.cameras
    if frontal:
        turned = (pose_of(cameras) - math.pi / 2).abs().amax(1)
        cameras = cameras[turned.argsort()[: max(len(cameras) // 4, 1)]]
    rows = torch.randint(len(cameras), (count,), generator=generator)
    natural = trainer.sampler.natural(count, generator, cameras[rows])
    return torch.cat([trainer.sampler.fitting(noise, natural, cameras[rows]), natural], dim=1), cameras[rows]


@torch.no_grad()
def draw(trainer: Trainer, z: Tensor, camera: Camera) -> list[PortraitFrame]:
    """Frames of the averaged generator, exact and without noise that changes."""
    device = trainer.processes.device
    field = PortraitField(trainer.average, head=trainer.ingredients.head)
    mode = "const" if trainer.config.generator.noise_inputs else "none"
    out = []
    for start in range(0, len(z), BATCH):
        some = slice(start, start + BATCH)
        planes = field.planes(z[some].to(device), noise=mode)  # type: ignore[arg-type]
        out.append(field.render(planes, camera[some].to(device), noise=mode))  # type: ignore[arg-type]
    return out


def _joined(frames: list[PortraitFrame]) -> PortraitFrame:
    names = ("image", "raw", "features", "depth", "alpha", "classes")
    return PortraitFrame(**{n: torch.cat([getattr(f, n) for f in frames]) for n in names}, normals=None)


def _enlarge(picture: Picture, side: int) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


def _grid(tiles: list[Picture], columns: int, side: int, titles: list[str] | None = None) -> Picture:
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * side, max(rows, 1) * side), (128, 128, 128))
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(np.ascontiguousarray(tile[..., :3])), (i % columns * side, i // columns * side))
    if titles and side >= 64:
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for i, title in enumerate(titles):
            if title:
                place = (i % columns * side + 3, i // columns * side + 2)
                pen.text(place, title, fill=(255, 255, 255), font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(sheet)


def _save(path: Path, picture: Picture) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
