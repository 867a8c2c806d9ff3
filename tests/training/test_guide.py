"""Masks that losses use."""

from __future__ import annotations

import torch
from tests.training.samples import ball_head

from copo.camera import Camera
from copo.head.shading import sh_shading
from copo.training.guide import BRIGHTENING, HeadGuide, HeadView, around_eyes


def test_around_eyes_is_a_disc_around_each_point_of_the_face() -> None:
    """All eye points in the middle of a pixel of 10: at 100 pixels the disc has a radius of 3."""
    landmarks = torch.zeros(1, 68, 2)
    landmarks[:, 36:48] = torch.tensor([0.305, 0.605])  # the centre of pixel 30, 60
    face = torch.ones(1, 1, 100, 100)
    face[:, :, :60] = 0  # hair covers what is above
    none = torch.zeros(1)
    view = HeadView(none, torch.zeros(1, 100, 100, dtype=torch.long), none, face, landmarks, none, None, None)
    mask = around_eyes(view)[0, 0]
    assert mask[60, 28:33].tolist() == [1.0] * 5
    assert mask[60, 26] == 0 and mask[62, 30] == 1 and mask[64, 30] == 0
    assert mask[58, 30] == 0  # covered


def test_brightening_is_the_ratio_of_two_lights_on_the_head_and_1_beside_it() -> None:
    """Light from everywhere alone (the first coefficient of each colour): its ratio is that of the shadings."""
    head, camera = ball_head(), Camera.from_degrees()
    guide = HeadGuide(head, noise=2)
    coefficients = torch.zeros(1, head.spec.identity + head.spec.expression + 27)
    dim, bright = coefficients.clone(), coefficients.clone()
    dim[:, -27:], bright[:, -27:] = light(0.4, 0.4, 0.4), light(0.6, 0.2, 40.0)
    ratio, there = guide.brightening(dim, bright, camera, 16)
    assert there[0, 0, 8, 8] == 1 and there[0, 0, 0, 0] == 0
    assert torch.allclose(ratio[0, :, 8, 8], torch.tensor([1.5, 0.5, BRIGHTENING[1]]), atol=1e-4)
    assert ratio[0, :, 0, 0].tolist() == [1, 1, 1]
    same, _ = guide.brightening(bright, bright, camera, 16)
    assert torch.allclose(same, torch.ones_like(same), atol=1e-5)


def light(*colour: float) -> torch.Tensor:
    """(27,) normalised coefficients whose shading is this colour in every direction."""
    head = ball_head()
    normal = torch.tensor([[[0.0, 0.0, 1.0]]])
    none, one = torch.zeros(1, 27), torch.zeros(1, 27)
    one[:, [0, 9, 18]] = 1.0
    at0, at1 = sh_shading(normal, none)[0, 0], sh_shading(normal, one)[0, 0]
    out = torch.zeros(27)
    out[[0, 9, 18]] = (torch.tensor(colour) - at0) / (at1 - at0) / head.spec.normaliser("illumination")
    return out
