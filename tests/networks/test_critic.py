"""The critic on frozen features: shapes, bounded gain, frozen projections, and that it learns."""

from __future__ import annotations

import pytest
import torch

from copo.errors import CopoError
from copo.networks.critic import FeatureCritic


def maps(batch: int, shift: float = 0.0) -> list[torch.Tensor]:
    return [torch.randn(batch, 5, 16, 16) + shift, torch.randn(batch, 7, 8, 8) + shift]


def critic() -> FeatureCritic:
    torch.manual_seed(0)
    return FeatureCritic([(5, 16), (7, 8)], width=8)


def test_every_scale_is_brought_to_four_by_four_places() -> None:
    assert critic()(maps(3)).shape == (3, 2 * 16)


def test_projections_do_not_learn_and_are_saved() -> None:
    network = critic()
    learned = {name for name, _ in network.named_parameters()}
    assert not any("across" in name or "along" in name for name in learned)
    assert {"across0", "along1"} <= network.state_dict().keys()


def test_the_gain_of_a_head_is_bounded() -> None:
    """With spectral norms of 1 on the kernels as matrices, scaling the stored weights by 100 changes nothing."""
    network, x = critic().eval(), maps(2)
    before = network(x)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("original"):
                value.mul_(100)
        for head in network.heads:
            for layer in (*head.down, head.score):
                layer.train()
    for _ in range(20):
        network(x)
    torch.testing.assert_close(network.eval()(x), before, rtol=0.05, atol=0.02)


def test_it_learns_what_differs() -> None:
    network = critic()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        real, made = network(maps(8, 0.5)), network(maps(8, -0.5))
        loss = (1 - real).relu().mean() + (1 + made).relu().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert float(network(maps(8, 0.5)).mean()) > float(network(maps(8, -0.5)).mean()) + 0.5


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(CopoError, match="no maps"):
        FeatureCritic([])
