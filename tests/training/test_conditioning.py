"""Cameras, poses and factors that are drawn at random."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.samples import ball_head, open_head

from copo.camera import Camera
from copo.config import LightPriorConfig, VaeConfig
from copo.errors import CopoError
from copo.head.shading import sh_shading
from copo.networks.conditional_priors import LightPrior
from copo.networks.vae import Vae
from copo.training.conditioning import (
    FactorSampler,
    conditioning_pose,
    driven_cameras,
    lamps,
    pose_of,
    random_expressions,
    turn_cameras,
)
from copo.training.config import ConditionConfig, DrawConfig

ANGLE = st.floats(-0.9, 0.9)


@settings(max_examples=30, deadline=None)
@given(pitch=st.floats(-0.4, 0.4), yaw=ANGLE, turn=ANGLE, lift=st.floats(-0.4, 0.4))
def test_turning_adds_to_pitch_and_yaw(pitch: float, yaw: float, turn: float, lift: float) -> None:
    """On the method's sphere: yaw grows towards +x, a smaller azimuth; lifting makes the polar angle smaller."""
    camera = Camera.from_pitch_yaw(math.pi / 2 - pitch, math.pi / 2 - yaw)
    turned = turn_cameras(camera, torch.tensor([turn]), torch.tensor([lift]))
    expected = Camera.from_pitch_yaw(math.pi / 2 - pitch - lift, math.pi / 2 - yaw - turn)
    assert torch.allclose(turned.cam2world, expected.cam2world, atol=2e-5)
    assert torch.allclose(
        pose_of(turned), torch.tensor([[math.pi / 2 - pitch - lift, math.pi / 2 - yaw - turn]]), atol=1e-4
    )


def test_turning_keeps_roll_and_framing_of_a_photographs_camera() -> None:
    camera = Camera.look_at(torch.tensor([[0.2, 0.1, 1.1]]), torch.tensor([[0.01, 0.02, 0.0]]), (0.2, 1.0, 0.0))
    turned = turn_cameras(camera, torch.tensor([0.5]), torch.zeros(1))
    centre = torch.zeros(1, 1, 3)
    assert torch.allclose(turned.project(centre)[0], camera.project(centre)[0], atol=1e-5)
    assert torch.allclose(turned.position.norm(dim=1), camera.position.norm(dim=1))


def test_driven_cameras_cover_the_asked_range() -> None:
    cameras = Camera.from_pitch_yaw(torch.full((50,), math.pi / 2), torch.linspace(1.2, 1.9, 50))
    config = DrawConfig(max_yaw=1.0, max_pitch=0.3)
    drawn = driven_cameras(cameras, 500, config, torch.Generator().manual_seed(0))
    pose = pose_of(drawn) - math.pi / 2
    assert pose[:, 1].abs().max() <= 1.0 + 1e-4 and pose[:, 0].abs().max() <= 0.3 + 1e-4
    assert pose[:, 1].min() < -0.95 and pose[:, 1].max() > 0.95


def test_driven_cameras_are_framed_like_photographs_of_that_pose() -> None:
    """Fronts are framed closely, profiles from farther off: so are drawn cameras of either side."""
    front = Camera.from_pitch_yaw(torch.full((20,), 1.5), torch.linspace(1.5, 1.6, 20), radius=1.0)
    side = Camera.from_pitch_yaw(torch.full((20,), 1.5), torch.linspace(0.5, 0.6, 20), radius=1.3)
    config = DrawConfig(max_yaw=1.1, max_pitch=0.01)
    drawn = driven_cameras(Camera.cat([front, side]), 400, config, torch.Generator().manual_seed(0))
    radius, yaw = drawn.position.norm(dim=1), math.pi / 2 - pose_of(drawn)[:, 1]
    assert (radius[yaw > 0.75] > 1.2).float().mean() > 0.98
    assert (radius[yaw < 0.3] < 1.1).float().mean() > 0.98


def test_conditioning_pose_is_swapped_half_of_the_time() -> None:
    camera = Camera.from_pitch_yaw(torch.full((4000,), 1.4), torch.full((4000,), 1.1))
    config = ConditionConfig()
    pose = conditioning_pose(camera, config, torch.Generator().manual_seed(0))
    own = (pose - pose_of(camera)).abs().amax(1) < 1e-6
    assert abs(own.float().mean().item() - 0.5) < 0.03
    spread = (pose[~own] - math.pi / 2).std(dim=0)
    assert torch.allclose(spread, torch.tensor([0.155, 0.3]), rtol=0.1)
    frontal = conditioning_pose(camera, ConditionConfig(pose="frontal"), torch.Generator())
    assert torch.equal(frontal, torch.full((4000, 2), math.pi / 2))


