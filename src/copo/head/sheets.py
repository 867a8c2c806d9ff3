"""Contact sheets of a parametric head: people, expressions, skins, landmarks, labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from copo.camera import Camera
from copo.factors import Factors, expression_vector
from copo.formats.pictures import label_picture
from copo.head.protocol import HeadModel
from copo.head.renderer import MeshRender, RasterConfig, render_head
from copo.illumination import direction_from_angles, directional_light, normalise_exposure

Picture = NDArray[np.uint8]

FOV = math.radians(15.0)  # shows the whole head and the collar from one metre
CLOSE_FOV = math.radians(12.6)  # the method's crop
BACKGROUND = (0.86, 0.88, 0.90)
CHUNK = 4  # heads rendered together, bounds memory
EXPOSURE = 0.82  # mean shading of the front: bright without burning out the lightest skin
# Combined with a unit so that its sheet shows what it is for: mouthClose closes the lips over an open jaw.
COMPANIONS: dict[str, dict[str, float]] = {"mouthClose": {"jawOpen": 1.0}, "tongueOut": {"jawOpen": 0.35}}
VIEWS = (0.0, -35.0, 35.0, 70.0)  # degrees of yaw of the label and landmark sheets
LANDMARK_CASES: tuple[tuple[int | None, dict[str, float]], ...] = (
    (None, {}),
    (3, {}),
    (11, {"smile": 1.0, "jawOpen": 0.25}),
    (20, {"jawOpen": 0.8, "browsUp": 1.0}),
)


def studio_light(azimuth: float = 28.0, elevation: float = 32.0) -> Tensor:
    """(27,) a soft lamp at the upper right of the picture in a bright room.

    Args:
        azimuth: Degrees from the front to the right of the frontal picture.
        elevation: Degrees above the level.
    """
    direction = direction_from_angles(math.radians(azimuth), math.radians(elevation))
    light = directional_light(direction, colour=(1.0, 0.97, 0.93), intensity=0.75, ambient=0.5)
    return normalise_exposure(light, EXPOSURE)


def identity_sheet(head: HeadModel, count: int = 32, columns: int = 8, tile: int = 192, seed: int = 0) -> Picture:
    """Random people with their skins, every second one turned aside.

    Args:
        head: Any head model.
        count: Number of people, of the seeds from `seed` on.
        columns: People in a row.
        tile: Side of one picture in pixels.
        seed: First seed.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    people = Factors.random(head.spec, list(range(seed, seed + count)), studio_light())
    yaws = [(0.0, 25.0, 0.0, -25.0)[i % 4] for i in range(count)]
    return _grid(_tiles(head, people, yaws, tile), [str(seed + i) for i in range(count)], columns)


def expression_sheet(head: HeadModel, columns: int = 9, tile: int = 176, seed: int | None = None) -> Picture:
    """Every expression coefficient at its upper end; units that are meant to go with another one bring it along.

    Args:
        head: Any head model.
        columns: Pictures in a row.
        tile: Side of one picture in pixels.
        seed: Whose face; by default the mean head's.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    names = head.spec.expression_names
    person = _person(head, seed)
    rows = []
    for name in names:
        companions = {k: v for k, v in COMPANIONS.get(name, {}).items() if k in names}
        rows.append(expression_vector(head.spec, {**companions, name: head.spec.expression_range[1]}))
    labels = [" + ".join([n, *(f"{k} {v:g}" for k, v in COMPANIONS.get(n, {}).items())]) for n in names]
    faces = Factors.cat([person.replace(expression=row) for row in rows])
    return _grid(_tiles(head, faces, [18.0] * len(faces), tile, CLOSE_FOV), labels, columns)


def albedo_sheet(head: HeadModel, count: int | None = None, tile: int = 120, columns: int = 5) -> Picture:
    """What each albedo coefficient does: three pictures per coefficient, at -2, 0 and 2 standard deviations.

    Args:
        head: Any head model; coefficients are named where the model names them.
        count: Only the first coefficients.
        tile: Side of one picture in pixels.
        columns: Coefficients in a row.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    count = head.spec.albedo if count is None else min(count, head.spec.albedo)
    names: Sequence[str] = getattr(head, "albedo_names", [f"albedo {i}" for i in range(count)])
    swept = torch.zeros(2 * count, head.spec.albedo)
    for k in range(count):
        swept[2 * k, k], swept[2 * k + 1, k] = -2.0, 2.0
    mean = _person(head, None)
    faces = Factors.cat([mean, *(mean.replace(albedo=row[None]) for row in swept)])
    drawn = _tiles(head, faces, [0.0] * len(faces), tile, CLOSE_FOV)
    strips = [np.concatenate([drawn[2 * k + 1], drawn[0], drawn[2 * k + 2]], axis=1) for k in range(count)]
    return _grid(strips, [f"{names[k]}: -2, 0, 2" for k in range(count)], columns)


