"""The graphed field gives the plain one's pictures: on a GPU as CUDA graphs, otherwise its kernels interpreted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the fused path needs Triton")

from copo.camera import Camera
from copo.config import PRESETS
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.blending import Blend
from copo.field.graphs import Graph, GraphedPortraitField, fast_field, graph_obstacle
from copo.field.portrait_field import PortraitField, PortraitFrame, Reference
from copo.head.maps import CHANNELS
from copo.head.open_head import OpenHead
from copo.networks.generator import Generator

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = replace(
    PRESETS["tiny"],
    channel_base=256,
    channel_max=32,
    plane_channels=16,
    feature_channels=16,
    sr_channels=(16, 16),
    raw_resolution=8,
    coarse_samples=5,
    fine_samples=4,
)
VOLUME_ONLY = replace(SMALL, background_channels=(), background_w_dim=0, resampling="fir", pixel_grid="corners")
CAMERA = Camera.from_pitch_yaw(torch.tensor([1.5]), torch.tensor([1.3]))


def fields(config):
    torch.manual_seed(0)
    generator = Generator(config).to(DEVICE).eval()
    return PortraitField(generator, backend="torch"), GraphedPortraitField(generator)


def latent(config, seed, count=1):
    return torch.randn(count, config.latent, generator=torch.Generator().manual_seed(seed))


def assert_same_picture(fast: PortraitFrame, plain: PortraitFrame, decibels: float = 40.0) -> None:
    error = (fast.image - plain.image).square().mean()
    assert 10 * torch.log10(4 / error) > decibels
    for name in ("raw", "features", "depth", "alpha", "classes"):
        a, b = getattr(fast, name), getattr(plain, name)
        assert a.shape == b.shape
        assert (a - b).abs().max() < 0.02 * max(1.0, float(b.abs().max())), name


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, VOLUME_ONLY], ids=["background branch", "volume only"])
def test_pictures(config):
    plain, fast = fields(config)
    z = latent(config, 1).to(DEVICE)
    expected = plain.render(plain.planes(z, psi=0.8), CAMERA)
    assert_same_picture(fast.frame(z, CAMERA, psi=0.8), expected)
    planes = fast.planes(z, psi=0.8)
    assert_same_picture(fast.render(planes, CAMERA), expected)
    fast.planes(latent(config, 2).to(DEVICE))  # must not touch the first portrait
    assert_same_picture(fast.render(planes, CAMERA), expected)


@torch.no_grad()
def test_a_guided_backbone():
    """Its planes come from the plain networks in half precision, fed with the same maps of the head."""
    spec = OpenHead.load().spec
    config = replace(SMALL.for_head(replace(spec, noise=8)), guide_channels=CHANNELS, guide_resolution=16)
    plain, fast = fields(config)
    factors = Factors.random(replace(spec, noise=8), seeds=[4]).with_expression(jawOpen=0.8)
    z = (factors.to_vector() * 0.3).to(DEVICE)
    expected = plain.render(plain.planes(z), CAMERA)
    assert_same_picture(fast.frame(z, CAMERA), expected)
    assert_same_picture(fast.render(fast.planes(z), CAMERA), expected)


@torch.no_grad()
def test_one_portrait_before_two_cameras():
    plain, fast = fields(VOLUME_ONLY)
    z = latent(VOLUME_ONLY, 1).to(DEVICE)
    cameras = Camera.from_pitch_yaw(torch.tensor([1.5, 1.6]), torch.tensor([1.3, 1.9]))
    assert_same_picture(fast.render(fast.planes(z), cameras), plain.render(plain.planes(z), cameras))


@torch.no_grad()
def test_blended_with_every_class_static_is_the_reference():
    config = SMALL
    _, fast = fields(config)
    z, other = latent(config, 1).to(DEVICE), latent(config, 2).to(DEVICE)
    reference = Reference(fast.planes(z))
    expected = fast.render(reference.planes, CAMERA)
    blended = fast.frame(other, CAMERA, blend=Blend(frozenset(range(19))), reference=reference)
    assert (blended.features - expected.features).abs().max() < 1e-5 * expected.features.abs().max()
    moved = fast.frame(-other, CAMERA, blend=Blend(frozenset(range(19))), reference=reference)
    assert torch.equal(moved.features, blended.features)
    assert torch.equal(moved.image, blended.image)


@torch.no_grad()
def test_one_reference_serves_several_frames():
    _, fast = fields(SMALL)
    reference = Reference(fast.planes(latent(SMALL, 2).to(DEVICE)))
    z, blend = latent(SMALL, 3, 2).to(DEVICE), Blend(frozenset(range(9)))
    together = fast.frame(z, CAMERA, blend=blend, reference=reference)
    alone = fast.frame(z[1:], CAMERA, blend=blend, reference=reference)
    assert (together.features[1] - alone.features[0]).abs().max() < 0.01 * alone.features.abs().max()


@torch.no_grad()
def test_what_a_graph_cannot_do_is_done_plainly():
    plain, fast = fields(VOLUME_ONLY)
    z = latent(VOLUME_ONLY, 1).to(DEVICE)
    expected = plain.render(plain.planes(z), CAMERA, normals=True)
    found = fast.render(fast.planes(z), CAMERA, normals=True)
    assert (found.normals * expected.normals).sum(1).median() > 0.99


def test_graph_follows_its_inputs():
    graph = Graph(lambda x, y: (x + y, None))
    x, y = torch.ones(3, device=DEVICE), torch.arange(3.0, device=DEVICE)
    assert graph(x, y)[0].tolist() == [1, 2, 3]
    assert graph(y, y)[0].tolist() == [0, 2, 4]
    y += 1
    assert graph(y, x)[0].tolist() == [2, 3, 4]


def test_where_it_does_not_fit_the_plain_field_serves():
    generator = Generator(PRESETS["tiny"]).to(DEVICE)
    obstacle = graph_obstacle(generator)
    assert obstacle is not None and "powers of two" in obstacle
    with pytest.raises(CopoError, match="powers of two"):
        GraphedPortraitField(generator)
    if DEVICE == "cuda":
        with pytest.warns(RuntimeWarning, match="plain PyTorch"):
            assert type(fast_field(generator)) is PortraitField
    else:
        assert type(fast_field(generator)) is PortraitField


def test_blending_needs_a_reference():
    _, fast = fields(VOLUME_ONLY)
    with pytest.raises(CopoError, match="reference"):
        fast.frame(latent(VOLUME_ONLY, 1).to(DEVICE), CAMERA, blend=Blend.of("both"))
