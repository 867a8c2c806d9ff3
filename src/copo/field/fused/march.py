"""Rays through a tri-plane field by fused kernels: the fast twin of `copo.field.render.render_rays`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from copo.errors import CopoError
from copo.field.blending import Blend
from copo.field.composite import OPAQUE_STEP, RayOutput
from copo.field.fused import interpreted, kernels
from copo.field.planes import BOX_MARGIN
from copo.field.rays import Rays
from copo.field.sampling import SamplingConfig, moved_quantiles, uniform_depths
from copo.field.volume import COLORS
from copo.networks.decoder import Decoder, DecoderWeights

PRECISION = torch.float16
"""Type of plane features and of the operands of the decoder's matrix products; sums are float32."""

RAYS, WARPS = 32, 2
"""Rays and warps of a program of the march. 64 and 4 are as fast, but there Triton 3.6 makes a forward march that fails
on an H100 (illegal memory access, or features that are not finite)."""

GRADIENT_RAYS, GRADIENT_WARPS = 64, 4
"""The same for the backward march. 16 and 2, with 4 programs per multiprocessor, take a tenth longer."""

GRADIENT_PROGRAMS = 2
"""Programs of the backward march per multiprocessor."""


class Packed(NamedTuple):
    """Decoder weights in the kernels' layout (see `kernels`); those of matrix products in half precision.

    Attributes:
        w1: (C, H) hidden layer.
        b1: (H,) float32.
        heads_w: (H, NH) rows density, colours, classes.
        heads_b: (NH,) float32.
        linear_w: (H, NF) features without activation; zeros for the colours' columns.
        linear_b: (NF,) float32.
        features: Number of features, colours included.
        class_count: Number of classes K.
    """

    w1: Tensor
    b1: Tensor
    heads_w: Tensor
    heads_b: Tensor
    linear_w: Tensor
    linear_b: Tensor
    features: int
    class_count: int

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes as the kernels name them."""
        hidden, columns = self.heads_w.shape
        return {"C": self.w1.shape[0], "HID": hidden, "NH": columns, "K": self.class_count}


@torch.no_grad()
def pack(weights: DecoderWeights, features: int) -> Packed:
    """Bring decoder weights with `features` composited features (colours included) into the kernels' layout."""
    class_count = weights.out_weight.shape[0] - features - 1
    columns = max(16, triton.next_power_of_2(class_count + COLORS + 2))
    linear = (-features) % max(16, triton.next_power_of_2(features))
    head_padding = columns - (class_count + COLORS + 1)
    heads, linears = (_head_rows(v, features) for v in (weights.out_weight, weights.out_bias)), slice(COLORS, features)
    heads_w, heads_b = heads
    return Packed(
        weights.hidden_weight.T.to(PRECISION).contiguous(),
        weights.hidden_bias.float().contiguous(),
        F.pad(heads_w, (0, 0, 0, head_padding)).T.to(PRECISION).contiguous(),
        F.pad(heads_b, (0, head_padding)).float().contiguous(),
        F.pad(weights.out_weight[linears], (0, 0, COLORS, linear)).T.to(PRECISION).contiguous(),
        F.pad(weights.out_bias[linears], (COLORS, linear)).float().contiguous(),
        features,
        class_count,
    )


def _head_rows(rows: Tensor, features: int) -> Tensor:
    """Decoder rows [colours | features | density | classes] -> [density | colours | classes]."""
    return torch.cat([rows[features : features + 1], rows[:COLORS], rows[features + 1 :]])


def texels(planes: Tensor) -> Tensor:
    """Planes (B, 3, C, H, W) in half precision with the channels of a texel side by side; no copy if they are so."""
    planes = planes.detach().to(PRECISION)
    if planes.stride(2) == 1:
        return planes
    return planes.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


