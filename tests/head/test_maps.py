"""The head's maps: where things lie in them, and that factors change what they should."""

from __future__ import annotations

import pytest
import torch

from copo.head.classes import class_numbers
from copo.head.maps import CHANNELS, DEPTH_UNIT, PARTS, head_maps
from copo.head.open_head import OpenHead

SIDE, HALF = 96, 0.185


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


def draw(head: OpenHead, **units: float) -> torch.Tensor:
    expression = torch.zeros(1, 52)
    for name, value in units.items():
        expression[0, head.spec.expression_names.index(name)] = value
    spec = head.spec
    return head_maps(
        head, torch.zeros(1, spec.shape), torch.zeros(1, spec.albedo), expression, torch.zeros(1, 27), SIDE, HALF
    )


def part(maps: torch.Tensor, name: str) -> torch.Tensor:
    index = next(i for i, classes in enumerate(PARTS) if class_numbers(name)[0] in classes)
    return maps[0, 8 + index]


def test_a_landmark_lies_at_its_own_x_and_y(head: OpenHead) -> None:
    """Texel (row, column) shows y = HALF (2 (row + 0.5) / SIDE - 1), x likewise: rows go up."""
    maps = draw(head)
    assert maps.shape == (1, CHANNELS, SIDE, SIDE)
    tip = head.vertices(torch.zeros(1, 80), torch.zeros(1, 52))[0, head.topology.landmarks68[30]]
    column, row = ((tip[:2] / HALF + 1) / 2 * SIDE).int().tolist()
    assert part(maps, "nose")[row, column] == 1 and maps[0, 0, row, column] == 1
    assert float(maps[0, 1, row, column]) * DEPTH_UNIT == pytest.approx(float(tip[2]), abs=3e-3)
    assert float(maps[0, 4, row, column]) > 0.7  # the nose's tip looks to the front
    brows, lips = (part(maps, name).nonzero()[:, 0].float().mean() for name in ("brow_left", "lip_lower"))
    assert brows > row > lips  # +y is up


def test_expressions_and_light_reach_the_maps(head: OpenHead) -> None:
    rest, jaw, blink = draw(head), draw(head, jawOpen=1.0), draw(head, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    assert part(jaw, "mouth_interior").sum() > part(rest, "mouth_interior").sum() + 10
    assert part(blink, "eye_left").sum() < 0.3 * part(rest, "eye_left").sum()
    spec = head.spec
    dark = head_maps(
        head,
        torch.zeros(1, spec.shape),
        torch.zeros(1, spec.albedo),
        torch.zeros(1, 52),
        torch.full((1, 27), -0.3),
        SIDE,
        HALF,
    )
    assert dark[0, 5:8].mean() < rest[0, 5:8].mean()


def test_nothing_beside_the_head(head: OpenHead) -> None:
    maps = draw(head)
    outside = maps[0, 0] == 0
    assert outside.any() and float(maps[0][:, outside].abs().max()) == 0
