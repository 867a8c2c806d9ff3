"""Measures on rendered faces, and the verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from tests.preparation.samples import open_head, rendered

from copo.camera import Camera
from copo.factors import Factors
from copo.preparation.config import QualityConfig
from copo.preparation.quality import Measures, colours, face_mask, occlusion, sharpness, verdict

SIZE = 256


def face() -> tuple[np.ndarray, np.ndarray]:
    """A rendered head with skin-like grain, and its face."""
    head = open_head()
    grain = np.random.default_rng(0).normal(0, 6, (SIZE, SIZE, 1))
    picture = (rendered(3, fov=13.0) + grain).clip(0, 255).astype(np.uint8)
    camera = Camera.from_degrees(0.0, 0.0, 13.0)
    factors = Factors.random(head.spec, 3)
    points, _ = camera.project(head.vertices(factors.shape, factors.expression)[:, head.topology.landmarks68])
    return picture, face_mask(points[0].numpy() * SIZE, SIZE)


def test_face_mask_is_the_face() -> None:
    picture, mask = face()
    assert 0.1 < mask.mean() < 0.4
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - SIZE / 2) < 6 and SIZE * 0.4 < rows.mean() < SIZE * 0.75
    assert (picture[mask].astype(int) != 204).any(axis=1).mean() > 0.99  # no background in it


def test_sharpness_falls_with_blur_and_nothing_else() -> None:
    picture, mask = face()
    values = [sharpness(gaussian_filter(picture, (s, s, 0)), mask) for s in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 2 * values[3]
    darker = (picture * 0.5 + 20).astype(np.uint8)
    assert sharpness(darker, mask) == pytest.approx(values[0], rel=0.05)
    small = np.array(Image.fromarray(picture).resize((64, 64), Image.Resampling.LANCZOS))
    enlarged = np.array(Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert sharpness(enlarged, mask) < 0.75 * values[0]
    assert math.isnan(sharpness(np.full_like(picture, 90), mask)) and math.isnan(sharpness(picture, mask & False))


def test_colours_by_hand() -> None:
    mask = np.ones((16, 16), bool)
    grey = np.full((16, 16, 3), 128, np.uint8)
    chroma, brightness, clipped = colours(grey, mask)
    assert chroma == pytest.approx(0, abs=0.01) and brightness == pytest.approx(128 / 255) and clipped == 0
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert colours(red, mask)[0] == pytest.approx(104.55, abs=0.1)  # CIELAB of sRGB red: a = 80.09, b = 67.20
    burnt = grey.copy()
    burnt[:4], burnt[4:6] = 255, 0
    assert colours(burnt, mask)[2] == pytest.approx(6 / 16)


def test_occlusion_by_hand() -> None:
    mesh = np.ones((20, 20), int)
    hair, unlike = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    hair[:12] = True  # a fringe counts only below the brows
    unlike[18:] = True
    assert occlusion(mesh, hair, unlike, below=10) == pytest.approx(4 / 10)
    assert math.isnan(occlusion(mesh * 0, hair, unlike, below=0))


GOOD = Measures(60, 1.5, 0.0, 0.1, 0.35, 15.0, 0.5, 0.01, 0.1, 20.0, -5.0, 2.0, 1.5)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"face": 10.0}, "small", "10 pixels from eye to eye, at least 24"),
        ({"enlargement": 4.0}, "size", "enlarged 4 times"),
        ({"other_face": 0.8}, "faces", "several faces"),
        ({"outside": 0.5}, "cut", "50% is missing, at most 35%"),
        ({"sharpness": 0.1}, "blur", "sharpness 0.100, at least 0.170"),
        ({"colour": 0.5}, "grey", "chroma 0.5"),
        ({"exposure": 0.01}, "dark", "brightness 0.01"),
        ({"clipped": 0.4}, "clipped", "40%"),
        ({"occlusion": 0.7}, "occlusion", "covered: 70%"),
        ({"yaw": -120.0}, "pose", "120 degrees"),
        ({"pitch": 60.0}, "pose", "60 degrees"),
        ({"residual": 20.0}, "fit", "20.0%"),
    ],
)
def test_each_reason_alone(change: dict[str, float], reason: str, words: str) -> None:
    assert verdict(GOOD, QualityConfig()) == []
    ((name, sentence),) = verdict(replace(GOOD, **change), QualityConfig())
    assert name == reason and words in sentence


def test_all_reasons_are_told_and_can_be_switched_off() -> None:
    bad = replace(GOOD, face=5.0, sharpness=0.01, yaw=math.nan)
    assert [name for name, _ in verdict(bad, QualityConfig())] == ["small", "blur"]
    assert verdict(bad, QualityConfig(min_face=0, min_sharpness=0)) == []
    assert Measures(face=12.345678).to_row()["face"] == "12.35" and Measures().to_row()["yaw"] == ""
