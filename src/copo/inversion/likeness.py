"""How far rendered portraits are from photographs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from copo.field.portrait_field import PortraitFrame
from copo.inversion.config import PhotoWeights
from copo.inversion.photographs import Photographs
from copo.training import losses
from copo.training.perception import Perception
from copo.training.scene import resize


@dataclass(frozen=True)
class Error:
    """How unlike one rendering is to its photograph.

    Attributes:
        difference: Mean absolute difference, of 255.
        psnr: Peak signal-to-noise ratio, decibels.
        perceptual: Distance of EfficientNet-Lite0's features, 0 to 4; NaN without the network.
        identity: Cosine of dlib's face descriptors, 1 for the same face; NaN without the network.
    """

    difference: float
    psnr: float
    perceptual: float
    identity: float


class Likeness:
    """Compares portraits with photographs; what is known of these is computed once.

    Args:
        photographs: On the device.
        perception: Networks; `features` and `recogniser` are used where they are there.
        weights: Of the losses.
        raw: Side of the picture before super-resolution.
    """

    def __init__(self, photographs: Photographs, perception: Perception, weights: PhotoWeights, raw: int) -> None:
        self.photographs, self.perception, self.weights = photographs, perception, weights
        pictures = photographs.pictures
        self.raw = resize(pictures, raw)
        importance = 1 + (weights.face - 1) * photographs.face
        self.importance = importance / importance.mean(dim=(1, 2, 3), keepdim=True)
        self.importance_raw = resize(self.importance, raw)
        with torch.no_grad():
            self.maps = None if perception.features is None else perception.features.maps(pictures)
            self.descriptors = None if perception.recogniser is None else self._describe(pictures, slice(None))
        self.labels = photographs.labels
        if self.labels is not None:
            step = self.labels.shape[-1] // raw
            self.labels = self.labels[:, step // 2 :: step, step // 2 :: step][:, :raw, :raw]

    def losses(self, frame: PortraitFrame, part: list[int]) -> dict[str, Tensor]:
        """Weighted losses of portraits against some of the photographs.

        Args:
            frame: (B) portraits.
            part: B photographs.
        """
        w, out = self.weights, {}
        target = self.photographs.pictures[part]
        out["image"] = w.image * losses.picture_distance(frame.image, target, self.importance[part])
        out["raw"] = w.raw * losses.picture_distance(frame.raw, self.raw[part], self.importance_raw[part])
        if self.maps is not None and self.perception.features is not None and w.perceptual:
            theirs = [m[part] for m in self.maps]
            mine = self.perception.features.maps(frame.image)
            out["perceptual"] = w.perceptual * losses.perceptual_distance(mine, theirs, self.importance[part])
        if self.descriptors is not None and w.identity:
            out["identity"] = w.identity * losses.descriptor_distance(
                self._describe(frame.image, part), self.descriptors[part]
            )
        if self.labels is not None:
            labels = self.labels[part]
            if w.opacity:
                out["opacity"] = w.opacity * losses.opacity_distance(frame.alpha, (labels != 0).float())
            if w.labels and frame.classes.shape[1] > int(labels.max()):
                out["labels"] = w.labels * losses.class_cross_entropy(frame.classes, labels)
        return out

    @torch.no_grad()
    def error(self, image: Tensor, index: int) -> Error:
        """How far one picture (1, 3, S, S) is from a photograph."""
        image = image.clamp(-1, 1)
        target = self.photographs.pictures[index : index + 1]
        squared = float((image - target).square().mean()) / 4
        perceptual = identity = math.nan
        if self.maps is not None and self.perception.features is not None:
            theirs = [m[index : index + 1] for m in self.maps]
            perceptual = float(losses.perceptual_distance(self.perception.features.maps(image), theirs))
        if self.descriptors is not None:
            mine = self._describe(image, [index])
            identity = 1 - float(losses.descriptor_distance(mine, self.descriptors[index : index + 1]))
        return Error(
            difference=float((image - target).abs().mean()) * 127.5,
            psnr=-10 * math.log10(max(squared, 1e-10)),
            perceptual=perceptual,
            identity=identity,
        )

    def _describe(self, pictures: Tensor, part: slice | list[int]) -> Tensor:
        recogniser = self.perception.recogniser
        assert recogniser is not None
        return recogniser.describe(recogniser.align(pictures, self.photographs.points68[part]))
