"""A sheet of training pictures with their labels, to look at before a GPU is spent on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from copo.formats.pictures import label_picture
from copo.head.open_head import OpenHead
from copo.training.analyser.batch import IGNORE, Batch, WideBatch
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import AnalyserTraining
from copo.training.analyser.loop import Data
from copo.training.analyser.photos import Stage

Picture = NDArray[np.uint8]
_COLUMNS = 8
_TILE = 160


def training_sheet(
    config: AnalyserTraining, head: OpenHead, stage: Stage | None, count: int, device: torch.device | str = "cpu"
) -> Image.Image:
    """Pictures as the network sees them; the same with points; labels (white: unknown); then the finder's pictures.

    Args:
        config: The run; its batch sizes are replaced.
        head: The open head.
        stage: Photographs, or None.
        count: Pictures: half renders and half photographs, or all renders.
        device: Where to draw.
    """
    half = max(count // 4 * 2, 2)
    config = replace(config, renders=half, photos=half, wide=_COLUMNS)
    data = Data(config, head.to(device), None if stage is None else stage.part(test=False).to(device))
    batch, _, wide = data.draw(Chance(device, config.seed, 0, 1))
    rows = []
    for low in range(0, len(batch), _COLUMNS):
        part = batch[slice(low, low + _COLUMNS)]
        rows += [_row(seen(part)), _row(marked(part)), _row(classes(part))]
    rows.append(_row(found(wide)))
    sheet = Image.new("RGB", (_COLUMNS * _TILE, len(rows) * _TILE), "white")
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * _TILE, number * _TILE))
    return sheet


def seen(batch: Batch) -> list[Picture]:
    """What the network sees."""
    return list(_eight_bits(batch.pictures))


def marked(batch: Batch) -> list[Picture]:
    """With the points that count: MediaPipe's green, iBUG's red."""
    size = batch.pictures.shape[3]
    out = []
    for picture, points, weight in zip(seen(batch), batch.points.cpu(), batch.points_weight.cpu(), strict=True):
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        for number in [*range(68, len(points)), *range(68)]:
            if weight[number] > 0:
                x, y = (points[number] * size).tolist()
                draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill="red" if number < 68 else "lime")
        out.append(np.asarray(image))
    return out


def classes(batch: Batch) -> list[Picture]:
    """Label maps; white is unknown."""
    out = []
    for labels in batch.labels.cpu().numpy():
        picture = label_picture(np.where(labels == IGNORE, 0, labels))
        picture[labels == IGNORE] = 255
        out.append(picture)
    return out


def found(wide: WideBatch) -> list[Picture]:
    """Whole pictures with the face's square."""
    out = []
    for picture, square, present in zip(_eight_bits(wide.pictures), wide.square.cpu(), wide.present.cpu(), strict=True):
        image = Image.fromarray(picture)
        if present:
            x, y, side, angle = square.tolist()
            c, s = np.cos(angle) * side / 2, np.sin(angle) * side / 2
            corners = [(x + a * c - b * s, y + a * s + b * c) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            ImageDraw.Draw(image).polygon(corners, outline="lime", width=2)
        out.append(np.asarray(image))
    return out


def _eight_bits(pictures: torch.Tensor) -> NDArray[np.uint8]:
    return ((pictures.cpu() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _row(pictures: list[Picture]) -> list[Image.Image]:
    return [Image.fromarray(p).resize((_TILE, _TILE), Image.Resampling.BILINEAR) for p in pictures]
