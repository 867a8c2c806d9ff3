"""Marching rays through a field: the one place where it happens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.field.blending import Blend, BlendedField, StaticField
from copo.field.composite import OPAQUE_STEP, RayOutput, composite_weights, merged_weights, step_lengths
from copo.field.fused import Backend, backend_for
from copo.field.rays import Rays
from copo.field.sampling import SamplingConfig, importance_depths, uniform_depths
from copo.field.volume import Field, Heads, Probe, TriPlaneField
from copo.networks.decoder import Decoder


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
    backend: Backend = "auto",
) -> RayOutput:
    """Render rays through a tri-plane field, or through two that are blended.

    Args:
        planes: (B, 3, C, H, W).
        decoder: Point decoder.
        rays: B x R rays.
        sampling: Sample counts and how rays end.
        box: Half width of the cube that the planes cover, metres.
        blend: What is taken from the static field; None or no classes for no blending.
        static_planes: (B, 3, C, H, W) of the reference frame; needed for blending.
        static_frame: `render_static` of the same rays, if it is at hand; otherwise it is made where it is of use.
        normals: Whether to compute surface normals.
        generator: Source of jitter.
        backend: Plain PyTorch, or the fused kernels, which have no gradient for blended fields.

    Returns:
        RayOutput.

    Raises:
        CopoError: Blending lacks the reference's planes.
    """
    heads = Heads(decoder)
    dynamic = TriPlaneField(planes, heads, box)
    field: Field = dynamic
    if blend is not None and blend.classes:
        if static_planes is None:
            raise CopoError("blending needs the planes of a reference frame: give static_planes")
        field = BlendedField(StaticField(TriPlaneField(static_planes, heads, box), blend), dynamic)
    with_gradient = torch.is_grad_enabled() and planes.requires_grad
    if not (with_gradient and field is not dynamic) and backend_for(backend, planes, decoder) == "triton":
        from copo.field.fused.march import render_rays_fused  # needs Triton

        out = render_rays_fused(planes, decoder, rays, sampling, box, blend, static_planes, generator, sampling.cutoff)
    elif isinstance(field, BlendedField) and blend is not None and reuses_static(blend, sampling):
        still = static_frame if static_frame is not None else march(field.static, rays, sampling)
        out = _replace_mixed_rays(field, still, rays, sampling)
    else:
        out = march(field, rays, sampling, generator)
    return replace(out, normals=_normals(field, rays, out, sampling)) if normals else out


def reuses_static(blend: Blend, sampling: SamplingConfig) -> bool:
    """Whether rays that meet static matter only are taken from the reference frame (`render_static`)."""
    return blend.shares_rays and not sampling.jitter and not torch.is_grad_enabled()


def render_static(
    planes: Tensor, decoder: Decoder, rays: Rays, sampling: SamplingConfig, box: float, blend: Blend
) -> RayOutput:
    """The reference frame alone, with the share of the static field in each ray, for reuse by `render_rays`."""
    return march(StaticField(TriPlaneField(planes, Heads(decoder), box), blend), rays, sampling)


def _replace_mixed_rays(field: BlendedField, still: RayOutput, rays: Rays, sampling: SamplingConfig) -> RayOutput:
    """The reference frame where a ray meets static matter only; other rays are marched through both fields.

    On a ray whose samples are all static the blended density is the static one, so its fine samples and its result are
    those of the reference frame: taking them over is exact.
    """
    assert still.static_share is not None
    out = {name: value.clone() for name, value in vars(still).items() if value is not None}
    for b in range(still.alpha.shape[0]):
        part = slice(b, b + 1)
        mixed = torch.nonzero(still.static_share[b] < 1)[:, 0]
        if len(mixed):
            new = march(field[part], rays[part, mixed], sampling)
            for name, value in out.items():
                value[b, mixed] = getattr(new, name)[0]
    return RayOutput(**out)


def march(field: Field, rays: Rays, sampling: SamplingConfig, generator: torch.Generator | None = None) -> RayOutput:
    """Composite what rays meet in a field; without gradients, about `sampling.chunk` rays at a time."""
    parts = [_march(field, rays[:, span], sampling, generator) for span in _spans(rays, sampling)]
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return RayOutput(**{name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names})


def _spans(rays: Rays, sampling: SamplingConfig) -> list[slice]:
    """Rays that are marched together; all, where one random number moves all samples of a picture."""
    batch, count = rays.axis_share.shape
    step = count if torch.is_grad_enabled() or sampling.jitter == "picture" else max(1, sampling.chunk // batch)
    return [slice(start, start + step) for start in range(0, count, step)]


def _march(field: Field, rays: Rays, sampling: SamplingConfig, generator: torch.Generator | None) -> RayOutput:
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
    shown = [
        _show(field.heads, sample, weight)
        for sample, weight in zip(samples, weights.split([s.density.shape[-1] for s in samples], dim=-1), strict=True)
    ]
    shares = [s.static_share.amin(-1) for s in samples if s.static_share is not None]
    return RayOutput(
        features=torch.stack([features for features, _ in shown]).sum(0),
        depth=(weights * depths).sum(-1) + (1 - alpha) * far,
        alpha=alpha,
        classes=torch.stack([classes for _, classes in shown]).sum(0),
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


def _normals(field: Field, rays: Rays, out: RayOutput, sampling: SamplingConfig) -> Tensor:
    """(B, R, 3) normals at the mean depth of the matter that is seen."""
    far = sampling.depth_range(rays)[1]
    depth = (out.depth - (1 - out.alpha) * far) / out.alpha.clamp_min(1e-6)
    points = rays.at(depth[..., None])[:, :, 0]
    return torch.cat([surface_normals(field, points[:, span]) for span in _spans(rays, sampling)], dim=1)


NORMAL_STEP = 0.05
"""Distance of those samples from the surface, in texels of the planes."""


def surface_normals(field: Field, points: Tensor) -> Tensor:
    """Unit normals (B, N, 3), pointing to where the density falls; zero where it does not change.

    The gradient is a finite difference over a small part of a texel: surfaces are often thinner than a texel, and
    across one the density is so curved that wider differences point askew.

    Args:
        field: What the points lie in.
        points: (B, N, 3) world, metres.
    """
    directions = torch.tensor(TETRAHEDRON, dtype=points.dtype, device=points.device)
    corners = points[:, :, None] + NORMAL_STEP * field.texel * directions
    density = field.probe(corners.flatten(1, 2)).density.unflatten(1, (-1, len(directions)))
    return torch.nn.functional.normalize(-(density @ directions), dim=-1)