def label_sheet(head: HeadModel, tile: int = 320, seed: int | None = None) -> Picture:
    """The parser classes from several sides and with the mouth open, in the parser's usual colours."""
    person = _person(head, seed)
    faces = [person.replace() for _ in VIEWS]
    if "jawOpen" in head.spec.expression_names:
        faces[1] = person.with_expression(jawOpen=0.7)
    drawn: list[Picture] = []

    def keep(render: MeshRender) -> None:
        assert render.labels is not None
        drawn.extend(label_picture(render.labels.cpu().numpy()))

    _render(head, Factors.cat(faces), list(VIEWS), tile, FOV, keep)
    return _grid(drawn, [f"yaw {v:g}" for v in VIEWS], len(VIEWS))


def landmark_sheet(head: HeadModel, tile: int = 400) -> Picture:
    """The landmarks over renders of several people, expressions and sides: large dots 68, small dots 478.

    Points on the far side of the head, told by the depth of the surface, are left out.
    """
    topology = head.topology
    tiles, labels = [], []
    for seed, expression in LANDMARK_CASES:
        person = _person(head, seed).with_expression(**expression)
        vertices = head.vertices(person.shape, person.expression)
        for yaw in (0.0, -30.0, 55.0):
            camera = _camera([yaw], CLOSE_FOV)
            config = RasterConfig(supersample=2)
            colour = (person.shape, person.expression, person.albedo, person.illumination)
            render = render_head(head, *colour, camera, tile, config=config)
            picture = Image.fromarray(_pictures(render)[0]).resize((2 * tile, 2 * tile), Image.Resampling.BICUBIC)
            draw = ImageDraw.Draw(picture)
            depth = render.depth[0, 0]
            sets: list[tuple[Tensor, float, tuple[int, int, int]]] = []
            if topology.landmarks478_faces is not None and topology.landmarks478_barycentric is not None:
                corners = vertices[:, topology.faces[topology.landmarks478_faces]]
                mediapipe = (corners * topology.landmarks478_barycentric[..., None]).sum(2)
                sets.append((mediapipe, 2.0, (0, 160, 40)))
            sets.append((vertices[:, topology.landmarks68], 4.0, (220, 0, 60)))
            for points, radius, ink in sets:
                pixel, distance = camera.project(points)
                for (x, y), z in zip((pixel[0] * tile).tolist(), distance[0].tolist(), strict=True):
                    row, column = min(max(int(y), 0), tile - 1), min(max(int(x), 0), tile - 1)
                    near = depth[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
                    if near.max() == 0 or z > float(near.max()) + 0.004:
                        continue
                    x, y = 2 * x, 2 * y
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
            tiles.append(np.asarray(picture.resize((tile, tile), Image.Resampling.LANCZOS)))
            who = "mean" if seed is None else f"seed {seed}"
            labels.append(" ".join([who, *(f"{k} {v:g}" for k, v in expression.items()), f"yaw {yaw:g}"]))
    return _grid(tiles, labels, 6)


def _person(head: HeadModel, seed: int | None) -> Factors:
    light = studio_light()
    return Factors.neutral(head.spec, illumination=light) if seed is None else Factors.random(head.spec, seed, light)


def _camera(yaws: Sequence[float], fov: float) -> Camera:
    return Camera.cat([Camera.from_degrees(yaw, 0.0, math.degrees(fov)) for yaw in yaws])


def _pictures(render: MeshRender) -> Picture:
    """(B, H, W, 3) uint8 before the sheet's background."""
    colour = render.attributes["colour"].detach().clamp(0, 1) * render.alpha
    colour = colour + (1 - render.alpha) * torch.tensor(BACKGROUND, device=colour.device)[:, None, None]
    return (colour * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def _render(
    head: HeadModel, people: Factors, yaws: Sequence[float], tile: int, fov: float, keep: Callable[[MeshRender], None]
) -> None:
    device = head.topology.faces.device
    for start in range(0, len(people), CHUNK):
        some = people[start : start + CHUNK].to(device)
        camera = _camera(yaws[start : start + CHUNK], fov).to(device)
        light = some.illumination
        with torch.no_grad():
            keep(
                render_head(
                    head,
                    some.shape,
                    some.expression,
                    some.albedo,
                    light,
                    camera,
                    tile,
                    config=RasterConfig(supersample=2),
                )
            )


def _tiles(head: HeadModel, people: Factors, yaws: Sequence[float], tile: int, fov: float = FOV) -> list[Picture]:
    drawn: list[Picture] = []
    _render(head, people, yaws, tile, fov, lambda render: drawn.extend(_pictures(render)))
    return drawn


def _grid(tiles: Sequence[Picture], labels: Sequence[str], columns: int) -> Picture:
    """Tiles row by row with a caption in each; the last row is filled with the background."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    ground = tuple(round(255 * c) for c in BACKGROUND)
    sheet = Image.new("RGB", (columns * width, rows * height), ground)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = i % columns * width, i // columns * height
        sheet.paste(Image.fromarray(tile), (x, y))
        draw.text((x + 4, y + 2), label, fill=(30, 30, 40), font=font)
    return np.asarray(sheet)
