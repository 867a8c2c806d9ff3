"""Codes and light that go with people: what is learned from photographs, and what samples are like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from copo.errors import CopoError
from copo.formats.checkpoint import Checkpoint, StoredNetwork, load_checkpoint, save_checkpoint
from copo.networks import conditional_priors
from copo.networks.build import load, load_light_prior, load_noise_prior
from copo.networks.conditional_priors import LightPrior, NoisePrior, balance, fit_light_prior, fit_noise_prior
from copo.portrait import Portrait

PEOPLE = torch.tensor([[0.0, 0.0, 1.0], [10.0, 0.0, 1.0], [0.0, 10.0, 1.0]])
CODES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
OWNERS = torch.arange(3)
FRONT = torch.tensor([[0.0, 0.0, 1.0]])
FRONTS = FRONT.expand(3, 3)


def test_a_code_is_that_of_who_is_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_priors, "REACH", 0.1)
    monkeypatch.setattr(conditional_priors, "HIDING", 0.0)
    prior = fit_noise_prior(CODES, PEOPLE, torch.ones(3), PEOPLE, 0.5, OWNERS, FRONTS)
    normal = torch.tensor([[0.2, -0.4], [1.0, 2.0]])
    drawn = prior(normal, torch.tensor([[9.0, 1.0, 1.0], [1.0, 8.0, 1.0]]), FRONT.expand(2, 3))
    torch.testing.assert_close(drawn, CODES[[1, 2]] + 0.5 * normal)


def test_codes_are_as_frequent_as_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part of the first code, two of the second, five of the third, though all drawn are like the first person."""
    monkeypatch.setattr(conditional_priors, "HIDING", 0.0)
    random = torch.Generator().manual_seed(0)
    people = PEOPLE[0] + torch.randn(4000, 3, generator=random)
    prior = fit_noise_prior(CODES, PEOPLE, torch.tensor([1.0, 2.0, 5.0]), people, 0.0, OWNERS, FRONTS)
    drawn = prior(torch.randn(4000, 2, generator=random), people, FRONT.expand(4000, 3))
    shares = [float((drawn == code).all(1).float().mean()) for code in CODES]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    balance(prior, torch.ones(3), people)
    drawn = prior(torch.randn(4000, 2, generator=random), people, FRONT.expand(4000, 3))
    assert [float((drawn == code).all(1).float().mean()) for code in CODES] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_who_is_alike_follows_what_tells_codes() -> None:
    """The first code number is the first coefficient; the second varies ten times as much and tells nothing."""
    random = torch.Generator().manual_seed(1)
    identity = torch.randn(1000, 2, generator=random) * torch.tensor([1.0, 10.0])
    codes = torch.cat([identity[:, :1], torch.randn(1000, 1, generator=random)], 1)
    prior = fit_noise_prior(codes, identity, torch.ones(1000), identity, 0.5, torch.arange(1000), FRONT.expand(1000, 3))
    first = prior.axes[0].abs()
    assert float(first[0]) == pytest.approx(1.0, abs=0.1)
    assert float(first[1]) < 0.02


def test_nobodys_identity_can_be_read_from_it() -> None:
    """Eight directions of 60, a fifth of each of them noise."""
    identity = torch.randn(2000, 60, generator=torch.Generator().manual_seed(1))
    owners, fronts = torch.arange(2000), FRONT.expand(2000, 3)
    prior = fit_noise_prior(torch.randn(2000, 20), identity, torch.ones(2000), identity, 0.5, owners, fronts)
    assert prior.places.shape == (2000, 8)
    read = torch.linalg.lstsq(prior.places, identity).solution
    told = 1 - (identity - prior.places @ read).square().sum() / identity.square().sum()
    assert float(told) == pytest.approx(0.8 * 8 / 60, abs=0.02)


def test_few_people_can_be_compared() -> None:
    same = torch.randn(1, 30).expand(2, 30)
    prior = fit_noise_prior(torch.randn(2, 4), same, torch.ones(2), torch.randn(9, 30), 0.5, OWNERS[:2], FRONTS[:2])
    assert torch.isfinite(prior(torch.randn(5, 4), torch.randn(5, 30), torch.randn(5, 3))).all()


