"""Learning the open head from fits: the statistics, the file, and what the build makes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.open_head.learn_albedo import Skins, learn, people_weight
from tools.open_head.learned import LEARNED, Learned, shade_mean

from copo.head.open_head import OpenHead, read_asset


def test_components_come_back_through_gaps_and_outliers() -> None:
    rng = np.random.default_rng(1)
    people, size = 400, 60
    mean = rng.normal(0, 1, (size, 3))
    true = np.linalg.qr(rng.standard_normal((size * 3, 2)))[0].T * np.array([[5.0], [2.5]])  # deviations 5 and 2.5
    code = rng.standard_normal((people, 2))
    value = mean + (code @ true).reshape(people, size, 3) + rng.normal(0, 0.05, (people, size, 3))
    weight = (rng.random((people, size)) > 0.4).astype(float)
    beard = rng.random((people, size)) < 0.03
    value[beard] += 4.0
    value *= (weight > 0)[..., None]
    found = learn(Skins(value, weight, np.ones(people)), 2, mean + 0.3, say=lambda text: None)
    for k in range(2):
        own = found.components[k].reshape(-1)
        assert abs(own @ true[k]) / np.linalg.norm(own) / np.linalg.norm(true[k]) > 0.97
        assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(true[k]), rel=0.15)  # gaps do not shrink them
    assert np.abs(found.mean - mean).max() < 0.3
    assert found.seen.mean() == pytest.approx(0.6, abs=0.03)


def test_no_set_rules_the_mean() -> None:
    weight = people_weight(np.array(["large"] * 100 + ["small"] * 4))
    assert weight.mean() == pytest.approx(1)
    assert weight[:100].sum() / weight[100:].sum() == pytest.approx(5)  # the square root of 100 / 4


def test_the_file_keeps_what_it_is_given_whatever_the_memory_order(tmp_path: Path) -> None:
    learned = Learned.load()
    path = tmp_path / "again.safetensors"
    replace(learned, skin=np.asfortranarray(learned.skin)).save(path)
    again = Learned.load(path)
    np.testing.assert_allclose(again.skin, learned.skin, atol=2e-3)
    assert again.facts == learned.facts
    assert path.read_bytes() == LEARNED.read_bytes()  # and writing is exact


def test_what_was_learned_is_small_and_from_many_people() -> None:
    learned = Learned.load()
    assert LEARNED.stat().st_size < 1_000_000
    assert isinstance(learned.facts["people"], int) and learned.facts["people"] > 1000
    assert (
        len(learned.skin) == 34 and bool((learned.shape_scale <= 1.1).all()) and bool((learned.shape_scale > 0.2).all())
    )
    with resources.as_file(resources.files("copo") / "assets/open_head.safetensors") as path:
        assert read_asset(path)[1]["learned"] == learned.facts  # the asset was built from this file


def test_half_of_the_brightness_of_bare_skin_is_drawn() -> None:
    drawn = np.log(-np.log(np.full((4, 3), 0.6)))
    lit = -np.log(np.array([0.6, 0.6, 0.3, 0.3]))[:, None] * np.ones(3)
    mixed = np.exp(shade_mean(drawn, np.log(lit), np.array([1.0, 1.0, 1.0, 0.0])))
    density = -np.log(0.6), -np.log(0.3)
    level = density[0] + (density[1] - density[0]) / 3  # of the three bare vertices
    np.testing.assert_allclose(mixed[:2], (density[0] + level) / 2)
    np.testing.assert_allclose(mixed[2], (density[1] + level) / 2)
    np.testing.assert_allclose(mixed[3], density[1])  # brows and lips keep their own


def test_learned_skin_is_the_same_on_both_sides_and_leaves_the_eyes_alone() -> None:
    head = OpenHead.load()
    learned = Learned.load()
    colour = head.albedo(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)))
    plain = torch.zeros(1, 50)
    plain[0, head.albedo_names.index("skin_05")] = 2.0
    right, left = head.albedo(plain)[0, learned.mirror], head.albedo(plain)[0, learned.vertices]
    assert float((right - left).abs().quantile(0.99)) < 0.05
    eyes = torch.isin(head.topology.labels, torch.tensor([4, 5]))
    assert float((head.albedo(plain) - head.albedo(plain * 0))[0, eyes].abs().max()) < 0.08
    assert bool(colour.isfinite().all())
