"""Masks that losses use."""

from __future__ import annotations

import pytest
import torch
from tests.training.samples import ball_head

from copo.camera import Camera
from copo.head.protocol import PARSER_CLASSES
from copo.head.shading import sh_shading
from copo.training.guide import (
    BRIGHTENING,
    HeadGuide,
    HeadView,
    around_eyes,
    around_lips,
    below_mouth,
    covered,
    labelled,
)


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


def head_view(size: int, lip: float, face: torch.Tensor, depth: float) -> HeadView:
    """A head whose lower lip ends at a share of the side, and whose face is as far away as that."""
    landmarks = torch.zeros(1, 68, 2)
    landmarks[:, 57, 1] = lip
    none = torch.zeros(1)
    labels = torch.zeros(1, size, size, dtype=torch.long)
    return HeadView(none, labels, torch.full((1, 1, size, size), depth), face, landmarks, none, None, None)


def test_below_the_mouth_is_the_face_under_the_lip() -> None:
    """Ten rows, of which centres lie at 0.05, 0.15, ...: those from the sixth on are below 0.5; the face ends at 8."""
    face = torch.ones(1, 1, 10, 10)
    face[:, :, 8:] = 0
    mask = below_mouth(head_view(10, 0.5, face, 1.0))[0, 0]
    assert mask.sum(1).tolist() == [0] * 5 + [10] * 3 + [0] * 2


def test_labels_are_known_on_features_and_on_the_skin_that_borders_on_them() -> None:
    """A mouth of one pixel in a face of 9 x 9 that ends below row 6: two pixels of skin around it count, no others."""
    face = torch.zeros(1, 1, 9, 9)
    face[:, :, :6] = 1
    view = head_view(9, 2.0, face, 1.0)  # no chin: the lip ends below the picture
    view.labels[:] = PARSER_CLASSES.index("skin")
    view.labels[0, 4, 4] = PARSER_CLASSES.index("lip_lower")
    view.landmarks[:, 36:48] = -1.0
    known = labelled(view)[0, 0]
    assert known.sum(1).tolist() == [0, 0, 5, 5, 5, 5, 0, 0, 0]
    assert known.sum(0).tolist() == [0, 0, 4, 4, 4, 4, 4, 0, 0]


def test_around_the_lips_is_a_pixel_of_64() -> None:
    """A lip of one pixel; the face ends beside it."""
    face = torch.ones(1, 1, 64, 64)
    face[..., 31:] = 0
    view = head_view(64, 0.5, face, 1.0)
    view.labels[:] = PARSER_CLASSES.index("skin")
    view.labels[0, 40, 30] = PARSER_CLASSES.index("lip_upper")
    near = around_lips(view)[0, 0]
    assert near.nonzero().tolist() == [[y, x] for y in (39, 40, 41) for x in (29, 30)]


def test_cloth_covers_a_face_only_from_before_it() -> None:
    """Face 1 m away. Cloth at 0.9 m covers, at 1.1 m (a collar behind the chin) does not; hair covers in any case."""
    cloth, hair = PARSER_CLASSES.index("cloth"), PARSER_CLASSES.index("hair")
    classes = torch.zeros(1, len(PARSER_CLASSES), 1, 3)
    classes[0, cloth, 0] = torch.tensor([0.8, 0.8, 0.0])
    classes[0, hair, 0] = torch.tensor([0.1, 0.1, 0.6])
    view = head_view(1, 0.5, torch.ones(1, 1, 1, 3), 1.0)
    share = covered(view, classes, torch.tensor([[[0.9, 1.1, 1.1]]]))
    assert share[0, 0, 0].tolist() == pytest.approx([0.9, 0.1, 0.6])


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
