"""Marching rays through a field: the one place where it happens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.field.blending import Blend, BlendedField, StaticField
from copo.field.composite import OPAQUE_STEP, composite_weights, merged_weights, step_lengths
from copo.field.rays import Rays
from copo.field.sampling import importance_depths, uniform_depths
from copo.field.volume import Field, Heads, Probe, TriPlaneField
from copo.networks.decoder import Decoder


@dataclass(frozen=True)
class SamplingConfig:
    """Where rays are sampled and how they end.

    Attributes:
        near: Distance of the first sample from a camera that stands `distance` away from the origin, metres (paper).
        far: Distance of the last sample from such a camera, metres (paper; 1.15 for its videos).
        distance: Distance that `near` and `far` belong to; they move along with a camera that stands elsewhere.
        coarse: Uniform samples of each ray, at least 3 (paper: 48; 96 for its videos).
        fine: Importance samples of each ray; 0 for none (paper: 48; 96 for its videos).
        mode: "exact" is the published scheme. "fast" leaves out what cannot be seen, see docs/field.md.
        jitter: Random sample positions (training); without, the same camera always gives the same picture.
        opaque_end: Whether the last sample is as thick as a wall, so that every ray ends in matter (paper). Without,
            light passes and a background can show.
        outside: What lies outside the planes' cube: the "border" values of the planes (paper) or "nothing".
        chunk: Rays that are marched together when no gradient is needed; bounds the memory.
    """

    near: float = 0.88
    far: float = 1.12
    distance: float = 1.0
    coarse: int = 48
    fine: int = 48
    mode: Literal["exact", "fast"] = "exact"
    jitter: bool = False
    opaque_end: bool = True
    outside: Literal["border", "nothing"] = "border"
    chunk: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise CopoError(f"sampling: near {self.near:g} and far {self.far:g} must satisfy 0 < near < far")
        if self.coarse < 3 or self.fine < 0:
            raise CopoError(f"sampling: {self.coarse} coarse and {self.fine} fine samples: give at least 3 and 0")
        if self.chunk < 1:
            raise CopoError(f"sampling: chunk of {self.chunk} rays: give at least 1")

    def depth_range(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """(B, R) first and last depth of each ray, metres."""
        shift = rays.origins.norm(dim=-1) - self.distance
        return shift + self.near, shift + self.far


@dataclass(frozen=True)
class RayOutput:
    """What a batch of rays saw.

    Attributes:
        features: (B, R, F) composited features; the first three are colours, nominally in [0, 1].
        depth: (B, R) mean distance along the ray, metres; light that passes counts as seen at the far end.
        alpha: (B, R) opacity in [0, 1].
        classes: (B, R, K) composited class probabilities, whose sum is alpha.
        normals: (B, R, 3) unit vectors in the world, pointing out of the matter, or None where not asked for.
        static_share: (B, R) the smallest share that the static field has in any sample; None without one.
    """

    features: Tensor
    depth: Tensor
    alpha: Tensor
    classes: Tensor
    normals: Tensor | None = None
    static_share: Tensor | None = None


def render_rays(
    planes: Tensor,
    decoder: Decoder,
    rays: Rays,
    sampling: SamplingConfig,
    box: float,
    blend: Blend | None = None,
    static_planes: Tensor | None = None,
    static_frame: RayOutput | None = None,
    normals: bool = False,
    generator: torch.Generator | None = None,
) -> RayOutput:
    """Render rays through a tri-plane field, or through two that are blended.

    Args:
        planes: (B, 3, C, H, W).
        decoder: Point decoder.
        rays: B x R rays.
        sampling: Sample counts and mode.
        box: Half width of the cube that the planes cover, metres.
        blend: What is taken from the static field; None or no classes for no blending.
        static_planes: (B, 3, C, H, W) of the reference frame; needed for blending.
        static_frame: `render_static` of the same rays, if it is at hand; otherwise it is made.
        normals: Whether to compute surface normals.
        generator: Source of jitter.

    Returns:
        RayOutput.
    """
    heads = Heads(decoder)
    dynamic = TriPlaneField(planes, heads, box)
    if blend is None or not blend.classes:
        return march(dynamic, rays, sampling, normals, generator)
    if static_planes is None:
        raise CopoError("blending needs the planes of a reference frame: give static_planes")
    static = StaticField(TriPlaneField(static_planes, heads, box), blend)
    blended = BlendedField(static, dynamic)
    if not blend.shares_rays or torch.is_grad_enabled() or sampling.jitter:
        return march(blended, rays, sampling, normals, generator)
    still = static_frame if static_frame is not None else march(static, rays, sampling, normals)
    return _replace_mixed_rays(blended, still, rays, sampling, normals)


def render_static(planes: Tensor, decoder: Decoder, rays: Rays, sampling: SamplingConfig, box: float, blend: Blend,
                  normals: bool = False) -> RayOutput:  # fmt: skip
    """The reference frame alone, with the share of the static field in each ray, for reuse by `render_rays`."""
    return march(StaticField(TriPlaneField(planes, Heads(decoder), box), blend), rays, sampling, normals)


def _replace_mixed_rays(
    blended: BlendedField, still: RayOutput, rays: Rays, sampling: SamplingConfig, normals: bool
) -> RayOutput:
    """The reference frame where a ray meets static matter only; other rays are marched through both fields.

    On a ray whose samples are all static the blended density is the static one, so its fine samples and its result are
    those of the reference frame: taking them over is exact.
    """
    assert still.static_share is not None
    out = {k: v.clone() for k, v in vars(still).items() if v is not None}
    for b in range(still.alpha.shape[0]):
        part = slice(b, b + 1)
        mixed = torch.nonzero(still.static_share[b] < 1)[:, 0]
        if len(mixed):
            new = march(blended[part], rays[part, mixed], sampling, normals)
            for name, value in out.items():
                value[b, mixed] = getattr(new, name)[0]
    return RayOutput(**out)


def march(field: Field, rays: Rays, sampling: SamplingConfig, normals: bool = False,
          generator: torch.Generator | None = None) -> RayOutput:  # fmt: skip
    """Composite what rays meet in a field; without gradients, about `sampling.chunk` rays at a time."""
    batch, count = rays.axis_share.shape
    step = count if torch.is_grad_enabled() else max(1, sampling.chunk // max(batch, 1))
    if count <= step:
        return _march(field, rays, sampling, normals, generator)
    parts = [
        _march(field, rays[:, start : start + step], sampling, normals, generator) for start in range(0, count, step)
    ]
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return RayOutput(**{name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names})


def _march(
    field: Field, rays: Rays, sampling: SamplingConfig, normals: bool, generator: torch.Generator | None
) -> RayOutput:
    near, far = sampling.depth_range(rays)
    last = torch.full_like(far, OPAQUE_STEP) if sampling.opaque_end else (far - near) / (sampling.coarse - 1)
    depths = uniform_depths(near, far, sampling.coarse, generator, sampling.jitter)
    samples = [_look(field, rays, depths, sampling)]
    if sampling.fine:
        coarse_weights = composite_weights(samples[0].proposal.detach(), step_lengths(depths, last))
        fine = importance_depths(depths, coarse_weights, sampling.fine, generator, sampling.jitter)
        samples.append(_look(field, rays, fine, sampling))
        depths = torch.cat([depths, fine], dim=-1)
    weights = merged_weights(depths, torch.cat([s.density for s in samples], dim=-1), last)
    alpha = weights.sum(-1)
    distance = (weights * depths).sum(-1)
    features = classes = torch.zeros(())
    for sample, weight in zip(samples, weights.split([s.density.shape[-1] for s in samples], dim=-1), strict=True):
        seen, labels = _show(field.heads, sample, weight)
        features, classes = features + seen, classes + labels
    surface = rays.at((distance / alpha.clamp_min(1e-6))[..., None])[:, :, 0] if normals else None
    shares = [s.static_share.amin(-1) for s in samples if s.static_share is not None]
    return RayOutput(
        features=features,
        depth=distance + (1 - alpha) * far,
        alpha=alpha,
        classes=classes,
        normals=None if surface is None else surface_normals(field, surface),
        static_share=torch.stack(shares).amin(0) if shares else None,
    )


def _look(field: Field, rays: Rays, depths: Tensor, sampling: SamplingConfig) -> Probe:
    """The field along rays: (B, R, S) depths -> a Probe of shape (B, R, S, ...)."""
    points = rays.at(depths)
    probe = field.probe(points.flatten(1, 2))
    shape = depths.shape[1:]
    probe = Probe(
        density=probe.density.unflatten(1, shape),
        hidden=probe.hidden.unflatten(1, shape),
        label_hidden=probe.label_hidden.unflatten(1, shape),
        proposal=probe.proposal.unflatten(1, shape),
        static_share=None if probe.static_share is None else probe.static_share.unflatten(1, shape),
    )
    if sampling.outside == "border":
        return probe
    inside = (points.abs() <= field.box).all(-1)
    return replace(probe, density=probe.density * inside, proposal=probe.proposal * inside)


def _show(heads: Heads, sample: Probe, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The samples' share of a ray's features (B, R, F) and class probabilities (B, R, K); weights (B, R, S)."""
    colors = _weighted(weights, heads.colors(sample.hidden))
    others = heads.linear_features(_weighted(weights, sample.hidden), weights.sum(-1))
    classes = _weighted(weights, heads.class_logits(sample.label_hidden).softmax(-1))
    return torch.cat([colors, others], dim=-1), classes


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """(B, R, S), (B, R, S, K) -> (B, R, K)."""
    return (weights[..., None, :] @ values)[..., 0, :]


TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
"""Directions whose density differences give a gradient with four samples."""


def surface_normals(field: Field, points: Tensor) -> Tensor:
    """Unit normals (B, N, 3), pointing to where the density falls; zero where it does not change.

    The gradient is a finite difference over one texel of the planes, which are only piecewise smooth.

    Args:
        field: What the points lie in.
        points: (B, N, 3) world, metres.
    """
    directions = torch.tensor(TETRAHEDRON, dtype=points.dtype, device=points.device)
    corners = points[:, :, None] + field.texel * directions
    density = field.probe(corners.flatten(1, 2)).density.unflatten(1, (-1, len(directions)))
    return torch.nn.functional.normalize(-(density @ directions), dim=-1)
