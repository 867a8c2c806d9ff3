"""What a training step reads: pictures, their labels, and how far each label is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

IGNORE = 255
"""Label of pixels about which nothing is known."""


@dataclass(frozen=True)
class Batch:
    """B pictures with labels; a weight of 0 means that the label is missing.

    Attributes:
        pictures: (B, 3, S, S) in [-1, 1].
        labels: (B, S/2, S/2) int64 classes 0..18 or `IGNORE`.
        points: (B, 546, 2) shares of the picture's side, iBUG's 68 first.
        points_weight: (B, 546).
        shape: (B, 80).
        albedo: (B, 50).
        expression: (B, 52) units as MediaPipe would measure them.
        own_expression: (B, 52) units that move the open head so; differ from those where definitions do.
        illumination: (B, 27).
        rotation: (B, 3, 3) in the viewer's frame.
        translation: (B, 3) metres in the camera's OpenCV frame.
        geometry_weight: (B,) of shape, rotation and translation.
        appearance_weight: (B,) of albedo and illumination.
        expression_weight: (B, 52).
        person: (B,) int64, equal for pictures of one person; -1 says nothing.
    """

    pictures: Tensor
    labels: Tensor
    points: Tensor
    points_weight: Tensor
    shape: Tensor
    albedo: Tensor
    expression: Tensor
    own_expression: Tensor
    illumination: Tensor
    rotation: Tensor
    translation: Tensor
    geometry_weight: Tensor
    appearance_weight: Tensor
    expression_weight: Tensor
    person: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Several batches as one."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, index: slice | Tensor) -> Self:
        """A part of the batch."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class WideBatch:
    """Whole pictures for the finder.

    Attributes:
        pictures: (B, 3, S, S) in [-1, 1].
        square: (B, 4) centre x, centre y, side in pixels, angle in radians of the face's FFHQ square.
        present: (B,) bool, whether there is a face.
    """

    pictures: Tensor
    square: Tensor
    present: Tensor