class Scene(NamedTuple):
    """What every kernel needs to know, apart from tensors.

    Attributes:
        box: Half width of the cube that the planes cover, metres.
        sampling: Where rays are sampled.
        blend: What is taken from the static field; None for no blending.
    """

    box: float
    sampling: SamplingConfig
    blend: Blend | None

    @property
    def last_step(self) -> float:
        """Length of a ray's last step, metres."""
        s = self.sampling
        return OPAQUE_STEP if s.opaque_end else (s.far - s.near) / (s.coarse - 1)

    @property
    def scale(self) -> float:
        """Metres to units of the planes' half width."""
        return 1.0 / (self.box + BOX_MARGIN)

    @property
    def blending(self) -> tuple[int, int, float]:
        """Kind (0 none, 1 hard, 2 soft), bit set of classes, softness."""
        if self.blend is None:
            return 0, 0, 1.0
        bits = sum(1 << index for index in self.blend.classes)
        return (1 if self.blend.mode == "hard" else 2), bits, self.blend.softness


def render_rays_fused(
    planes: Tensor,
    decoder: Decoder,
    rays: Rays,
    sampling: SamplingConfig,
    box: float,
    blend: Blend | None = None,
    static_planes: Tensor | None = None,
    generator: torch.Generator | None = None,
    cutoff: float = 0.0,
) -> RayOutput:
    """Render rays in half precision with float32 sums.

    Differentiable in the planes and the decoder, not in the rays, and not where two fields are blended.

    Args:
        planes: (B, 3, C, H, W), C a power of two from 16 on, H = W.
        decoder: Point decoder, hidden width a power of two from 16 on.
        rays: B x R rays.
        sampling: Sample counts and mode.
        box: Half width of the cube that the planes cover, metres.
        blend: What is taken from the static field; None or no classes for no blending.
        static_planes: (B, 3, C, H, W) of the reference frame; needed for blending.
        generator: Source of jitter.
        cutoff: Leave out samples that less than this share of the light reaches; 0 for none. Without gradients only.

    Returns:
        RayOutput without normals and static share.
    """
    with torch.cuda.device_of(planes):
        return _render(planes, decoder, rays, sampling, box, blend, static_planes, generator, cutoff)


def _render(
    planes: Tensor,
    decoder: Decoder,
    rays: Rays,
    sampling: SamplingConfig,
    box: float,
    blend: Blend | None,
    static_planes: Tensor | None,
    generator: torch.Generator | None,
    cutoff: float,
) -> RayOutput:
    scene = Scene(box, sampling, blend if blend is not None and blend.classes else None)
    fields = (texels(planes), None if static_planes is None else texels(static_planes))
    weights = decoder.linears()
    packed = pack(weights, decoder.feature_channels)
    origins, directions = (v.detach().float().contiguous() for v in (rays.origins, rays.directions))
    depths = place(fields, packed, origins, directions, scene, generator)
    classes, alpha = slice(4, 4 + packed.class_count), 4 + packed.class_count
    if not (torch.is_grad_enabled() and (planes.requires_grad or weights.out_weight.requires_grad)):
        features, row = march(fields, packed, origins, directions, depths, scene, cutoff)
        return RayOutput(features, row[..., 0], row[..., alpha], row[..., classes])
    if scene.blend is not None:
        raise CopoError("the fused kernels have no gradient for blended fields: use backend 'torch'")
    linear = slice(COLORS, packed.features)
    hidden_sum, row = _March.apply(planes, *weights, fields[0], origins, directions, depths, scene, packed)
    others = hidden_sum @ weights.out_weight[linear].T + row[..., alpha, None] * weights.out_bias[linear]
    return RayOutput(
        features=torch.cat([row[..., 1:4], others], dim=-1),
        depth=row[..., 0] + (1 - row[..., alpha]) * sampling.depth_range(rays)[1],
        alpha=row[..., alpha],
        classes=row[..., classes],
    )


