"""Latents and cameras in, pictures out: the generator's networks and the volume renderer put together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import Camera
from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.field.blending import BACKGROUND, Blend
from copo.field.composite import RayOutput
from copo.field.fused import Backend, backend_for
from copo.field.guide import guide_for
from copo.field.rays import Rays, camera_rays, picture_size
from copo.field.render import render_rays, render_static, reuses_static
from copo.field.sampling import SamplingConfig
from copo.head.protocol import HeadModel
from copo.networks.generator import Generator
from copo.networks.layers import NoiseMode

FRONTAL_POSE = (torch.pi / 2, torch.pi / 2)
"""Pitch and yaw that planes are conditioned on unless told otherwise (published program, inference)."""


def sampling_of(config: GeneratorConfig) -> SamplingConfig:
    """The sampling that a generator is made for: with a background branch rays need not end in matter.

    This is the exact one; `SamplingConfig.fast` makes the fast one.
    """
    own_background = bool(config.background_channels)
    return SamplingConfig(
        near=config.near,
        far=config.far,
        coarse=config.coarse_samples,
        fine=config.fine_samples,
        opaque_end=not own_background,
        outside="nothing" if own_background else "border",
    )


@dataclass(frozen=True)
class PortraitPlanes:
    """What the networks made of a batch of latents; any number of cameras can look at it.

    Attributes:
        planes: (B, 3, C, H, W) tri-plane xz, xy, yz.
        ws: (B, n, w_dim) styles, which super-resolution reads too.
        background: (B, F, raw, raw) features behind the head, or None where the volume holds the background.
    """

    planes: Tensor
    ws: Tensor
    background: Tensor | None

    def __len__(self) -> int:
        return self.planes.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> PortraitPlanes:
        """A part of the batch; an integer keeps the batch dimension."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return PortraitPlanes(
            self.planes[index], self.ws[index], None if self.background is None else self.background[index]
        )

    def expand(self, batch: int) -> PortraitPlanes:
        """One portrait repeated without copying, or the same portraits where there are already `batch`.

        Raises:
            CopoError: There are neither one nor `batch`.
        """
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise CopoError(f"{len(self)} portraits for {batch} cameras: give one, or one for each")
        behind = self.background
        return PortraitPlanes(
            planes=self.planes.expand(batch, -1, -1, -1, -1),
            ws=self.ws.expand(batch, -1, -1),
            background=None if behind is None else behind.expand(batch, -1, -1, -1),
        )


@dataclass(frozen=True)
class PortraitFrame:
    """Pictures of a batch of portraits. All but `image` have the size of the volume-rendered picture.

    Attributes:
        image: (B, 3, H, W) final picture, RGB, nominally in [-1, 1], not clamped.
        raw: (B, 3, h, w) colours before super-resolution, nominally in [-1, 1].
        features: (B, F, h, w) what super-resolution read; the first three channels are colours in [0, 1].
        depth: (B, h, w) distance from the camera along its viewing axis, metres; the far end where light passes.
        alpha: (B, h, w) opacity of the volume in [0, 1].
        classes: (B, K, h, w) class probabilities with what lies behind the volume counted as background.
        normals: (B, 3, h, w) unit surface normals in the world, or None where not asked for.
    """

    image: Tensor
    raw: Tensor
    features: Tensor
    depth: Tensor
    alpha: Tensor
    classes: Tensor
    normals: Tensor | None


@dataclass
class Reference:
    """A frame whose hair, background or other classes shall stay still in others.

    It remembers its own picture from the last camera, so that a film from one camera renders it once.

    Attributes:
        planes: The reference portraits.
    """

    planes: PortraitPlanes
    _key: tuple[object, ...] = field(default=(), repr=False)
    _camera: Camera | None = field(default=None, repr=False)
    _frame: RayOutput | None = field(default=None, repr=False)

    def frame(self, camera: Camera, key: tuple[object, ...], make: Callable[[], RayOutput]) -> RayOutput:
        """The remembered picture where camera and `key` are those of the last call, otherwise a new one by `make`."""
        known = self._camera
        same = known is not None and all(
            a.shape == b.shape and torch.equal(a, b)
            for a, b in ((known.cam2world, camera.cam2world), (known.intrinsics, camera.intrinsics))
        )
        if self._frame is None or not same or key != self._key:
            self._key, self._camera, self._frame = key, camera, make()
        return self._frame


