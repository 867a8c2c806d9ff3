"""Networks that look at generated portraits and pass gradients back: what training needs of them, and adapters.

Two stacks fill it: the open one, and the published one (Deep3DFaceRecon, ArcFace, BiSeNet) from the user's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from copo.camera import Camera
from copo.errors import CopoError
from copo.head.protocol import HeadModel
from copo.training.conditioning import pose_of
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.networks.analyser import AnalyserNetwork, decode_translation
from copo.vision.networks.deep3d import SIZES
from copo.vision.portrait_pose import camera_of


@dataclass(frozen=True)
class Reading:
    """What a network finds in portraits; None for what it does not look for.

    Attributes:
        landmarks68: (B, 68, 2) iBUG landmarks as shares of the picture's side.
        landmarks478: (B, 478, 2) MediaPipe's.
        expression: (B, n) in the head model's units.
        illumination: (B, 27), in the frame that training renders heads in.
        pose: (B, 2) pitch and yaw, radians.
    """

    landmarks68: Tensor | None = None
    landmarks478: Tensor | None = None
    expression: Tensor | None = None
    illumination: Tensor | None = None
    pose: Tensor | None = None


class Reader(Protocol):
    """Finds factors in aligned portraits, differentiably."""

    def read(self, pictures: Tensor) -> Reading:
        """(B, 3, H, W) in [-1, 1] -> what it finds."""
        ...


class Descriptor(Protocol):
    """Recognises people, differentiably (a `copo.vision.protocols.Recogniser`)."""

    def align(self, pictures: Tensor, points: Tensor, validate: bool = True) -> Tensor:
        """(B, 3, H, W) and landmarks (B, 68, 2) in pixels -> aligned crops; unless asked to, it never waits."""
        ...

    def describe(self, crops: Tensor) -> Tensor:
        """Aligned crops -> (B, D) of length 1."""
        ...


class ClassParser(Protocol):
    """Finds the 19 classes of a face parser."""

    def probabilities(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 19, H, W)."""
        ...


class FeatureMaps(Protocol):
    """Perceptual features."""

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> maps (B, C_i, h_i, w_i)."""
        ...


@dataclass(frozen=True)
class Perception:
    """The networks of one training; None for those that are not there.

    Attributes:
        reader: Landmarks, expression, light, pose.
        recogniser: Identity.
        parser: Classes.
        features: Perceptual maps.
    """

    reader: Reader | None = None
    recogniser: Descriptor | None = None
    parser: ClassParser | None = None
    features: FeatureMaps | None = None

    @property
    def sight(self) -> FeatureMaps | None:
        """Whose maps the critic looks at: the reader's where it has any (they know faces), otherwise the features'."""
        return self.reader if isinstance(self.reader, OpenReader) else self.features

    def to(self, device: str) -> Perception:
        """Move the networks, in place; their weights stop learning."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device).eval().requires_grad_(False)
        return self

    def require(self, part: str, why: str) -> None:
        """Refuse a training whose losses need a network that is not there.

        Raises:
            CopoError: `part` is None.
        """
        if getattr(self, part) is None:
            raise CopoError(f"loss {why} needs a {part}: give its files, or set the weight to 0")


class OpenReader(nn.Module):
    """The analyser as reader and as parser of FFHQ-aligned portraits.

    Args:
        network: The analyser, in evaluation mode.
    """

    def __init__(self, network: AnalyserNetwork) -> None:
        super().__init__()
        self.network = network

    def read(self, pictures: Tensor) -> Reading:
        """See `Reader`."""
        found = self.network(self._scaled(pictures))
        camera = camera_of(found.rotation, decode_translation(found.translation))
        return Reading(found.points68, found.points478, found.expression, found.illumination, pose_of(camera))

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """See `FeatureMaps`: those of the analyser's backbone at 1/4 to 1/32."""
        return self.network.backbone.maps((self._scaled(pictures) * 127.5 + 0.5) / 128)[1:]

    def probabilities(self, pictures: Tensor) -> Tensor:
        """See `ClassParser`."""
        labels = self.network(self._scaled(pictures)).labels
        return F.interpolate(labels, pictures.shape[2:], mode="bilinear", align_corners=False).softmax(1)

    def _scaled(self, pictures: Tensor) -> Tensor:
        side = self.network.config.size
        if pictures.shape[-1] == side:
            return pictures
        return F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False, antialias=True)


class Deep3DReader(nn.Module):
    """The published reader: coefficients of the Basel Face Model, landmarks through its mesh.

    Portraits that are aligned as the method does show just what the network expects, so the whole picture is its crop.

    Args:
        reconstructor: With its weights.
        head: The Basel Face Model, whose first coefficients are those of the network.
    """

    def __init__(self, reconstructor: Deep3DReconstructor, head: HeadModel) -> None:
        super().__init__()
        self.reconstructor = reconstructor
        self.head = head

    def read(self, pictures: Tensor) -> Reading:
        """See `Reader`."""
        side = self.reconstructor.size
        crops = F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False, antialias=True)
        values = self.reconstructor.coefficients(crops)
        parts = dict(zip(SIZES, values.split(list(SIZES.values()), dim=1), strict=True))
        spec = self.head.spec
        vertices = self.head.vertices(parts["shape"][:, : spec.shape], parts["expression"][:, : spec.expression])
        translation = values.new_zeros(len(values), 3)
        translation = translation + F.pad(parts["shift"], (0, 1)) + F.pad(parts["z"], (2, 0))
        camera = Camera.from_deep3d(parts["angles"], translation)
        landmarks, _ = camera.project(vertices[:, self.head.topology.landmarks68])
        return Reading(
            landmarks68=landmarks,
            expression=parts["expression"][:, : spec.expression],
            illumination=parts["illumination"],
            pose=pose_of(camera),
        )
