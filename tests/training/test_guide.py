"""Masks that losses use."""

from __future__ import annotations

import torch

from copo.training.guide import HeadView, around_eyes


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
