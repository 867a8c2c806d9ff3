"""The generator as a whole: sizes, independence of factors, precision, compilation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from copo.config import PRESETS, preset
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, FactorSpec
from copo.networks.decoder import Decoder
from copo.networks.generator import Generator

TINY = PRESETS["tiny"]


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def tiny(seed: int = 0, **changes: object) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(replace(TINY, **changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    return generator


def frontal(batch: int) -> torch.Tensor:
    return torch.full((batch, 2), math.pi / 2)


def test_published_sizes() -> None:
    """Worked out by hand from the method's channel rule, min(32768 / r, 512) up to planes of 256 x 256 x 96."""
    with torch.device("meta"):
        generator = Generator(PRESETS["ffhq_512"])
    config = generator.config
    assert config.latent == 379 and config.ws_count == 14
    assert [config.channels(r) for r in config.plane_levels] == [512, 512, 512, 512, 512, 256, 128]
    mapping = (2 * 512 + 512) + (891 * 512 + 512) + 7 * (512 * 512 + 512)
    synthesis, inputs = 512 * 16, 0
    for channels in (512, 512, 512, 512, 512, 256, 128):
        for source in (inputs, channels) if inputs else (channels,):
            synthesis += source * channels * 9 + channels + 1 + source * 512 + source  # weight, bias, noise, affine
        synthesis += channels * 96 + 96 + channels * 512 + channels
        inputs = channels
    assert count(generator.mapping) == mapping
    assert count(generator.synthesis) == synthesis
    assert round(count(generator.super_resolution) / 1e6, 2) == 0.28
    assert count(generator.decoder) == 32 * 64 + 64 + 64 * 33 + 33 + 64 * 19 + 19
    assert round(count(generator) / 1e6, 1) == 30.8


def test_recorded_parameter_count_is_that_of_planes_of_64() -> None:
    """The published table's 27.8 M (backbone 27.5, super-resolution 0.28) fits the same rule ending at 64."""
    with torch.device("meta"):
        generator = Generator(replace(PRESETS["ffhq_512"], plane_resolution=64))
    assert round(count(generator) / 1e6, 1) == 27.8
    assert round((count(generator.mapping) + count(generator.synthesis)) / 1e6, 1) == 27.5


def test_compact_preset_is_small() -> None:
    with torch.device("meta"):
        generator = Generator(PRESETS["portrait_256"])
    assert count(generator) + sum(b.numel() for b in generator.buffers()) <= 9_000_000
    config = generator.config
    assert (config.plane_resolution, config.plane_channels) == (128, 32)
    assert (config.raw_resolution, config.output_resolution) == (64, 256)


def test_shapes() -> None:
    generator = tiny()
    z = torch.randn(3, TINY.latent)
    ws = generator.mapping(z, frontal(3))
    assert ws.shape == (3, TINY.ws_count, TINY.w_dim)
    assert generator.synthesis(ws).shape == (3, 3, 8, 16, 16)
    background = generator.background(z)
    assert background is not None and background.shape == (3, 8, 8, 8)
    assert generator.super_resolution(background, ws).shape == (3, 3, 32, 32)
    field = generator.decoder(torch.randn(3, 10, 8))
    assert (
        field.features.shape == (3, 10, 8) and field.density.shape == (3, 10, 1) and field.classes.shape == (3, 10, 19)
    )
    assert (field.density >= 0).all() and torch.allclose(field.classes.sum(-1), torch.ones(3, 10))
    assert Generator(replace(TINY, background_channels=(), background_w_dim=0)).background(z) is None


