"""A tiny training set of rendered heads, and small networks with generated weights, for tests of training."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from copo.camera import Camera
from copo.factors import Factors, FactorSpec
from copo.formats.dataset import DatasetWriter, Portrait, PortraitDataset
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel, HeadTopology
from copo.head.renderer import render_head
from copo.illumination import NEUTRAL_LIGHT
from copo.training.config import TrainingConfig, training_preset
from copo.training.data import TrainingSet
from copo.training.perception import Perception, Reading

SIDE = 32
torch.set_num_threads(1)  # networks this small are many times slower when threads wait for each other


@cache
def open_head() -> OpenHead:
    return OpenHead.load()


class BallHead(nn.Module):
    """A ball of a head radius with a few hundred vertices, so that steps are quick: `HeadModel` with five units.

    Shape coefficients scale it along axes, units push its front, albedo coefficients change red, green, blue.
    """

    name = "ball"
    UNITS = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp", "eyeBlinkLeft")

    def __init__(self, rings: int = 13, sectors: int = 20) -> None:
        super().__init__()
        polar = torch.linspace(0.02, torch.pi - 0.02, rings)[:, None]
        around = torch.arange(sectors) * (2 * torch.pi / sectors)
        directions = torch.stack(
            [polar.sin() * around.sin(), polar.cos().expand(-1, sectors), polar.sin() * around.cos()], dim=-1
        ).reshape(-1, 3)
        self.register_buffer("directions", directions)
        index = torch.arange(rings * sectors).view(rings, sectors)
        a, b = index[:-1], index[:-1].roll(-1, 1)
        c, d = index[1:], index[1:].roll(-1, 1)
        faces = torch.cat([torch.stack([a, c, d], -1).reshape(-1, 3), torch.stack([a, d, b], -1).reshape(-1, 3)])
        x, y, z = directions.unbind(1)
        labels = torch.full((len(x),), 17)  # hair at the back
        labels[z > -0.3] = 1
        labels[(z > 0.6) & (y < -0.25) & (y > -0.6) & (x.abs() < 0.4)] = 11
        labels[(z > 0.6) & (y > 0.1) & (y < 0.35) & (x > 0.2)] = 4
        labels[(z > 0.6) & (y > 0.1) & (y < 0.35) & (x < -0.2)] = 5
        front = torch.nonzero(z > 0.3)[:, 0]
        landmarks = front[torch.linspace(0, len(front) - 1, 68).long()]
        self.topology = HeadTopology(faces, None, None, labels, landmarks)
        self.spec = FactorSpec("ball", 4, 3, self.UNITS, normalisers={"illumination": 0.85})

    def _apply(self, fn: Any, recurse: bool = True) -> BallHead:
        super()._apply(fn, recurse)
        self.topology = self.topology.to(str(self.directions.device))
        return self

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        axes = 0.09 * (1 + 0.05 * shape[:, None, :3])
        lower = (self.directions[:, 1] < 0).float() * self.directions[:, 2].clamp_min(0)
        upper = (self.directions[:, 1] >= 0).float() * self.directions[:, 2].clamp_min(0)
        push = torch.stack([lower, lower * 0.5, lower * 0.5, upper, upper * 0.5]) * 0.03
        return self.directions * axes + (expression @ push)[..., None] * shape.new_tensor([0.0, -1.0, 0.3])

    def albedo(self, albedo: Tensor) -> Tensor:
        return (0.6 + 0.1 * albedo[:, None]).clamp(0, 1).expand(-1, len(self.directions), -1)


@cache
def ball_head() -> BallHead:
    return BallHead()


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def write_dataset(
    path: Path, head: HeadModel | None = None, people: int = 4, views: int = 2, labels: bool = True
) -> PortraitDataset:
    """Rendered people from several sides on grey, `views` portraits of each."""
    head = head or ball_head()
    count = people * views
    torch.manual_seed(0)
    factors = Factors.random(head.spec, [i // views for i in range(count)])
    low, high = head.spec.expression_range
    expression = (torch.rand(count, head.spec.expression) * 0.5).clamp(max(low, -1), min(high, 1))
    factors = factors.replace(expression=expression, illumination=NEUTRAL_LIGHT.expand(count, -1))
    yaw = torch.pi / 2 + torch.linspace(-0.4, 0.4, count)
    camera = Camera.from_pitch_yaw(torch.full((count,), torch.pi / 2), yaw)
    with torch.no_grad():
        drawn = render_head(head, factors.shape, factors.expression, factors.albedo, factors.illumination, camera, SIDE)
    pictures = (drawn.over(0.5) * 255).byte().permute(0, 2, 3, 1).numpy()
    assert drawn.labels is not None
    with DatasetWriter(path) as writer:
        for i in range(count):
            writer.add(
                Portrait(
                    picture=png(pictures[i]),
                    suffix=".png",
                    camera=camera[i].to_eg3d()[0].numpy(),
                    factors=factors[i],
                    labels=png(drawn.labels[i].byte().numpy()) if labels else None,
                    manifest={"set": "made", "person": str(i // views)},
                )
            )
    return PortraitDataset(path)


class SmallReader(nn.Module):
    """Reads everything with one convolution: a stand-in for the analyser, with generated weights."""

    def __init__(self, expression: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.sizes = (136, expression, 27, 2)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(sum(self.sizes)))
        self.network(torch.zeros(1, 3, SIDE, SIDE))

    def read(self, pictures: Tensor) -> Reading:
        points, expression, light, pose = self.network(pictures).split(self.sizes, dim=1)
        landmarks = points.sigmoid().unflatten(1, (68, 2))
        return Reading(landmarks, None, expression.sigmoid(), light, pose + torch.pi / 2)


class SmallRecogniser(nn.Module):
    """Describes the whole picture; the points move the crop a little, so that a wrong alignment would be noticed."""

    size = 16

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(128, 12))

    def align(self, pictures: Tensor, points: Tensor, validate: bool = True) -> Tensor:
        assert points.shape[1:] == (68, 2) and points.max() > 2  # pixels, not shares
        return nn.functional.interpolate(pictures, (16, 16), mode="bilinear", antialias=True)

    def describe(self, crops: Tensor) -> Tensor:
        return nn.functional.normalize(self.network(crops), dim=1)


class SmallParser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Conv2d(3, 19, 3, padding=1)

    def probabilities(self, pictures: Tensor) -> Tensor:
        return self.network(pictures).softmax(1)


class SmallFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        x = self.first(pictures).relu()
        return [x, self.second(x).relu()]


def perception(head: HeadModel | None = None) -> Perception:
    """The open stack with generated weights."""
    size = (head or ball_head()).spec.expression
    return Perception(SmallReader(size), SmallRecogniser(), SmallParser(), SmallFeatures())


def tiny_config(**changes: object) -> TrainingConfig:
    return replace(training_preset("tiny"), **changes)  # type: ignore[arg-type]


def training_set(path: Path, **options: object) -> TrainingSet:
    head = ball_head()
    return TrainingSet(write_dataset(path, **options), head.spec, 0.0, needs_labels=True)  # type: ignore[arg-type]
