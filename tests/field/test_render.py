from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.field.scenes import AXES, BOX, HAIR, HAIR_LINE, SKIN, head_decoder, head_planes
from torch import Tensor

from copo.camera import Camera
from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.field.composite import RayOutput
from copo.field.planes import sample_planes
from copo.field.rays import Rays, camera_rays
from copo.field.render import render_rays
from copo.field.sampling import SamplingConfig, importance_depths
from copo.networks.decoder import Decoder

SAMPLING = SamplingConfig(coarse=48, fine=48, opaque_end=False)
SIZE = 24


def render_head(camera: Camera, sampling: SamplingConfig = SAMPLING, normals: bool = False) -> RayOutput:
    with torch.no_grad():
        return render_rays(
            head_planes(), head_decoder(), camera_rays(camera, SIZE), sampling, BOX, normals=normals, backend="torch"
        )


def ellipsoid_hits(rays: Rays, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """(R,) whether each ray meets the ellipsoid, and the distance at which it first does."""
    axes = torch.tensor(AXES) * scale
    o, d = rays.origins[0] / axes, rays.directions[0] / axes
    a, b, c = (d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1
    root = b * b - a * c
    return root > 0, (-b - root.clamp_min(0).sqrt()) / a


@settings(max_examples=12, deadline=None)
@given(st.floats(-60, 60), st.floats(-30, 30), st.floats(0.7, 1.6))
def test_an_ellipsoid_is_seen_where_it_is(yaw: float, pitch: float, radius: float) -> None:
    """Silhouette, depth, normals and labels against the analytic ones, from any side and distance."""
    camera = Camera.from_degrees(yaw, pitch, radius=radius)
    out = render_head(camera, normals=True)
    rays = camera_rays(camera, SIZE)
    hit, depth = ellipsoid_hits(rays)
    normal = torch.nn.functional.normalize(
        (rays.origins[0] + depth[:, None] * rays.directions[0]) / torch.tensor(AXES) ** 2
    )
    slope = -(normal * rays.directions[0]).sum(1)
    facing = hit & (slope > 0.5)  # away from the silhouette, where a fraction of a millimetre decides
    assert facing.sum() > 20
    torch.testing.assert_close(out.alpha[0, facing], torch.ones(int(facing.sum())), atol=0.02, rtol=0)
    assert out.alpha[0, ~ellipsoid_hits(rays, 1.03)[0]].max() < 0.01
    assert (out.depth[0] - depth)[facing].abs().max() < 0.003
    assert out.normals is not None
    angle = (out.normals[0] * normal).sum(1)[facing].clamp(-1, 1).acos()
    assert angle.mean() < math.radians(4) and angle.max() < math.radians(20)
    height = (rays.origins[0] + depth[:, None] * rays.directions[0])[:, 1]
    label = out.classes[0].argmax(1)
    assert (label[facing & (height > HAIR_LINE + 0.005)] == HAIR).all()
    assert (label[facing & (height < HAIR_LINE - 0.005)] == SKIN).all()


def test_classes_add_up_to_alpha_and_light_ends_at_far() -> None:
    out = render_head(Camera.from_degrees())
    torch.testing.assert_close(out.classes.sum(-1), out.alpha, atol=1e-5, rtol=0)
    empty = out.alpha[0] < 1e-4
    assert empty.any()
    torch.testing.assert_close(out.depth[0, empty], torch.full((int(empty.sum()),), 1.12), atol=1e-3, rtol=0)


def test_opaque_end_makes_every_ray_opaque() -> None:
    out = render_head(Camera.from_degrees(), replace(SAMPLING, opaque_end=True))
    torch.testing.assert_close(out.alpha, torch.ones_like(out.alpha))


def random_field(seed: int = 0) -> tuple[Tensor, Decoder]:
    torch.manual_seed(seed)
    config = GeneratorConfig(plane_channels=8, decoder_hidden=16, feature_channels=8, class_count=19)
    return 3 * torch.randn(2, 3, 8, 16, 16), Decoder(config)


def plainly(planes: Tensor, decoder: Decoder, rays: Rays, sampling: SamplingConfig) -> tuple[Tensor, ...]:
    """The published scheme word by word: every sample decoded in full, merged, sorted, multiplied out."""
    batch, count = rays.axis_share.shape

    def decode(depths: Tensor) -> Tensor:
        points = rays.origins[:, :, None] + rays.directions[:, :, None] * depths[..., None]
        field = decoder(sample_planes(planes, points.flatten(1, 2), BOX))
        return torch.cat([field.density, field.features, field.classes], -1).view(batch, count, depths.shape[2], -1)

    def weigh(depths: Tensor, density: Tensor) -> Tensor:
        delta = torch.cat([depths.diff(dim=-1), torch.full_like(depths[..., :1], 1e10)], dim=-1)
        alpha = 1 - torch.exp(-delta * density)
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], dim=-1), dim=-1)
        return alpha * passed[..., :-1]

    coarse = torch.linspace(sampling.near, sampling.far, sampling.coarse).expand(batch, count, -1)
    values = decode(coarse)
    fine = importance_depths(coarse, weigh(coarse, values[..., 0]), sampling.fine)
    depths, order = torch.cat([coarse, fine], dim=-1).sort(dim=-1)
    values = torch.cat([values, decode(fine)], dim=2)
    values = values.gather(2, order[..., None].expand_as(values))
    weights = weigh(depths, values[..., 0])
    summed = (weights[..., None] * values).sum(2)
    return summed[..., 1:9], summed[..., 9:], (weights * depths).sum(-1)


