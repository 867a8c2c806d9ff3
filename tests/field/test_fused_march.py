"""The fused march against its plain twin: on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the fused path needs Triton")

from copo.camera import Camera
from copo.config import PRESETS, GeneratorConfig
from copo.errors import CopoError
from copo.field.blending import Blend
from copo.field.composite import OPAQUE_STEP, RayOutput, composite_weights, step_lengths
from copo.field.fused import backend_for
from copo.field.fused.march import Scene, jitter_numbers, pack, place, render_rays_fused, texels
from copo.field.rays import camera_rays
from copo.field.render import render_rays
from copo.field.sampling import SamplingConfig, uniform_depths
from copo.networks.decoder import Decoder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOX = 0.185
CONFIG = replace(PRESETS["tiny"], plane_channels=16, decoder_hidden=32, feature_channels=7, class_count=19)
SAMPLING = SamplingConfig(coarse=11, fine=9)


def scene(batch: int = 2, seed: int = 0, sharp: float = 6.0, config: GeneratorConfig = CONFIG):
    """Random planes, a decoder whose classes and densities differ from place to place, and rays of `batch` cameras."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(batch, 3, config.plane_channels, 12, 12, generator=generator)
    torch.manual_seed(seed)
    decoder = Decoder(config)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (sharp if parameter.ndim == 1 else 2.0))
    camera = Camera.from_pitch_yaw(torch.linspace(1.4, 1.8, batch), torch.linspace(1.2, 1.7, batch))
    rays = camera_rays(camera, (3, 7), "corners")
    return (
        planes.to(DEVICE),
        decoder.to(DEVICE),
        camera_rays(camera.to(DEVICE), (3, 7), "corners") if DEVICE == "cuda" else rays,
    )


def assert_close(fused: RayOutput, plain: RayOutput, tolerance: float = 6e-3) -> None:
    for name in ("features", "depth", "alpha", "classes"):
        a, b = getattr(fused, name), getattr(plain, name)
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), name


VARIANTS = {
    "published": SAMPLING,
    "background behind": replace(SAMPLING, opaque_end=False, outside="nothing"),
    "uniform only": replace(SAMPLING, fine=0),
    "many coarse": replace(SAMPLING, coarse=40, fine=5),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("config", [CONFIG, PRESETS["ffhq_512"]], ids=["small", "published widths"])
def test_same_picture_as_plain_twin(name, config):
    planes, decoder, rays = scene(batch=2 if name == "published" else 1, config=config)
    with torch.no_grad():
        plain = render_rays(planes, decoder, rays, VARIANTS[name], BOX, backend="torch")
        fused = render_rays_fused(planes, decoder, rays, VARIANTS[name], BOX)
    assert_close(fused, plain)


BLENDS = {
    "hard": Blend(frozenset(range(0, 19, 2))),
    "soft": Blend(frozenset(range(0, 19, 2)), mode="soft", softness=0.8),
    "published": Blend(frozenset(range(0, 19, 2)), proposals="dynamic", labels="dynamic", styles="dynamic"),
}


@pytest.mark.parametrize("name", BLENDS)
def test_blended_picture_as_plain_twin(name):
    planes, decoder, rays = scene(batch=1)
    static = torch.randn(planes.shape, generator=torch.Generator().manual_seed(5)).to(planes)
    with torch.no_grad():
        plain = render_rays(planes, decoder, rays, SAMPLING, BOX, BLENDS[name], static, backend="torch")
        fused = render_rays_fused(planes, decoder, rays, SAMPLING, BOX, BLENDS[name], static)
    # A sample at the border of two classes may fall to either side in half precision: most rays must agree closely.
    error = (fused.features - plain.features).abs().amax(-1)
    assert error.median() < 3e-3 * plain.features.abs().max()
    assert (error < 1e-2 * plain.features.abs().max()).float().mean() > (0.97 if name == "soft" else 0.8)


def test_all_static_is_the_static_field():
    planes, decoder, rays = scene(batch=1)
    static = torch.randn(planes.shape, generator=torch.Generator().manual_seed(5)).to(planes)
    everything = Blend(frozenset(range(19)))
    with torch.no_grad():
        alone = render_rays_fused(static, decoder, rays, SAMPLING, BOX)
        one, other = (render_rays_fused(p, decoder, rays, SAMPLING, BOX, everything, static) for p in (planes, -planes))
    assert torch.equal(one.features, other.features) and torch.equal(one.classes, other.classes)
    # A kernel for one field and a kernel for two may round differently.
    assert_close(one, alone, 1e-5)


@pytest.mark.parametrize("opaque_end", [True, False])
@pytest.mark.parametrize("config", [CONFIG, PRESETS["ffhq_512"]], ids=["small", "published widths"])
def test_gradients_as_plain_twin(config, opaque_end):
    planes, decoder, rays = scene(batch=1, sharp=1.0, config=config)
    sampling = replace(SAMPLING, opaque_end=opaque_end, outside="border" if opaque_end else "nothing")
    planes.requires_grad_()
    inputs = [planes, *decoder.parameters()]
    found = []
    for render in (functools.partial(render_rays, backend="torch"), render_rays_fused):
        out = render(planes, decoder, rays, sampling, BOX)
        generator = torch.Generator().manual_seed(1)
        loss = torch.zeros((), device=DEVICE)
        for name in ("features", "classes", "depth", "alpha"):
            value = getattr(out, name)
            loss = loss + (value * torch.randn(value.shape, generator=generator).to(value)).sum()
        found.append(torch.autograd.grad(loss, inputs))
    for name, plain, fused in zip(["planes", *dict(decoder.named_parameters())], *found, strict=True):
        assert plain.norm() > 0
        assert (fused - plain).norm() < 0.02 * plain.norm(), name


@pytest.mark.parametrize("jitter", [False, True, "picture"])
def test_every_sample_has_its_place_even_where_sets_coincide(jitter):
    """A field that is the same everywhere puts fine samples exactly on coarse ones."""
    planes, decoder, _ = scene(batch=1)
    camera = Camera.from_pitch_yaw(torch.tensor([1.5]), torch.tensor([1.4])).to(DEVICE)
    rays = camera_rays(camera, 64 if DEVICE == "cuda" else 4)
    sampling = replace(SAMPLING, coarse=17, fine=15, jitter=jitter)
    found = place(
        (texels(torch.zeros_like(planes)), None),
        pack(decoder.linears(), CONFIG.feature_channels),
        rays.origins.contiguous(),
        rays.directions.contiguous(),
        Scene(BOX, sampling, None),
        torch.Generator(DEVICE).manual_seed(3),
    )
    near, far = sampling.depth_range(rays)
    coarse = uniform_depths(near, far, sampling.coarse)
    quantiles = torch.linspace(0, 1, sampling.fine, device=DEVICE).expand(1, found.shape[1], -1)
    if jitter:
        numbers = torch.Generator(DEVICE).manual_seed(3)
        random, quantiles = jitter_numbers(sampling, 1, found.shape[1], coarse.device, numbers)
        coarse = coarse + (random - 0.5) * (sampling.far - sampling.near) / (sampling.coarse - 1)
    density = decoder(planes.new_zeros(CONFIG.plane_channels)).density
    weights = composite_weights(density.expand_as(coarse), step_lengths(coarse, OPAQUE_STEP))
    cdf = torch.nn.functional.pad((weights[..., 1:-1] + 2e-5).cumsum(-1), (1, 0))
    edges = 0.5 * (coarse[..., 1:] + coarse[..., :-1])
    rows = zip(*(v[0].detach().cpu().numpy() for v in (quantiles, cdf, edges)), strict=True)
    fine = [np.interp(u, c / c[-1], e) for u, c, e in rows]
    expected = torch.cat([coarse, torch.tensor(np.array(fine)).to(coarse)[None]], dim=-1).sort(-1).values
    assert (found - expected).abs().max() < 1e-3 * (sampling.far - sampling.near)


def test_random_quantiles_are_uniform_and_in_order():
    _, quantiles = jitter_numbers(SAMPLING, 1, 20000, torch.device(DEVICE), torch.Generator(DEVICE).manual_seed(0))
    assert (quantiles.diff(dim=-1) >= 0).all()
    # The k-th of n sorted uniform numbers has mean k / (n + 1) and variance k (n + 1 - k) / ((n + 1)^2 (n + 2)).
    n = SAMPLING.fine
    k = torch.arange(1, n + 1, device=DEVICE)
    assert torch.allclose(quantiles[0].mean(0), k / (n + 1), atol=0.005)
    assert torch.allclose(quantiles[0].var(0), k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2)), atol=0.002)