def place(
    fields: tuple[Tensor, Tensor | None],
    packed: Packed,
    origins: Tensor,
    directions: Tensor,
    scene: Scene,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Depths (B, R, coarse + fine) of the samples, in order: uniform ones, and more where the field is dense.

    Args:
        fields: Half-precision planes (B, 3, C, H, W) of the field and of the static field, channels side by side.
        packed: Decoder.
        origins: (B, R, 3) float32, contiguous.
        directions: (B, R, 3) likewise.
        scene: What to sample.
        generator: Source of jitter.
    """
    planes, static = fields
    s = scene.sampling
    batch, count = origins.shape[:2]
    like: dict[str, Any] = {"device": origins.device, "dtype": torch.float32}
    if not s.fine:
        shift = origins.norm(dim=-1) - s.distance
        return uniform_depths(shift + s.near, shift + s.far, s.coarse, generator, s.jitter)
    density = torch.empty(batch, count, s.coarse, **like)
    depths = torch.empty(batch, count, s.coarse + s.fine, **like)
    random = quantiles = depths  # not read
    if s.jitter:
        random, quantiles = jitter_numbers(s, batch, count, origins.device, generator)
    kind, bits, softness = scene.blending
    if scene.blend is not None and scene.blend.proposals == "dynamic":
        kind = 0
    step = (s.far - s.near) / (s.coarse - 1)
    kernels.densities[triton.cdiv(count, RAYS), batch](
        planes, planes if static is None else static, origins, directions, *packed[:4], random, density,
        count, s.coarse, *_layout(planes), _step(planes, static), scene.scale, scene.box, s.near, step, s.distance,
        bits, softness,
        **packed.sizes, RAYS=RAYS, BLEND=kind, CLIP=s.outside == "nothing", JITTER=bool(s.jitter), num_warps=WARPS,
    )  # fmt: skip
    width = max(32, triton.next_power_of_2(max(s.coarse, s.fine)))
    rays = max(1, 512 // width)
    kernels.place_samples[(triton.cdiv(batch * count, rays),)](
        density, origins, random, quantiles, depths,
        batch * count, s.coarse, s.fine, s.near, step, s.distance, scene.last_step,
        RAYS=rays, NC=width, NF=width, JITTER=bool(s.jitter), num_warps=4,
    )  # fmt: skip
    return depths


def jitter_numbers(
    sampling: SamplingConfig, batch: int, count: int, device: torch.device, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Uniform random numbers (B, R, coarse) that move coarse samples, and in order (B, R, fine) that place fine ones.

    The partial sums of n + 1 exponential numbers over their total are n sorted uniform ones, without sorting.
    """
    if sampling.jitter == "picture":
        moves = torch.rand(2, batch, 1, 1, device=device, generator=generator)
        random = moves[0].expand(batch, count, sampling.coarse).contiguous()
        return random, moved_quantiles(sampling.fine, moves[1]).expand(batch, count, sampling.fine).contiguous()
    random = torch.rand(batch, count, sampling.coarse, device=device, generator=generator)
    numbers = torch.empty(batch, count, sampling.fine + 1, device=device).exponential_(generator=generator)
    sums = numbers @ torch.ones(sampling.fine + 1, sampling.fine + 1, device=device).triu()  # cumsum is slower
    return random, sums[..., :-1] / sums[..., -1:]


def march(
    fields: tuple[Tensor, Tensor | None],
    packed: Packed,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    scene: Scene,
    cutoff: float = 0.0,
    sums: bool = False,
) -> tuple[Tensor, Tensor]:
    """Composite the samples at given depths (B, R, S); the other arguments as for `place`.

    Args:
        cutoff: Leave out samples that less than this share of the light reaches; 0 for none.
        sums: Give the bare sums along rays that gradients need.

    Returns:
        Features (B, R, F), or with `sums` the hidden vectors (B, R, H); and rows (B, R, NH): depth, colours, classes,
        opacity.
    """
    planes, static = fields
    batch, count, samples = depths.shape
    width = len(packed.b1) if sums else packed.features
    out = torch.empty(batch, count, width, device=depths.device)
    row = torch.empty(batch, count, len(packed.heads_b), device=depths.device)
    kind, bits, softness = scene.blending
    dynamic_labels = scene.blend is not None and scene.blend.labels == "dynamic"
    s = scene.sampling
    kernels.march_forward[triton.cdiv(count, RAYS), batch](
        planes, planes if static is None else static, origins, directions, depths, *packed[:6], out, row,
        count, samples, packed.features, *_layout(planes), _step(planes, static), scene.scale, scene.box,
        scene.last_step, s.far, s.distance, -math.log(cutoff) if cutoff else 0.0, bits, softness,
        **packed.sizes, NF=len(packed.linear_b), RAYS=RAYS, BLEND=kind, CLIP=s.outside == "nothing", STOP=cutoff > 0,
        DYNAMIC_LABELS=dynamic_labels, SUMS=sums, num_warps=WARPS,
    )  # fmt: skip
    return out, row


class _March(torch.autograd.Function):
    """`march` through one field, with gradients for its planes and the decoder."""

    @staticmethod
    def forward(
        ctx: Any,
        planes: Tensor,
        hidden_weight: Tensor,
        hidden_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        half_planes: Tensor,
        origins: Tensor,
        directions: Tensor,
        depths: Tensor,
        scene: Scene,
        packed: Packed,
    ) -> tuple[Tensor, Tensor]:
        hidden_sum, row = march((half_planes, None), packed, origins, directions, depths, scene, sums=True)
        ctx.save_for_backward(half_planes, origins, directions, depths, *packed[:4], hidden_sum, row)
        ctx.scene, ctx.features, ctx.class_count = scene, packed.features, packed.class_count
        ctx.planes_type = planes.dtype
        return hidden_sum, row

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden_grad: Tensor, row_grad: Tensor) -> tuple[Tensor | None, ...]:
        planes, origins, directions, depths, w1, b1, heads_w, heads_b, hidden_sum, row = ctx.saved_tensors
        batch, count, samples = depths.shape
        channels, size = planes.shape[2], planes.shape[3]
        like = {"device": planes.device, "dtype": torch.float32}
        planes_grad = torch.zeros(batch, size, size, 3, channels, **like)
        tiles = triton.cdiv(count, GRADIENT_RAYS) * batch
        processors = 1 if interpreted() else torch.cuda.get_device_properties(planes.device).multi_processor_count
        programs = min(tiles, processors * GRADIENT_PROGRAMS)
        partial = [torch.empty(programs, *w.shape, **like) for w in (w1.T, b1, heads_w, heads_b)]
        scene: Scene = ctx.scene
        kernels.march_backward[(programs,)](
            planes, origins, directions, depths, w1, b1, heads_w, heads_b, hidden_sum, row,
            hidden_grad.contiguous(), row_grad.contiguous(), planes_grad, *partial,
            count, tiles, samples, *_layout(planes), scene.scale, scene.box, scene.last_step,
            C=channels, HID=len(b1), NH=len(heads_b), K=ctx.class_count, RAYS=GRADIENT_RAYS,
            CLIP=scene.sampling.outside == "nothing", GRAD=_GRADIENT_TYPE, num_warps=GRADIENT_WARPS,
        )  # fmt: skip
        w1_grad, b1_grad, heads_w_grad, heads_b_grad = (p.sum(0) for p in partial)
        features, classes = ctx.features, ctx.class_count
        out_weight_grad = _out_rows(heads_w_grad.T, features, classes)
        out_bias_grad = _out_rows(heads_b_grad, features, classes)
        planes_grad = planes_grad.permute(0, 3, 4, 1, 2).to(ctx.planes_type)
        none = (None,) * 6
        return planes_grad, w1_grad, b1_grad, out_weight_grad, out_bias_grad, *none


def _out_rows(heads: Tensor, features: int, classes: int) -> Tensor:
    """Gradients of the head rows [density | colours | classes | padding] -> of the decoder's output rows."""
    linear = heads.new_zeros(features - COLORS, *heads.shape[1:])
    return torch.cat([heads[1:4], linear, heads[:1], heads[4 : 4 + classes]])


_GRADIENT_TYPE = kernels.tl.float32 if interpreted() else kernels.tl.bfloat16
"""Type of gradients in matrix products: float32's range matters more than digits. The interpreter lacks bfloat16."""


def _step(planes: Tensor, static: Tensor | None) -> int:
    """Numbers from one image of the static planes to the next: none where one serves all.

    Raises:
        CopoError: They are laid out otherwise than the field's own.
    """
    if static is None:
        return planes.stride(0)
    if _layout(static)[2:] != _layout(planes)[2:] or static.shape[-1] != planes.shape[-1]:
        raise CopoError("static planes are laid out otherwise than the field's: pass both through texels")
    return static.stride(0)


def _layout(planes: Tensor) -> tuple[int, int, int, int, int]:
    """Side, and strides of image, plane, row and column in numbers."""
    return planes.shape[-1], planes.stride(0), planes.stride(1), planes.stride(3), planes.stride(4)
