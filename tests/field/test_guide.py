"""A guided backbone: the head's maps reach the planes at their own place, and errors are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from copo.camera import Camera
from copo.config import PRESETS, GeneratorConfig
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.guide import LatentMaps
from copo.field.portrait_field import PortraitField
from copo.head.maps import CHANNELS
from copo.head.open_head import OpenHead
from copo.networks.generator import Generator
from copo.training.drawing import Painter

HEAD = OpenHead.load()
CONFIG = replace(
    PRESETS["tiny"].for_head(replace(HEAD.spec, noise=8)), guide_channels=CHANNELS, guide_resolution=16
)  # fmt: skip


def generator(config: GeneratorConfig = CONFIG) -> Generator:
    torch.manual_seed(0)
    return Generator(config).eval().requires_grad_(False)


def people(**units: float) -> torch.Tensor:
    factors = Factors.random(replace(HEAD.spec, noise=8), seeds=[1, 2])
    return factors.with_expression(**units).to_vector() if units else factors.to_vector()


def test_the_mouth_moves_the_middle_of_the_lower_face_most() -> None:
    """With the latents' own way to the planes closed (psi 0), only the maps tell of the open jaw."""
    field = PortraitField(generator(), head=HEAD)
    shut, wide = (field.planes(people(jawOpen=v), psi=0.0).planes for v in (0.0, 1.0))
    change = (wide - shut).abs().mean(dim=(0, 1, 2))
    assert float(change.max()) > 0
    lower = change[2:9, 4:12].mean()  # rows go up: the mouth lies a little below the middle
    assert lower > 3 * change[12:].mean()


def test_painter_and_field_draw_the_same_planes() -> None:
    network = generator()
    z = people(smile=0.5)
    field = PortraitField(network, head=HEAD)
    pose = torch.full((2, 2), torch.pi / 2)
    painted = Painter(network, head=HEAD).planes(z, pose)
    torch.testing.assert_close(painted.planes, field.planes(z, noise="random").planes, rtol=1e-4, atol=1e-4)
    frame = field.render(field.planes(z), Camera.from_degrees(yaw=10))
    assert torch.isfinite(frame.image).all()


def test_the_packaged_head_is_the_default() -> None:
    z = people()
    torch.testing.assert_close(LatentMaps(CONFIG)(z), LatentMaps(CONFIG, HEAD)(z))


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(CopoError, match="give the head"):
        LatentMaps(replace(CONFIG, expression=5), HEAD)
    with pytest.raises(CopoError, match="guide channels"):
        LatentMaps(replace(CONFIG, guide_channels=3), HEAD)
    with pytest.raises(CopoError, match="guide_resolution"):
        replace(CONFIG, guide_resolution=12)
    ws = torch.zeros(1, CONFIG.ws_count, CONFIG.w_dim)
    with pytest.raises(CopoError, match="give guide"):
        generator().synthesis(ws)
    with pytest.raises(CopoError, match="not guided"):
        generator(PRESETS["tiny"]).synthesis(torch.zeros(1, 99, 16), guide=torch.zeros(1, 16, 16, 16))