def test_a_picture_moves_as_a_whole():
    sampling = replace(SAMPLING, jitter="picture")
    random, quantiles = jitter_numbers(sampling, 3, 7, torch.device(DEVICE), torch.Generator(DEVICE).manual_seed(0))
    assert random.shape == (3, 7, SAMPLING.coarse) and quantiles.shape == (3, 7, SAMPLING.fine)
    assert torch.equal(random, random[:, :1, :1].expand_as(random)) and len(random[:, 0, 0].unique()) == 3
    assert torch.equal(quantiles, quantiles[:, :1].expand_as(quantiles))
    assert quantiles.min() >= 0 and quantiles.max() <= 1 and (quantiles.diff(dim=-1) >= 0).all()


def test_jitter_moves_samples_reproducibly():
    planes, decoder, rays = scene(batch=1)
    sampling = replace(SAMPLING, jitter=True)
    still, a, b = (
        render_rays_fused(
            planes, decoder, rays, s, BOX, generator=torch.Generator(DEVICE).manual_seed(3)
        ).features.detach()
        for s in (SAMPLING, sampling, sampling)
    )
    assert torch.equal(a, b)
    assert (a - still).abs().max() > 1e-4


def test_cutoff_leaves_out_only_what_hardly_shows():
    planes, decoder, rays = scene(batch=1, sharp=12.0)
    with torch.no_grad():
        full = render_rays_fused(planes, decoder, rays, SAMPLING, BOX)
        short = render_rays_fused(planes, decoder, rays, SAMPLING, BOX, cutoff=1e-3)
    assert (full.features - short.features).abs().max() < 2e-3 * full.features.abs().max()


def test_backend_choice():
    planes, decoder, _ = scene()
    assert backend_for("torch", planes, decoder) == "torch"
    assert backend_for("triton", planes, decoder) == "triton"
    with pytest.raises(CopoError, match="powers of two"):
        backend_for("triton", planes[:, :, :9], decoder)
    with pytest.raises(CopoError, match="did you mean 'triton'"):
        backend_for("tritn", planes, decoder)
