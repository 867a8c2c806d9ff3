"""Augmentation: what it must leave alone, and how its strength moves."""

from __future__ import annotations

import torch

from copo.camera import Camera
from copo.training.augment import AdaptiveStrength, augment, mirrored
from copo.training.conditioning import pose_of
from copo.training.config import AugmentConfig


def pictures() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.randn(64, 6, 4, 4), (32, 32), mode="bilinear")


def test_strength_zero_changes_nothing() -> None:
    given = pictures()
    assert torch.equal(augment(given, 0.0), given)


def test_full_strength_changes_every_picture_and_keeps_it_finite() -> None:
    given = pictures()
    changed = augment(given, 1.0)
    assert torch.isfinite(changed).all()
    assert ((changed - given).abs().amax((1, 2, 3)) > 1e-3).all()


def test_share_of_unchanged_pictures_follows_the_strength() -> None:
    """Nine transforms, each off with probability 0.9: 0.9^9 = 39% of the pictures stay as they are."""
    torch.manual_seed(3)
    given = torch.randn(2000, 3, 8, 8)
    same = (augment(given, 0.1) == given).all(3).all(2).all(1).float().mean()
    assert abs(same.item() - 0.9**9) < 0.04


def test_both_layers_get_the_same_change() -> None:
    """The raw and the final picture are changed alike: equal layers stay equal."""
    given = pictures()
    given[:, 3:] = given[:, :3]
    torch.manual_seed(5)
    changed = augment(given, 1.0)
    assert torch.allclose(changed[:, 3:], changed[:, :3], atol=1e-6)


def test_gradients_reach_the_pictures() -> None:
    given = pictures().requires_grad_(True)
    augment(given, 0.7).square().sum().backward()
    assert given.grad is not None and (given.grad.abs().amax((1, 2, 3)) > 0).all()


def test_grey_pictures_stay_grey_under_turned_hues() -> None:
    """Hue and saturation leave the axis of greys alone; brightness and contrast change all channels alike."""
    grey = pictures()[:, :1].repeat(1, 3, 1, 1)
    torch.manual_seed(6)
    changed = augment(grey, 1.0)
    assert (changed.amax(1) - changed.amin(1)).abs().max() < 1e-4


def test_strength_climbs_when_real_scores_are_sure_and_falls_when_not() -> None:
    config = AugmentConfig(speed_kimg=1.0, interval=4, maximum=0.05)
    strength = AdaptiveStrength(config, images=10)  # 40 of 1000 photographs an adjustment
    strength.adjust(torch.tensor(0.9))
    assert abs(float(strength.strength) - 0.04) < 1e-6
    strength.adjust(torch.tensor(0.9))
    assert abs(float(strength.strength) - 0.05) < 1e-6  # not above the maximum
    for _ in range(3):
        strength.adjust(torch.tensor(0.1))
    assert float(strength.strength) == 0


def test_switched_off_it_passes_pictures_on() -> None:
    strength = AdaptiveStrength(AugmentConfig(enabled=False), images=10)
    strength.strength.fill_(0.8)
    given = pictures()
    assert strength(given) is given
    strength.adjust(torch.tensor(1.0))
    assert abs(float(strength.strength) - 0.8) < 1e-6


def test_mirror_images_have_mirrored_poses() -> None:
    """The camera that stood to one side of the face stands to the other; pitch stays."""
    given = pictures()[:2]
    position = torch.tensor([[0.3, 0.2, 0.9], [0.3, 0.2, 0.9]])
    pose = pose_of(Camera.look_at(position, torch.zeros(3), 0.22))
    seen, turned = mirrored(given, pose, torch.tensor([True, False]))
    assert torch.equal(seen[0], given[0].flip(2)) and torch.equal(seen[1], given[1])
    other = pose_of(Camera.look_at(position * torch.tensor([-1.0, 1.0, 1.0]), torch.zeros(3), 0.22))
    torch.testing.assert_close(turned, torch.stack([other[0], pose[1]]))