@torch.no_grad()
def test_batch_and_single_agree() -> None:
    """A batch of one takes another route through modulation."""
    generator = tiny()
    z = torch.randn(4, TINY.latent)
    ws = generator.mapping(z, frontal(4))
    planes, background = generator.synthesis(ws), generator.background(z)
    assert background is not None
    picture = generator.super_resolution(background, ws)
    for k in range(4):
        torch.testing.assert_close(generator.synthesis(ws[k : k + 1])[0], planes[k], rtol=1e-4, atol=1e-4)
        alone = generator.super_resolution(background[k : k + 1], ws[k : k + 1])
        torch.testing.assert_close(alone[0], picture[k], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_background_depends_on_noise_alone() -> None:
    generator = tiny()
    z = torch.randn(2, TINY.latent)
    other = torch.randn(2, TINY.latent)
    other[:, : TINY.noise] = z[:, : TINY.noise]
    first, second = generator.background(z), generator.background(other)
    assert first is not None and second is not None and torch.equal(first, second)
    other[:, 0] += 1
    third = generator.background(other)
    assert third is not None and not torch.allclose(first, third)
    assert (first[:, :3] > -0.002).all() and (first[:, :3] < 1.002).all()


@torch.no_grad()
def test_super_resolution_without_styles_is_local() -> None:
    """A changed feature moves pixels near it and no others, whatever the latent: a still background stays still."""
    generator = tiny(
        sr_styles=False, sr_skip=True, background_channels=(8, 8, 8), raw_resolution=16, output_resolution=64
    )
    features = torch.rand(1, 8, 16, 16)
    changed = features.clone()
    changed[..., 2, 2] += 1
    ws, other = torch.randn(2, 1, TINY.ws_count, TINY.w_dim)
    before, after = generator.super_resolution(features, ws), generator.super_resolution(changed, other)
    moved = (before - after).abs().amax(dim=(0, 1)) > 1e-6
    assert moved[10, 10] and not moved[36:].any() and not moved[:, 36:].any()


@torch.no_grad()
def test_super_resolution_takes_other_sizes() -> None:
    generator = tiny(noise_inputs=False)
    ws = torch.randn(1, TINY.ws_count, TINY.w_dim)
    assert generator.super_resolution(torch.rand(1, 8, 12, 8), ws).shape == (1, 3, 48, 32)


@torch.no_grad()
def test_truncation() -> None:
    generator = tiny()
    generator.mapping.w_avg.normal_()
    z, pose = torch.randn(2, TINY.latent), frontal(2)
    full, none = generator.mapping(z, pose), generator.mapping(z, pose, psi=0.0)
    torch.testing.assert_close(none, generator.mapping.w_avg.expand_as(none))
    torch.testing.assert_close(generator.mapping(z, pose, psi=0.5), (full + none) / 2)
    per_picture = generator.mapping(z, pose, psi=torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(per_picture[0], full[0])
    torch.testing.assert_close(per_picture[1], none[1])


@torch.no_grad()
def test_average_latent_follows_the_batches() -> None:
    mapping = tiny().mapping
    mapping.update_average(torch.ones(4, TINY.ws_count, TINY.w_dim), decay=0.75)
    torch.testing.assert_close(mapping.w_avg, torch.full((TINY.w_dim,), 0.25))
    mapping.update_average(torch.ones(4, TINY.ws_count, TINY.w_dim), decay=0.75)
    torch.testing.assert_close(mapping.w_avg, torch.full((TINY.w_dim,), 0.4375))


def test_effective_decoder_weights() -> None:
    """The three matrices for fused kernels give the decoder's own outputs before their activations."""
    torch.manual_seed(0)
    decoder = Decoder(TINY)
    points = torch.randn(9, TINY.plane_channels)
    weights = decoder.linears()
    hidden = nn.functional.softplus(points @ weights.hidden_weight.T + weights.hidden_bias)
    rows = hidden @ weights.out_weight.T + weights.out_bias
    field = decoder(points)
    torch.testing.assert_close(torch.sigmoid(rows[:, :3]) * 1.002 - 0.001, field.features[:, :3])
    torch.testing.assert_close(rows[:, 3:8], field.features[:, 3:])
    torch.testing.assert_close(nn.functional.softplus(rows[:, 8:9]), field.density)
    torch.testing.assert_close(rows[:, 9:], field.class_logits)
    torch.testing.assert_close(decoder.density(points), field.density)
    torch.testing.assert_close(field.class_logits.softmax(-1), field.classes)
    weights.out_weight.sum().backward()
    assert decoder.picture.weight.grad is not None and decoder.semantic.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    generator = tiny()
    z = torch.randn(2, TINY.latent)
    ws = generator.mapping(z, frontal(2))
    full, half = generator.synthesis(ws), generator.synthesis(ws, dtype=dtype)
    assert half.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert (half.float() - full).abs().max() < 0.1 * full.std()
    background = generator.background(z, dtype=dtype)
    assert background is not None and background.dtype == dtype
    picture = generator.super_resolution(background, ws, dtype=dtype)
    assert picture.dtype == torch.float32 and torch.isfinite(picture).all()
    generator.to(dtype)  # weights stored in half precision: latents are still computed in float32
    again = generator.mapping(z, frontal(2))
    assert again.dtype == torch.float32 and (again - ws).abs().max() < 0.05 * ws.std()
    assert torch.isfinite(generator.synthesis(again, dtype=dtype)).all()


def test_compiled_whole() -> None:
    """No graph breaks: what cannot be traced in one piece cannot be captured in a CUDA graph either."""
    generator = tiny()
    z = torch.randn(2, TINY.latent)

    def forward(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ws = generator.mapping(z, frontal(2), 0.7)
        background = generator.background(z)
        assert background is not None
        planes = generator.synthesis(ws)
        return planes, background, generator.super_resolution(background, ws)

    compiled = torch.compile(forward, fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(z), forward(z), strict=True):
        torch.testing.assert_close(ours, expected)


def test_gradients_reach_every_parameter() -> None:
    generator = tiny()
    z = torch.randn(2, TINY.latent)
    ws = generator.mapping(z, frontal(2))
    planes, background = generator.synthesis(ws), generator.background(z)
    assert background is not None
    field = generator.decoder(planes.permute(0, 1, 3, 4, 2))
    picture = generator.super_resolution(background, ws)
    loss = planes.square().sum() + picture.square().sum() + field.density.sum() + field.features.square().sum()
    (loss + field.class_logits.square().sum()).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sizes_follow_the_head_model() -> None:
    spec = FactorSpec("open_head", 80, 44, ARKIT_NAMES, noise=96)
    config = PRESETS["portrait_256"].for_head(spec)
    assert config.latent == spec.total and config.albedo == 44 and config.noise == 96


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"plane_resolution": 48}, "use a power of two"),
        ({"raw_resolution": 12}, "must be 2, 4, 6"),
        ({"noise": -1}, "negative size"),
        ({"background_channels": (8,)}, "1 widths end at side 4, not at raw_resolution 8"),
        ({"background_w_dim": 0}, "a background branch needs"),
        ({"far": 0.5}, "0 < near < far"),
        ({"feature_channels": 2}, "the first 3 are colours"),
        ({"channel_base": 8}, "less than one channel"),
    ],
)
def test_impossible_configurations(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(CopoError, match=complaint):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_unknown_preset() -> None:
    with pytest.raises(CopoError, match="did you mean 'portrait_256'"):
        preset("portrait256")


def test_a_factor_that_styles_nothing_does_not_reach_the_latent() -> None:
    """Only the noise code and identity do here; a change of expression and light leaves w as it is, to the bit."""
    config = replace(preset("tiny"), styled_by=("noise", "shape", "albedo"))
    network = Generator(config).mapping
    z, pose = torch.randn(2, config.latent), torch.full((2, 2), torch.pi / 2)
    face = config.noise + config.shape + config.albedo
    other = z.clone()
    other[:, face:] += 1
    assert torch.equal(network(z, pose), network(other, pose))
    other[:, : config.noise] += 1
    assert not torch.equal(network(z, pose), network(other, pose))


def test_styles_by_unknown_factors_are_refused() -> None:
    with pytest.raises(CopoError, match="styled_by"):
        replace(preset("tiny"), styled_by=("hair",))
