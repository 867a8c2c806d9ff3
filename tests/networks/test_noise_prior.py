"""Codes that go with identities: what is learned from people, and that codes stay N(0, 1)."""

from __future__ import annotations

from pathlib import Path

import torch

from copo.formats.checkpoint import Checkpoint, StoredNetwork, load_checkpoint, save_checkpoint
from copo.networks.build import load, load_noise_prior
from copo.networks.noise_prior import NoisePrior, fit_noise_prior
from copo.portrait import Portrait


def people() -> tuple[torch.Tensor, torch.Tensor]:
    """4,000 people; the first number of their codes follows the second coefficient: 0.8 of its variance of 1."""
    torch.manual_seed(0)
    identity = torch.randn(4000, 3) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 5.0, 0.0])
    codes = torch.randn(4000, 2) * torch.tensor([0.2**0.5, 1.0])
    codes[:, 0] += 0.8**0.5 * (identity[:, 1] - 5) / 2
    return codes, identity


def test_codes_follow_who_they_are_for() -> None:
    """A person one deviation above the mean: sqrt(0.8) / 1.3, for the ridge of 0.3 divides by 1.3."""
    prior = fit_noise_prior(*people())
    mean = prior(torch.zeros(2, 2), torch.tensor([[0.0, 5.0, 0.0], [0.0, 7.0, 0.0]]))
    torch.testing.assert_close(mean[0], torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(mean[1], torch.tensor([0.8**0.5 / 1.3, 0.0]), atol=0.06, rtol=0)


def test_codes_of_all_people_are_standard_normal() -> None:
    codes, identity = people()
    prior = fit_noise_prior(codes, identity)
    drawn = prior(torch.randn(4000, 2), identity)
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(2), atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(2), atol=0.06, rtol=0)


def test_few_people_leave_something_to_chance() -> None:
    """Three people with thirty coefficients explain everything, and codes of 5 are far out: neither is believed."""
    torch.manual_seed(1)
    prior = fit_noise_prior(torch.randn(3, 4) * 5, torch.randn(3, 30))
    assert torch.isfinite(prior.gain).all()
    assert torch.linalg.eigvalsh(prior.spread).min() >= 0.1**0.5 - 1e-4


def test_it_travels_with_a_model(tmp_path: Path) -> None:
    model = Portrait.random("tiny")
    torch.manual_seed(2)
    size = model.spec.identity
    model.noise_prior = fit_noise_prior(torch.randn(50, model.spec.noise), torch.randn(50, size))
    plain = Portrait.random("tiny").sample(seeds=[3, 4])
    given = model.sample(seeds=[3, 4])
    assert torch.equal(given.shape, plain.shape) and not torch.equal(given.noise, plain.noise)
    assert torch.equal(model.sample(seed=4).noise[0], given.noise[1])
    again = Portrait.from_pretrained(model.save_pretrained(tmp_path / "model", half=False))
    assert torch.equal(again.sample(seeds=[3, 4]).noise, given.noise)


def test_stored_and_loaded(tmp_path: Path) -> None:
    prior = fit_noise_prior(*people())
    save_checkpoint(Checkpoint({"prior_noise": StoredNetwork(prior.config, prior.state_dict())}), tmp_path)
    stored = load_checkpoint(tmp_path).networks["prior_noise"]
    one, other = load(stored.config, stored.state), load_noise_prior(stored.state)
    assert isinstance(one, NoisePrior)
    assert torch.equal(one.gain, prior.gain) and torch.equal(other.spread, prior.spread)
