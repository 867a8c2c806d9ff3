"""Label maps against the exact labels of rendered heads, and the order in which the sources decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.preparation.samples import open_head

from copo.camera import Camera
from copo.factors import Factors
from copo.head.renderer import render_head
from copo.illumination import NEUTRAL_LIGHT, directional_light
from copo.preparation.labels import CLOTH, HAIR, HAT, NECK, SKIN, label_map, skin_model, to_lab
from copo.work.engine import one_thread

SIZE = 192


class Scene:
    """A head with jumper and dark hair on a green wall, with its true labels."""

    def __init__(self, seed: int, yaw: float = 0.0, light: torch.Tensor = NEUTRAL_LIGHT, fov: float = 20.0) -> None:
        head = open_head()
        factors = Factors.random(head.spec, seed, light)
        camera = Camera.from_degrees(yaw, 0.0, fov)
        with one_thread():
            render = render_head(
                head, factors.shape, factors.expression, factors.albedo, factors.illumination, camera, SIZE
            )
        assert render.labels is not None
        self.truth = render.labels[0].numpy()
        colour = (render.over(0.5)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        colour[self.truth == 0] = (40, 120, 60)
        colour[self.truth == CLOTH] = (50, 60, 160)
        colour[self.truth == HAIR] = (45, 30, 25)
        self.picture = colour
        vertices = head.vertices(factors.shape, factors.expression)
        self.points = camera.project(vertices[:, head.topology.landmarks68])[0][0].numpy() * SIZE
        self.hair = (self.truth == HAIR).astype(np.float32)
        self.person = (self.truth > 0).astype(np.float32)

    def labels(self, mesh: np.ndarray | None = None, hair: np.ndarray | None = None) -> np.ndarray:
        lab = to_lab(self.picture)
        mesh = self.truth if mesh is None else mesh
        hair = self.hair if hair is None else hair
        skin = skin_model(lab, np.isin(mesh, (1, 10)) & (hair < 0.5))
        return label_map(lab, hair, self.person, mesh, self.points, skin)


def iou(found: np.ndarray, truth: np.ndarray, classes: tuple[int, ...]) -> float:
    a, b = np.isin(found, classes), np.isin(truth, classes)
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(("seed", "yaw"), [(1, 0.0), (4, 30.0), (7, -45.0)])
def test_true_masks_give_true_labels(seed: int, yaw: float) -> None:
    scene = Scene(seed, yaw)
    found = scene.labels()
    assert (found == scene.truth).mean() > 0.96
    for classes in ((0,), (SKIN, 10), (HAIR,), (NECK,), (CLOTH,), (2, 3), (4, 5), (12, 13)):
        assert iou(found, scene.truth, classes) > 0.85, classes


def test_skin_colour_finds_what_the_head_misses() -> None:
    """With a mesh that ends at the jaw, the neck is found by its colour; the jumper is not taken for neck."""
    scene = Scene(2)
    face_only = np.where(np.isin(scene.truth, (NECK, CLOTH, 7, 8)), 0, scene.truth)
    found = scene.labels(mesh=face_only)
    assert iou(found, scene.truth, (NECK,)) > 0.7
    assert iou(found, scene.truth, (CLOTH,)) > 0.85
    ears = np.isin(scene.truth, (7, 8))
    assert (np.isin(found, (7, 8, SKIN)) & ears).sum() > 0.7 * ears.sum()


def test_side_light_does_not_turn_skin_into_cloth() -> None:
    dark_side = directional_light(torch.tensor([1.0, 0.2, 0.3]), intensity=0.9, ambient=0.25)
    scene = Scene(5, light=dark_side)
    assert iou(scene.labels(), scene.truth, (SKIN, 10)) > 0.9


def test_hair_wins_over_the_forehead_but_not_over_the_eyes() -> None:
    scene = Scene(3)
    fringe = scene.hair.copy()
    brow_line = int(scene.points[36:48, 1].mean())
    fringe[: brow_line + 1][scene.truth[: brow_line + 1] > 0] = 1
    scene.picture[(fringe > 0) & np.isin(scene.truth, (SKIN, 10))] = (48, 32, 26)
    found = scene.labels(hair=fringe)
    forehead = (scene.truth == SKIN) & (np.arange(SIZE)[:, None] < brow_line - 6)
    assert (found[forehead] == HAIR).mean() > 0.97
    eyes = np.isin(scene.truth, (2, 3, 4, 5))
    assert (found[eyes] == scene.truth[eyes]).mean() > 0.97


def test_a_hair_mask_that_takes_skin_for_hair_is_not_believed() -> None:
    """Half of the face, and a bald head: what has the colour of skin stays skin."""
    scene = Scene(3)
    wrong = scene.hair.copy()
    wrong[:, : SIZE // 2][scene.truth[:, : SIZE // 2] > 0] = 1
    face = np.isin(scene.truth, (SKIN, 10))
    assert np.isin(scene.labels(hair=wrong)[face], (SKIN, 10)).mean() > 0.97
    scene.picture[scene.truth == HAIR] = np.median(scene.picture[face], axis=0)
    assert np.isin(scene.labels(hair=wrong)[face], (SKIN, 10)).mean() > 0.97


def test_hat_and_fringe_of_hair() -> None:
    """A large part of the person above the brows that is neither hair nor skin is a hat; a thin edge around the hair
    is hair."""
    scene = Scene(6, fov=14.0)
    top = scene.truth == HAIR
    scene.picture[top] = (170, 40, 120)
    hat = scene.labels(hair=np.zeros_like(scene.hair))
    above = top & (np.arange(SIZE)[:, None] < scene.points[17:27, 1].min() - 8)
    assert (hat[above] == HAT).mean() > 0.9
    inner = np.pad(scene.hair, 2)
    shrunk = np.minimum.reduce([inner[i : i + SIZE, j : j + SIZE] for i in (0, 2, 4) for j in (0, 2, 4)])
    found = scene.labels(hair=shrunk)
    assert not (found == HAT).any()
    assert iou(found, scene.truth, (HAIR,)) > iou(np.where(shrunk > 0, HAIR, 0), scene.truth, (HAIR,)) + 0.1


def test_person_mask_decides_what_is_background() -> None:
    scene = Scene(1)
    scene.person[:, : SIZE // 4] = 0
    outside = (np.arange(SIZE)[None] < SIZE // 4 - 2) & (scene.truth == CLOTH)
    assert outside.any() and (scene.labels()[outside] == 0).all()


def test_no_skin_colour_without_pixels() -> None:
    assert skin_model(np.zeros((8, 8, 3)), np.zeros((8, 8), bool)) is None