def test_random_expressions_use_every_unit_sparsely_and_stay_in_range() -> None:
    spec = open_head().spec
    drawn = random_expressions(spec, 3000, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (3000, 52) and drawn.min() >= 0 and drawn.max() <= 1
    assert (drawn.amax(0) > 0.5).all()
    assert (drawn > 0).sum(1).float().mean() < 10
    up, down = (spec.expression_names.index(f"eyeLook{d}Left") for d in ("Up", "Down"))
    assert ((drawn[:, up] == 0) | (drawn[:, down] == 0)).all()


def camera_at(yaw: float) -> Camera:
    """One metre away on the horizon, `yaw` degrees from the front towards +x."""
    return turn_cameras(Camera.from_degrees(), torch.tensor([math.radians(yaw)]), torch.zeros(1))


def sampler(**priors: Vae) -> FactorSampler:
    spec = ball_head().spec
    torch.manual_seed(0)
    table = torch.arange(6.0)[:, None] + torch.zeros(6, spec.total - spec.noise)
    return FactorSampler(spec, table, priors, DrawConfig(expression_jitter=0.0))


def test_natural_factors_are_recombined_from_photographs() -> None:
    """Every factor of one row comes from one photograph, different factors from different ones."""
    rows = sampler().natural(200, torch.Generator().manual_seed(0), camera_at(0).expand(200))
    parts = sampler().slices
    for name in ("identity", "expression", "illumination"):
        assert (rows[:, parts[name]] == rows[:, parts[name].start : parts[name].start + 1]).all()
    assert (rows[:, parts["identity"].start] != rows[:, parts["expression"].start]).any()
    assert len(rows[:, 0].unique()) == 6


def test_light_of_natural_portraits_fits_who_is_seen_from_where() -> None:
    """Identity is one number from 0 to 5, x of the camera 0 or 1: light is 10 times the first plus 100 the second."""
    drawn = sampler()
    size, count = drawn.spec.identity, drawn.spec.illumination
    prior = LightPrior(LightPriorConfig(size, count))
    prior.gain[:, 0], prior.gain[:, size], prior.spread[:] = 10, 100, 0
    drawn.light_prior = prior
    rows = drawn.natural(2, torch.Generator().manual_seed(0), Camera.cat([camera_at(0), camera_at(90)]))
    light = rows[:, drawn.slices["illumination"]]
    torch.testing.assert_close(light, (10 * rows[:, :1] + torch.tensor([[0.0], [100.0]])).expand(2, count))


def test_driven_factors_keep_the_person() -> None:
    base = torch.full((50, ball_head().spec.total - 128), 0.3)
    driven = sampler().driven(base, torch.Generator().manual_seed(0))
    parts = sampler().slices
    assert torch.equal(driven[:, parts["identity"]], base[:, parts["identity"]])
    assert not torch.equal(driven[:, parts["expression"]], base[:, parts["expression"]])
    assert torch.isfinite(driven).all()


def test_lamps_come_from_the_front_and_from_either_side() -> None:
    light = lamps(500, torch.Generator().manual_seed(0))
    sides = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    right, left, front = sh_shading(sides.expand(500, 3, 3), light).unbind(1)
    assert torch.allclose(right[:, 0], right[:, 2], atol=1e-5)  # white
    assert 0.4 < float((right > left)[:, 0].float().mean()) < 0.6
    assert (front > 0).all() and (front > torch.minimum(left, right)).all()


def test_priors_replace_photographs_in_the_networks_units() -> None:
    spec = ball_head().spec
    torch.manual_seed(0)
    prior = Vae(VaeConfig(coefficients=27, latent=4, hidden=8, blocks=1, scales=(0.85,)))
    drawn = sampler(illumination=prior).factor("illumination", 5, torch.Generator().manual_seed(3))
    latent = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(drawn * spec.normaliser("illumination"), prior.sample(latent), atol=1e-6)


def test_a_prior_of_another_head_is_refused() -> None:
    with pytest.raises(CopoError, match="prior expression: 64 coefficients, head 'ball' has 5"):
        sampler(expression=Vae(VaeConfig(coefficients=64, latent=4, hidden=8, scales=(4.0,))))
