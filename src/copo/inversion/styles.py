"""Pictures of a style, and how far portraits are from it: distances of distributions, not of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from copo.errors import CopoError
from copo.formats.pictures import from_uint8, load_image
from copo.preparation import alignment
from copo.preparation.config import PrepareConfig
from copo.preparation.models import Models
from copo.preparation.sources import find_sources, read_bytes

Picture = NDArray[np.uint8]
MOST = 200
"""Pictures of a style that are read."""


@dataclass(frozen=True)
class Styles:
    """Pictures of a style.

    Attributes:
        pictures: (N, 3, S, S) in [-1, 1].
        aligned: How many were aligned by a face; the others are their middle square.
    """

    pictures: Tensor
    aligned: int


def read_styles(inputs: Sequence[Path], size: int) -> Styles:
    """Read pictures and align those in which a face is found as training portraits are.

    Args:
        inputs: Folders, zips or single pictures.
        size: Side of the model's pictures.

    Raises:
        CopoError: There is none that can be read.
    """
    try:
        models: Models | None = Models(PrepareConfig(parser="none", verify_person=False))
    except CopoError:
        models = None  # without the landmarker everything is cut from the middle
    pictures: list[Picture] = []
    aligned = 0
    problem = ""
    for source in [s for s in find_sources(inputs).sources if not s.is_video][:MOST]:
        try:
            picture = load_image(read_bytes(source), name=source.name)
        except CopoError as error:
            problem = str(error)
            continue
        marks = models.landmarks(picture)[0] if models is not None and min(picture.shape[:2]) >= 16 else None
        if marks is None:
            pictures.append(middle(picture, size))
        else:
            pictures.append(alignment.warp(picture, alignment.ffhq_matrix(marks.points68, size), size))
            aligned += 1
    if not pictures:
        raise CopoError(problem or "--images: no picture there; give a folder of pictures of the style")
    return Styles(from_uint8(np.stack(pictures)), aligned)


def middle(picture: Picture, size: int) -> Picture:
    """The largest square in the middle, resized."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS, box=box))


def rows_of(maps: Tensor, where: float) -> Tensor:
    """(B, C, h, w) -> (B h w, C + 2): what is at each place, and the place, x and y in [-1, 1] times `where`."""
    batch, _, height, width = maps.shape
    y = torch.linspace(-1, 1, height, device=maps.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=maps.device)[None].expand(height, width)
    place = (torch.stack([x, y]) * where).expand(batch, 2, height, width).to(maps)
    return torch.cat([maps, place], dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def sliced_distance(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance of two sets of as many rows (Heitz et al. 2021).

    Args:
        a: (N, C).
        b: (N, C).
        directions: (C, K) of length 1.

    Returns:
        Mean over directions and ranks of the absolute difference of sorted projections.
    """
    return ((a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values).abs().mean()


def directions(channels: int, count: int, random: torch.Generator) -> Tensor:
    """(channels, count) random unit vectors."""
    return F.normalize(torch.randn(channels, count, generator=random), dim=0)


def some(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    """`count` random rows, with repetition where there are fewer."""
    if len(rows) >= count:
        index = torch.randperm(len(rows), generator=random)[:count]
    else:
        index = torch.randint(len(rows), (count,), generator=random)
    return rows[index.to(rows.device)]


def self_similarity(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, hw) cosines between the places of a picture, features centred first."""
    rows = maps.flatten(2)
    rows = F.normalize(rows - rows.mean(dim=2, keepdim=True), dim=1)
    return rows.mT @ rows