def test_equals_the_scheme_written_out() -> None:
    """Compositing hidden vectors before the last layer, and not sorting them, changes nothing."""
    planes, decoder = random_field()
    rays = camera_rays(Camera.from_pitch_yaw(torch.tensor([1.4, 1.8]), torch.tensor([1.2, 1.7])), 6)
    sampling = SamplingConfig(coarse=9, fine=7)
    with torch.no_grad():
        features, classes, depth = plainly(planes, decoder, rays, sampling)
        out = render_rays(planes, decoder, rays, sampling, BOX, backend="torch")
    torch.testing.assert_close(out.features, features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.classes, classes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.depth, depth, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_scheme_written_out() -> None:
    planes, decoder = random_field(1)
    rays = camera_rays(Camera.from_pitch_yaw(torch.tensor([1.4, 1.8]), torch.tensor([1.2, 1.7])), 4)
    sampling = SamplingConfig(coarse=6, fine=5)
    planes.requires_grad_()
    parameters = [planes, *decoder.parameters()]
    features, classes, depth = plainly(planes, decoder, rays, sampling)
    out = render_rays(planes, decoder, rays, sampling, BOX, backend="torch")
    pairs = ((features, out.features), (classes, out.classes), (depth, out.depth))
    for expected, found in pairs:
        weight = torch.linspace(-1, 2, expected.numel()).view_as(expected)
        for a, b in zip(
            torch.autograd.grad((expected * weight).sum(), parameters, retain_graph=True),
            torch.autograd.grad((found * weight).sum(), parameters, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(b, a, atol=1e-3 * float(a.abs().max()) + 1e-7, rtol=1e-3)


@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_rays_do_not_depend_on_their_company(chunk: int) -> None:
    planes, decoder = random_field()
    rays = camera_rays(Camera.from_pitch_yaw(torch.tensor([1.4, 1.8]), torch.tensor([1.2, 1.7])), 4)
    sampling = SamplingConfig(coarse=6, fine=5)
    with torch.no_grad():
        whole = render_rays(planes, decoder, rays, sampling, BOX, normals=True, backend="torch")
        parts = render_rays(planes, decoder, rays, replace(sampling, chunk=chunk), BOX, normals=True, backend="torch")
    torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.normals, whole.normals, atol=1e-3, rtol=0)


def test_same_call_same_numbers() -> None:
    a, b = (render_head(Camera.from_degrees(20, 5)) for _ in range(2))
    assert torch.equal(a.features, b.features) and torch.equal(a.classes, b.classes)


def test_jitter_follows_its_generator() -> None:
    rays = camera_rays(Camera.from_degrees(), 8)
    sampling = SamplingConfig(coarse=6, fine=6, jitter=True)
    planes, decoder = random_field()
    with torch.no_grad():
        a, b, c = (
            render_rays(
                planes[:1], decoder, rays, sampling, BOX, generator=torch.Generator().manual_seed(s), backend="torch"
            )
            for s in (1, 1, 2)
        )
    assert torch.equal(a.features, b.features) and not torch.equal(a.features, c.features)


def test_a_picture_that_moves_as_a_whole_has_no_seams() -> None:
    rays = camera_rays(Camera.from_degrees(), 8)
    sampling = SamplingConfig(coarse=6, fine=6, jitter="picture", chunk=16)
    planes, decoder = random_field()

    def look() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return render_rays(
            planes[:1], decoder, rays, sampling, BOX, generator=generator, backend="torch"
        ).features.detach()

    with torch.no_grad():
        in_parts = look()
    torch.testing.assert_close(in_parts, look())


def test_nothing_lies_outside_the_cube_unless_asked_for() -> None:
    """A field that is dense everywhere, seen by a camera that looks past the cube's edge with its upper left ray."""
    planes, decoder = torch.full((1, 3, 8, 4, 4), 5.0), head_decoder()
    with torch.no_grad():
        decoder.picture.bias[8] = 50.0
    rays = camera_rays(Camera.from_pitch_yaw(math.pi / 2, math.pi / 2, fov=0.8), 3)
    corner, center = 0, 4
    for outside, alpha in (("border", 1.0), ("nothing", 0.0)):
        out = render_rays(planes, decoder, rays, replace(SAMPLING, outside=outside), BOX, backend="torch")
        assert out.alpha[0, center] > 0.99
        assert abs(float(out.alpha[0, corner]) - alpha) < 1e-3


def test_fast_pictures_stay_close_to_exact_ones() -> None:
    """At least 40 dB on a head with a sharp surface, and on a field of noise (docs/field.md)."""

    def psnr(a: Tensor, b: Tensor) -> float:
        return float(-10 * torch.log10((a - b).square().mean()))

    exact = render_head(Camera.from_degrees(25, 10), replace(SAMPLING, coarse=24, fine=24))
    fast = render_head(Camera.from_degrees(25, 10), replace(SAMPLING, coarse=24, fine=24).fast())
    assert 40 < psnr(fast.features[..., :3], exact.features[..., :3]) < 80
    planes, decoder = random_field()
    rays = camera_rays(Camera.from_degrees(), 32)
    with torch.no_grad():
        exact, fast = (
            render_rays(planes[:1], decoder, rays, s, BOX, backend="torch") for s in (SAMPLING, SAMPLING.fast())
        )
    assert 40 < psnr(fast.features[..., :3], exact.features[..., :3]) < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near": 1.2}, "near"),
        ({"near": 0.0}, "near"),
        ({"coarse": 2}, "coarse"),
        ({"fine": -1}, "fine"),
        ({"chunk": 0}, "chunk"),
        ({"cutoff": 1.0}, "cutoff"),
    ],
)
def test_impossible_sampling_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(CopoError, match=message):
        SamplingConfig(**settings)  # type: ignore[arg-type]