class PortraitField:
    """Renders a generator.

    Args:
        generator: Its networks; the caller chooses device, precision of weights and evaluation mode.
        sampling: Sample counts; by default what the generator's configuration says, exact.
        backend: Plain PyTorch or fused kernels.
        head: The head model of a guided backbone; by default the open head.
    """

    def __init__(
        self,
        generator: Generator,
        sampling: SamplingConfig | None = None,
        backend: Backend = "auto",
        head: HeadModel | None = None,
    ) -> None:
        self.generator, self.backend = generator, backend
        self.config = generator.config
        self.guide = guide_for(generator.config, head)
        self.sampling = sampling or sampling_of(generator.config)

    # --- networks ---------------------------------------------------------------------------------------------------

    def planes(
        self, z: Tensor, pose: Tensor | None = None, psi: float | Tensor = 1.0, noise: NoiseMode = "const"
    ) -> PortraitPlanes:
        """Run mapping, backbone and background branch.

        Args:
            z: (B, latent) in the order noise, shape, albedo, expression, illumination.
            pose: (B, 2) or (2,) pitch and yaw that the planes are conditioned on, radians; frontal by default.
            psi: Truncation in [0, 1]; 1 for none.
            noise: Per-pixel noise of the backbone.

        Raises:
            CopoError: z has another length or holds NaN or infinite numbers.
        """
        check_latent(z, self.config.latent)
        pose = z.new_tensor(FRONTAL_POSE) if pose is None else pose
        ws = self.generator.mapping(z, pose.expand(z.shape[0], 2), psi)
        planes = self.generator.synthesis(ws, noise=noise, guide=None if self.guide is None else self.guide(z))
        return PortraitPlanes(planes, ws, self.generator.background(z))

    def neutral(self, z: Tensor) -> Tensor:
        """The same latents with neutral expression, the default reference of a blended film."""
        c = self.config
        start = c.noise + c.shape + c.albedo
        return torch.cat([z[:, :start], torch.zeros_like(z[:, start : start + c.expression]),
                          z[:, start + c.expression :]], dim=1)  # fmt: skip

    # --- pictures ---------------------------------------------------------------------------------------------------

    def render(
        self,
        planes: PortraitPlanes,
        camera: Camera,
        *,
        blend: Blend | None = None,
        reference: Reference | None = None,
        sampling: SamplingConfig | None = None,
        size: int | tuple[int, int] | None = None,
        normals: bool = False,
        noise: NoiseMode = "const",
        generator: torch.Generator | None = None,
        upscale: bool = True,
    ) -> PortraitFrame:
        """Look at portraits.

        Args:
            planes: B portraits, or one for all cameras.
            camera: B cameras, or one for all portraits.
            blend: What is held still.
            reference: The frame that it is taken from; needed when `blend` has classes.
            sampling: Instead of the field's own.
            size: Rays per side or (height, width), instead of the configuration's; needs noise other than "const".
            normals: Whether to compute surface normals.
            noise: Per-pixel noise of super-resolution.
            generator: Source of jitter.
            upscale: Whether super-resolution runs; without, `image` is `raw`.

        Raises:
            CopoError: A camera stands in the head or does not see it, the size is zero, or the reference is missing.
        """
        sampling = sampling or self.sampling
        check_camera(camera, sampling, self.config.box)
        height, width = picture_size(self.config.raw_resolution if size is None else size)
        batch = max(len(planes), len(camera))
        planes, view = planes.expand(batch), camera.to(planes.planes.device).expand(batch)
        rays = camera_rays(view, (height, width), self.config.pixel_grid)
        decoder, box = self.generator.decoder, self.config.box
        background, styles, still, frame = planes.background, planes.ws, None, None
        if blend is not None and blend.classes:
            if reference is None:
                raise CopoError("blending needs a frame to hold on to: give reference, or a blend without classes")
            still = reference.planes.expand(batch)
            background = still.background if BACKGROUND in blend.classes else background
            styles = still.ws if blend.styles == "static" else styles
            if reuses_static(blend, sampling) and backend_for(self.backend, planes.planes, decoder) == "torch":
                frame = reference.frame(
                    camera,
                    (sampling, blend, height, width, batch),
                    functools.partial(render_static, still.planes, decoder, rays, sampling, box, blend),
                )
        out = render_rays(
            planes.planes,
            decoder,
            rays,
            sampling,
            box,
            blend=blend,
            static_planes=None if still is None else still.planes,
            static_frame=frame,
            normals=normals,
            generator=generator,
            backend=self.backend,
        )
        features, classes = add_background(out, background, (height, width), sampling.opaque_end)
        raw = features[:, :3] * 2 - 1
        return PortraitFrame(
            image=self.generator.super_resolution(features, styles, noise=noise) if upscale else raw,
            raw=raw,
            features=features,
            depth=(out.depth * rays.axis_share).unflatten(1, (height, width)),
            alpha=out.alpha.unflatten(1, (height, width)),
            classes=classes,
            normals=None if out.normals is None else as_picture(out.normals, (height, width)),
        )