def test_seen_from_the_side_people_have_codes_of_who_was_photographed_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everybody is like everybody. From the front: all photographs of two, half of those of the third; from the right:
    the third alone; from where nobody was photographed: as often as was asked."""
    monkeypatch.setattr(conditional_priors, "HIDING", 0.0)
    right = torch.tensor([[1.0, 0.0, 0.0]])
    who, where = torch.tensor([0, 1, 2, 2]), torch.cat([FRONT, FRONT, FRONT, right])
    same = PEOPLE[:1].expand(3, 3)
    prior = fit_noise_prior(CODES, same, torch.tensor([1.0, 1.0, 2.0]), same, 0.0, who, where)
    random = torch.Generator().manual_seed(0)

    def shares(direction: torch.Tensor) -> list[float]:
        drawn = prior(torch.randn(4000, 2, generator=random), same[:1].expand(4000, 3), direction.expand(4000, 3))
        return [float((drawn == code).all(1).float().mean()) for code in CODES]

    assert shares(FRONT) == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.03)
    assert shares(right) == pytest.approx([0, 0, 1], abs=0.01)
    assert shares(torch.tensor([[0.0, 1.0, 0.0]])) == pytest.approx([1 / 4, 1 / 4, 1 / 2], abs=0.03)


def photographs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """4,000 of them: light of two numbers, the first twice the second coefficient plus 1, the second 3 x from the left
    to the right, each with noise of deviation 0.5."""
    torch.manual_seed(0)
    identity = torch.randn(4000, 3)
    direction = torch.nn.functional.normalize(torch.randn(4000, 3) * torch.tensor([1.0, 0.3, 1.0]), dim=1)
    light = torch.stack([2 * identity[:, 1] + 1, 3 * direction[:, 0]], dim=1) + 0.5 * torch.randn(4000, 2)
    return light, identity, direction


def test_light_follows_who_is_seen_from_where() -> None:
    """The ridge divides by 1.1; directions to the right have x = 1."""
    light, identity, direction = photographs()
    drawn = torch.randn(5000, 2) * 3 + 7
    prior = fit_light_prior(light, identity, direction, drawn)
    mean = prior(drawn.mean(0).expand(2, 2), torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.eye(3)[[2, 0]])
    assert mean[0].tolist() == pytest.approx([1.0, 0.0], abs=0.15)
    assert mean[1].tolist() == pytest.approx([1 + 2 / 1.1, 3 / 1.1], abs=0.15)


def test_what_hardly_varies_tells_nothing() -> None:
    """A gain of 500 would explain it, and a coefficient of 1 would then get light of 500."""
    light, identity, direction = photographs()
    identity[:, 2] = (light[:, 1] - light[:, 1].mean()) / 500
    prior = fit_light_prior(light, identity, direction, torch.randn(5000, 2))
    assert prior.gain[:, :3].abs().max() < 60


def test_light_of_all_photographs_spreads_as_it_does() -> None:
    light, identity, direction = photographs()
    prior = fit_light_prior(light, identity, direction, torch.randn(5000, 2) * 3 + 7)
    drawn = prior(torch.randn(4000, 2) * 3 + 7, identity, direction)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(light.T), atol=0.3, rtol=0.1)
    torch.testing.assert_close(drawn.mean(0), light.mean(0), atol=0.1, rtol=0)


def model_that_knows() -> Portrait:
    """50 people of whom nobody drawn is like one more than the other, half of them photographed from the front, half
    from the right."""
    model = Portrait.random("tiny")
    torch.manual_seed(2)
    size, lights = model.spec.identity, model.spec.illumination
    model.noise_prior = fit_noise_prior(
        torch.randn(50, model.spec.noise), 1e3 * torch.randn(50, size), torch.ones(50), torch.randn(99, size),
        0.5, torch.arange(50), torch.eye(3)[[0, 2] * 25],
    )  # fmt: skip
    direction = torch.nn.functional.normalize(torch.randn(90, 3), dim=1)
    model.light_prior = fit_light_prior(
        torch.randn(90, lights), torch.randn(90, size), direction, torch.randn(90, lights)
    )
    return model


def test_they_travel_with_a_model(tmp_path: Path) -> None:
    model, plain = model_that_knows(), Portrait.random("tiny").sample(seeds=[3, 4])
    given = model.sample(seeds=[3, 4])
    assert torch.equal(given.shape, plain.shape) and torch.equal(given.expression, plain.expression)
    assert not torch.equal(given.noise, plain.noise) and not torch.equal(given.illumination, plain.illumination)
    assert torch.equal(model.sample(seed=4).to_vector()[0], given.to_vector()[1])
    again = Portrait.from_pretrained(model.save_pretrained(tmp_path / "model", half=False)).sample(seeds=[3, 4])
    assert torch.equal(again.noise, given.noise) and torch.equal(again.illumination, given.illumination)


def test_light_and_code_are_drawn_for_a_view_and_both_for_given_people() -> None:
    model = model_that_knows()
    one, other = model.sample(seed=3), model.sample(seed=5)
    aside = model.sample(seed=3, view=model.camera(yaw=90))
    assert torch.equal(aside.identity, one.identity) and torch.equal(aside.expression, one.expression)
    assert not torch.equal(aside.noise, one.noise) and not torch.equal(aside.illumination, one.illumination)
    both = model.sample(seeds=[3, 5], people=other)
    assert torch.equal(both.identity, other.identity.expand(2, -1))
    assert torch.equal(both.to_vector()[1], other.to_vector()[0])
    assert not torch.equal(both.illumination[0], one.illumination[0])


def test_a_prior_of_other_sizes_is_refused() -> None:
    model = model_that_knows()
    light = LightPrior(type(model.light_prior.config)(3, 27))  # type: ignore[union-attr]
    with pytest.raises(CopoError, match="its prior of light for identities has 27 numbers for 3 coefficients"):
        Portrait(model.generator, model.spec, light_prior=light)


def test_stored_and_loaded(tmp_path: Path) -> None:
    codes = fit_noise_prior(CODES, PEOPLE, torch.ones(3), PEOPLE, 0.5, OWNERS, FRONTS)
    light = fit_light_prior(*photographs(), torch.randn(100, 2))
    networks = {"prior_noise": StoredNetwork(codes.config, codes.state_dict()),
                "prior_light": StoredNetwork(light.config, light.state_dict())}  # fmt: skip
    save_checkpoint(Checkpoint(networks), tmp_path)
    stored = load_checkpoint(tmp_path).networks
    one, two = (load(stored[name].config, stored[name].state) for name in networks)
    assert isinstance(one, NoisePrior) and isinstance(two, LightPrior)
    again = load_noise_prior(stored["prior_noise"].state)
    assert torch.equal(again.places, codes.places) and torch.equal(again.owners, OWNERS.int())
    assert torch.equal(load_light_prior(stored["prior_light"].state).gain, light.gain)
