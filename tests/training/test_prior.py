"""Priors: their losses by hand, and whether they learn a distribution."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.training.samples import ball_head, open_head

from copo.config import VaeConfig
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.bfm import bfm_spec
from copo.training.curves import read_expressions
from copo.training.prior import (
    PriorConfig,
    PriorWeights,
    factor_rows,
    frechet_distance,
    kl_divergence,
    prior_config,
    reconstruction_loss,
    save_prior,
    train_prior,
)
from copo.training.stacks import load_priors


def test_reconstruction_loss_by_hand_and_with_an_empty_rest() -> None:
    """The published loss of light is not a number: none of its 27 coefficients lies behind the 32nd."""
    weights = PriorWeights(first_count=2)
    given, decoded = torch.zeros(1, 3), torch.tensor([[1.0, 3.0, 2.0]])
    assert reconstruction_loss(decoded, given, weights).item() == pytest.approx(5 * (1 + 9) / 2 + 4)
    light = reconstruction_loss(torch.ones(4, 27), torch.zeros(4, 27), PriorWeights())
    assert light.item() == pytest.approx(5)


def test_kl_divergence_by_hand() -> None:
    mean, log_variance = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4)]])
    assert kl_divergence(mean, log_variance).item() == pytest.approx(0.5 * 4 + 0.5 * (4 - 1 - math.log(4)))


def test_frechet_distance_of_known_gaussians() -> None:
    """Means 3 apart, deviations 1 and 2: 9 + (2 - 1)^2 in one dimension."""
    torch.manual_seed(0)
    x = torch.randn(20_000, 1)
    assert frechet_distance(x, x * 2 + 3) == pytest.approx(10, rel=0.02)
    y = torch.randn(20_000, 5)
    assert frechet_distance(y, y) == pytest.approx(0, abs=1e-6)


def test_one_normaliser_everywhere_and_the_published_sizes() -> None:
    spec = bfm_spec(80, 80, 64)
    identity, expression, light = (prior_config(f, spec) for f in ("identity", "expression", "illumination"))
    assert identity.network == VaeConfig() and identity.steps == 14_000
    assert expression.network.scales == (4.0,) * 64 and expression.network.latent == 32 and expression.steps == 20_000
    assert light.network.scales == (0.85,) * 27 and light.network.hidden == 128 and light.steps == 17_000
    ours = prior_config("identity", open_head().spec)
    assert ours.network.coefficients == 130 and ours.network.scales == (0.4,) * 80 + (0.5,) * 50


def test_a_prior_learns_where_its_rows_lie(tmp_path: Path) -> None:
    """Rows on a curve in light space, far from N(0, 1): samples come near it, and the report says so."""
    torch.manual_seed(0)
    t = torch.rand(600, 1)
    rows = torch.cat([t, 1 - t, torch.sin(6 * t)], dim=1).repeat(1, 9) + 0.02 * torch.randn(600, 27)
    head = ball_head()
    config = prior_config("illumination", head.spec, steps=400)
    prior, report = train_prior(rows, config)
    assert report.train + report.test == 600 and report.test == 60
    assert report.error < 0.35 * report.spread
    plain = frechet_distance(torch.randn(60, 27), rows[:60] / 0.85)
    assert report.frechet < 0.1 * plain and report.frechet_halves < report.frechet
    drawn = prior.sample(torch.randn(50, 16))
    assert torch.isfinite(drawn).all() and abs(float(drawn[:, :2].sum(1).mean()) - 1) < 0.15
    save_prior(tmp_path / "prior", prior, config, report, head.spec, head)
    assert json.loads((tmp_path / "prior" / "report.json").read_text())["report"]["factor"] == "illumination"
    assert (tmp_path / "prior" / "samples.png").is_file()
    again = load_priors([tmp_path / "prior"])["illumination"]
    latent = torch.randn(3, 16)
    assert torch.equal(again.sample(latent), prior.sample(latent))
    with pytest.raises(CopoError, match="a prior of illumination was given before"):
        load_priors([tmp_path / "prior", tmp_path / "prior"])


def test_identity_counts_once_for_each_person() -> None:
    spec = ball_head().spec
    factors = Factors.random(spec, [0, 1, 2, 3])
    rows = factor_rows(factors, "identity", ["a", "b", "a", "c"])
    assert torch.equal(rows, factors.identity[[0, 1, 3]])
    assert len(factor_rows(factors, "expression", ["a", "b", "a", "c"])) == 4


def test_bad_rows_are_refused() -> None:
    config = PriorConfig("illumination", prior_config("illumination", ball_head().spec).network, steps=1)
    with pytest.raises(CopoError, match=r"rows of shape \(9, 5\), expected \(N, 27\)"):
        train_prior(torch.zeros(9, 5), config)
    with pytest.raises(CopoError, match="too few"):
        train_prior(torch.zeros(3, 27), config)
    with pytest.raises(CopoError, match="not finite"):
        train_prior(torch.full((9, 27), math.nan), config)
    with pytest.raises(CopoError, match="choose id, exp or light"):
        prior_config("pose", ball_head().spec)


def test_expressions_of_livelink_curves(tmp_path: Path) -> None:
    """Columns are named in upper camel case there; unknown ones are left out; values are kept in range."""
    spec = open_head().spec
    (tmp_path / "a.csv").write_text(
        "Timecode,BlendShapeCount,EyeBlinkLeft,JawOpen,HeadYaw\n00:01,61,0.25,0.5,3\n00:02,61,1.5,0,3\n"
    )
    rows = read_expressions(tmp_path, spec)
    blink, jaw = (spec.expression_names.index(n) for n in ("eyeBlinkLeft", "jawOpen"))
    assert rows.shape == (2, 52) and rows[:, blink].tolist() == [0.25, 1.0] and rows[:, jaw].tolist() == [0.5, 0.0]
    assert rows.sum().item() == pytest.approx(1.75)
    (tmp_path / "a.csv").write_text("time,x\n1,2\n")
    with pytest.raises(CopoError, match="no column is named like an expression"):
        read_expressions(tmp_path / "a.csv", spec)
    (tmp_path / "a.csv").write_text("JawOpen\nwide\n")
    with pytest.raises(CopoError, match="frame 1 has 'wide'"):
        read_expressions(tmp_path / "a.csv", spec)
