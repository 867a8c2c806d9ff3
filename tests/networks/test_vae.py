"""Coefficient priors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from copo.config import VAE_PRESETS, VaeConfig
from copo.errors import CopoError
from copo.networks.vae import Vae, VaeDiscriminator


@pytest.mark.parametrize("factor", sorted(VAE_PRESETS))
def test_published_sizes(factor: str) -> None:
    config = VAE_PRESETS[factor]
    vae, judge = Vae(config), VaeDiscriminator(config)
    coefficients = torch.randn(4, config.coefficients)
    out = vae(coefficients)
    assert out.decoded.shape == coefficients.shape and out.mean.shape == out.log_variance.shape == (4, config.latent)
    assert judge(coefficients).shape == (4, 1)


def test_sample_undoes_the_normaliser() -> None:
    torch.manual_seed(0)
    vae = Vae(VaeConfig(coefficients=4, latent=2, hidden=8, scales=(2.0, 2.0, 9.0, 9.0))).eval()
    latent = torch.randn(3, 2)
    torch.testing.assert_close(vae.sample(latent), vae.decode(latent) * torch.tensor([2.0, 2.0, 9.0, 9.0]))
    assert "scales" not in vae.state_dict()


def test_training_pass_draws_latents() -> None:
    torch.manual_seed(0)
    vae = Vae(VaeConfig(coefficients=4, latent=2, hidden=8, scales=(1.0,))).eval()
    coefficients = torch.randn(5, 4)
    first, second = vae(coefficients), vae(coefficients)
    assert torch.equal(first.mean, second.mean) and not torch.equal(first.decoded, second.decoded)
    with torch.no_grad():
        vae.log_variance.weight.zero_()
        vae.log_variance.bias.fill_(-80.0)
    torch.testing.assert_close(vae(coefficients).decoded, vae.decode(vae.encode(coefficients)[0]))


def test_impossible_configurations() -> None:
    with pytest.raises(CopoError, match="give 1 or 160 positive numbers, not 2"):
        VaeConfig(scales=(1.0, 2.0))
    with pytest.raises(CopoError, match=r"VaeConfig.hidden = 0"):
        VaeConfig(hidden=0)


def test_samples_are_not_longer_than_the_longest_row() -> None:
    """Ten are decoded, of any length; the limit is their median norm: half of them are scaled down to it."""
    torch.manual_seed(0)
    free = Vae(VaeConfig(coefficients=6, latent=4, hidden=8, blocks=1, scales=(0.5,))).eval()
    latent = torch.randn(10, 4)
    before = free.sample(latent)
    limit = float(free.decode(latent).norm(dim=1).sort().values[4:6].mean().detach())
    free.config = replace(free.config, longest=limit)
    after = free.sample(latent)
    long = before.norm(dim=1) > 0.5 * limit
    assert long.sum() == 5 and torch.equal(after[~long], before[~long])
    torch.testing.assert_close(after[long].norm(dim=1), torch.full((5,), 0.5 * limit))
    torch.testing.assert_close(F.normalize(after), F.normalize(before))
