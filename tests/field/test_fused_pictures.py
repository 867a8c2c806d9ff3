"""The fused picture networks against the plain ones: on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the fused path needs Triton")

from copo.config import PRESETS, GeneratorConfig
from copo.field.fused.pictures import (
    FusedMapping,
    FusedSuperResolution,
    FusedSynthesis,
    phase_weights,
    pictures_obstacle,
)
from copo.networks.generator import Generator
from copo.networks.layers import upsample_conv_staged

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PUBLISHED = replace(
    PRESETS["tiny"],
    channel_base=512,
    channel_max=64,
    plane_channels=32,
    feature_channels=32,
    sr_channels=(32, 48),
    resampling="fir",
    background_channels=(),
    background_w_dim=0,
)
OURS = replace(PUBLISHED, resampling="folded", sr_styles=False, sr_skip=True, noise_inputs=False)
VARIANTS = {"published": PUBLISHED, "ours": OURS}


def generator(config: GeneratorConfig) -> Generator:
    """Random weights everywhere, noise strengths and biases included."""
    torch.manual_seed(0)
    made = Generator(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.3 / (100 if "mapping" in name else 1))
        made.mapping.w_avg.normal_()
    return made.to(DEVICE).eval()


def assert_near(fused: torch.Tensor, plain: torch.Tensor, tolerance: float) -> None:
    assert fused.shape == plain.shape
    assert (fused.float() - plain).norm() < tolerance * plain.norm()


def test_phases_are_the_upsampling_convolution():
    x, weight = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(6, 3, 3, 3, dtype=torch.float64)
    phases = torch.nn.functional.conv2d(x, phase_weights(weight), padding=1).unflatten(1, (2, 2, 6))
    shuffled = phases.permute(0, 3, 4, 1, 5, 2).reshape(2, 6, 10, 8)
    assert torch.allclose(shuffled, upsample_conv_staged(x, weight, None, 2), atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_mapping(name):
    plain = generator(VARIANTS[name]).mapping
    z, pose = torch.randn(3, VARIANTS[name].latent, device=DEVICE), torch.rand(3, 2, device=DEVICE) + 1
    psi = torch.tensor([[1.0], [0.5], [0.0]], device=DEVICE)
    assert_near(FusedMapping(plain)(z, pose, psi), plain(z, pose, psi), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_planes(name):
    plain = generator(VARIANTS[name]).synthesis
    ws = torch.randn(2, VARIANTS[name].ws_count, VARIANTS[name].w_dim, device=DEVICE)
    planes = FusedSynthesis(plain)(ws)
    assert planes.stride(2) == 1
    assert_near(planes, plain(ws), 3e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_super_resolution(name):
    config = VARIANTS[name]
    plain = generator(config).super_resolution
    features = torch.randn(2, 32, config.raw_resolution, config.raw_resolution, device=DEVICE)
    ws = torch.randn(2, config.ws_count, config.w_dim, device=DEVICE)
    fused = FusedSuperResolution(plain, config)(features.permute(0, 2, 3, 1).contiguous(), ws)
    assert_near(fused, plain(features, ws), 3e-3)


def test_configurations_that_do_not_fit_are_named():
    assert pictures_obstacle(PRESETS["ffhq_512"]) is None
    assert pictures_obstacle(PRESETS["portrait_256"]) is None
    assert "multiples of 16" in str(pictures_obstacle(PRESETS["tiny"]))
    assert "two doublings" in str(pictures_obstacle(replace(PUBLISHED, output_resolution=64)))