def as_picture(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, R, K) along rays -> (B, K, h, w)."""
    return values.mT.unflatten(2, size)


def add_background(
    out: RayOutput, background: Tensor | None, size: tuple[int, int], opaque_end: bool
) -> tuple[Tensor, Tensor]:
    """Put the background behind the volume: out = volume + (1 - alpha) background, whose class is background.

    Args:
        out: What R = h w rays saw.
        background: (B, F, h', w') features, resized to the picture where needed, or None for black.
        size: (h, w).
        opaque_end: Whether rays end in matter by definition, so that nothing can lie behind.

    Returns:
        (B, F, h, w) features and (B, K, h, w) class probabilities.
    """
    features, classes = as_picture(out.features, size), as_picture(out.classes, size)
    if opaque_end:
        return features, classes
    passed = 1 - out.alpha.unflatten(1, size)[:, None]
    if background is not None:
        if background.shape[2:] != size:
            background = F.interpolate(background, size, mode="bilinear", align_corners=False)
        features = features + passed * background
    label = torch.cat([classes[:, :1] + passed, classes[:, 1:]], dim=1)
    return features, label


def check_latent(z: Tensor, length: int) -> None:
    """Refuse a latent that cannot be rendered.

    Raises:
        CopoError: z is not (B, length) or holds NaN or infinite numbers.
    """
    if z.ndim != 2 or z.shape[1] != length:
        raise CopoError(f"latent z has shape {tuple(z.shape)}: this generator expects (B, {length})")
    if not torch.compiler.is_compiling() and not z.is_cuda and not torch.isfinite(z).all():
        row = int(torch.nonzero(~torch.isfinite(z).all(1))[0])
        raise CopoError(f"latent z holds NaN or infinite numbers in row {row}: check the factors it was made from")


def check_camera(camera: Camera, sampling: SamplingConfig, box: float) -> None:
    """Refuse cameras from which there is nothing to see. Cameras on a GPU are not checked: that would make it wait.

    Raises:
        CopoError: There is no camera, or one stands in the head or looks away from it.
    """
    if not len(camera):
        raise CopoError("no camera given: give at least one")
    if camera.cam2world.is_cuda:
        return
    position = camera.position
    closest = max(box, sampling.distance - sampling.near)
    inside = (position.abs().amax(1) <= box) | (position.norm(dim=1) <= closest)
    if inside.any():
        index = int(torch.nonzero(inside)[0])
        raise CopoError(
            f"camera {index} stands inside the head, {float(position[index].norm()):.3g} m from its centre: "
            f"move it at least {closest * 3**0.5:.2g} m away"
        )
    hits = meets_box(camera_rays(camera, 16, "corners"), box).any(1)
    place, depth = camera.project(position.new_zeros(len(camera), 1, 3))
    hits |= ((place >= 0) & (place <= 1)).all(-1)[:, 0] & (depth[:, 0] > 0)
    if not hits.all():
        index = int(torch.nonzero(~hits)[0])
        raise CopoError(f"camera {index} looks away from the head: turn it towards the origin")


def meets_box(rays: Rays, box: float) -> Tensor:
    """(B, R) whether each ray meets the cube |x|, |y|, |z| <= box ahead of its origin."""
    step = torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    a, b = (-box - rays.origins) / step, (box - rays.origins) / step
    enter, leave = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
    return leave >= enter.clamp_min(0)
