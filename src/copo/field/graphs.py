"""Portraits at interactive rates on a GPU: half precision, fused kernels, one CUDA graph for each kind of call.

A frame is some seventy small launches, whose gaps would cost more than their work. A CUDA graph records them once, for
fixed shapes, and then replays them as one. `fast_field` gives the plain `PortraitField` where none of this is possible.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.field.blending import BACKGROUND, Blend
from copo.field.fused import interpreted, march_obstacle
from copo.field.portrait_field import (
    FRONTAL_POSE,
    PortraitField,
    PortraitFrame,
    PortraitPlanes,
    Reference,
    as_picture,
    check_camera,
    check_latent,
)
from copo.field.rays import camera_rays
from copo.field.sampling import SamplingConfig
from copo.networks.generator import Generator
from copo.networks.layers import NoiseMode


def fast_field(generator: Generator, sampling: SamplingConfig | None = None) -> PortraitField:
    """The fastest field for the device that the generator is on.

    Args:
        generator: Its weights are copied in half precision on a GPU: make a new field when they have changed.
        sampling: By default the generator's own, exact.

    Returns:
        A `GraphedPortraitField` on a GPU where its kernels fit, otherwise a plain `PortraitField`, after one warning if
        that is on a GPU.
    """
    obstacle = graph_obstacle(generator)
    if obstacle is None:
        return GraphedPortraitField(generator, sampling)
    if next(generator.parameters()).is_cuda:
        warnings.warn(
            f"the fast CUDA path is off, plain PyTorch runs instead: {obstacle}", RuntimeWarning, stacklevel=2
        )
    return PortraitField(generator, sampling)


def graph_obstacle(generator: Generator) -> str | None:
    """Why `GraphedPortraitField` cannot serve a generator, or None if it can."""
    obstacle = march_obstacle(generator.config.plane_channels, generator.config.decoder_hidden)
    if obstacle is None and not (next(generator.parameters()).is_cuda or interpreted()):
        obstacle = "the generator is not on a CUDA device"
    if obstacle is not None:
        return obstacle
    from copo.field.fused.pictures import pictures_obstacle  # needs Triton

    return pictures_obstacle(generator.config)


class Graph:
    """A function of tensors, recorded as a CUDA graph on the first call. On a CPU the function is simply called.

    What it returns is overwritten by the next call of any graph of the same pool: copy what shall stay.

    Args:
        function: Takes tensors, returns a tuple of tensors (or None); the same work on every call, without
            looking at values.
        pool: Handle of a memory pool, shared by graphs that never run at the same time.
        tune: Choose convolution algorithms by trial. Without, cuDNN's rules choose, in every process alike.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor | None, ...]], pool: Any = None, tune: bool = False
    ) -> None:
        self.function, self.pool, self.tune = function, pool, tune
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.outputs: tuple[Tensor | None, ...] = ()
        self.seen: list[tuple[Tensor, int | None]] = []

    def __call__(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        """Run on these inputs, which have the shapes of the first call; the first one's device decides where."""
        if not inputs[0].is_cuda:
            return self.function(*inputs)
        with torch.cuda.device_of(inputs[0]):
            if self.graph is None:
                self._record(inputs)
            for at, (mine, given) in enumerate(zip(self.inputs, inputs, strict=True)):
                last, version = self.seen[at]
                if last is not given or version is None or version != _version(given):  # otherwise it is here already
                    mine.copy_(given)
                    self.seen[at] = (given, _version(given))
            assert self.graph is not None
            self.graph.replay()
        return self.outputs

    def _record(self, inputs: Sequence[Tensor]) -> None:
        device = inputs[0].device
        self.inputs = [i.clone(memory_format=torch.preserve_format).to(device) for i in inputs]
        self.seen = [(i, _version(i)) for i in inputs]
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.backends.cudnn.flags(enabled=True, benchmark=self.tune, allow_tf32=True):
            for _ in range(2):  # compiles kernels, chooses algorithms
                self.function(*self.inputs)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
                self.outputs = self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = graph


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; inference tensors do not count."""
    return None if tensor.is_inference() else tensor._version


class GraphedStep:
    """A loss and its gradients, recorded as one CUDA graph: for training steps of fixed shapes.

    Every call overwrites `.grad` of the parameters with fresh gradients; they are not accumulated. On a CPU the step is
    simply run.

    Args:
        loss: Takes tensors, returns a scalar that has a gradient; the same work on every call.
        parameters: Whose gradients are wanted.
    """

    def __init__(self, loss: Callable[..., Tensor], parameters: Sequence[Tensor]) -> None:
        self.loss, self.parameters = loss, list(parameters)
        self._graph = Graph(self._step, tune=True)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run on these inputs, which have the shapes of the first call -> the loss."""
        (value,) = self._graph(*inputs)
        assert value is not None
        return value

    def _step(self, *inputs: Tensor) -> tuple[Tensor]:
        for parameter in self.parameters:
            parameter.grad = None
        with torch.enable_grad():
            value = self.loss(*inputs)
            value.backward()
        return (value.detach(),)


class GraphedPortraitField(PortraitField):
    """A `PortraitField` in half precision by fused kernels and CUDA graphs. It holds copies of the generator's weights.

    The first call of each kind (batch size, sampling, blending) compiles and records, which takes seconds. Calls that
    ask for normals, another picture size, jitter or fresh noise are passed on to the plain networks.

    Args:
        generator: Its networks, on a GPU.
        sampling: By default what the generator's configuration says, exact.

    Raises:
        CopoError: The generator does not fit; `graph_obstacle` tells beforehand.
    """

    def __init__(self, generator: Generator, sampling: SamplingConfig | None = None) -> None:
        super().__init__(generator, sampling)
        obstacle = graph_obstacle(generator)
        if obstacle is not None:
            raise CopoError(f"the fast CUDA path cannot be used: {obstacle}; use PortraitField")
        from copo.field.fused.march import pack
        from copo.field.fused.pictures import FusedMapping, FusedSuperResolution, FusedSynthesis

        self.mapping = FusedMapping(generator.mapping)
        self.synthesis = FusedSynthesis(generator.synthesis)
        self.super_resolution = FusedSuperResolution(generator.super_resolution, generator.config)
        self.decoder = pack(generator.decoder.linears(), generator.config.feature_channels)
        device = next(generator.parameters()).device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs: dict[tuple[object, ...], Graph] = {}
        self._constants: dict[tuple[object, ...], Tensor] = {}

    # --- calls ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def planes(
        self, z: Tensor, pose: Tensor | None = None, psi: float | Tensor = 1.0, noise: NoiseMode = "const"
    ) -> PortraitPlanes:
        """See `PortraitField.planes`; planes are in half precision."""
        if noise != "const":
            return super().planes(z, pose, psi, noise)
        planes, ws, background = self._graph(("planes", len(z)), self._networks)(*self._latent(z, pose, psi))
        assert planes is not None and ws is not None
        return PortraitPlanes(planes.clone(), ws.clone(), None if background is None else background.clone())

    @torch.no_grad()
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
        """See `PortraitField.render`."""
        sampling = sampling or self.sampling
        odd = normals or noise != "const" or sampling.jitter or not upscale
        if odd or size not in (None, self.config.raw_resolution):
            plain = replace(planes, planes=planes.planes.float())
            if reference is not None and reference.planes.planes.dtype != torch.float32:
                reference = Reference(replace(reference.planes, planes=reference.planes.planes.float()))
            return super().render(plain, camera, blend=blend, reference=reference, sampling=sampling, size=size,
                                  normals=normals, noise=noise, generator=generator, upscale=upscale)  # fmt: skip
        _check(camera, sampling, self.config.box)
        blend = blend if blend is not None and blend.classes else None
        batch = max(len(planes), len(camera))
        planes.expand(batch)  # refuses other numbers
        inputs = [*_tensors(planes), _flat(camera, batch), *_still(blend, reference, batch)]

        def look(*tensors: Tensor) -> tuple[Tensor | None, ...]:
            shown, (view, *rest) = self._take(tensors)
            still = self._take(rest)[0].expand(batch) if blend is not None else None
            return self._look(shown.expand(batch), view, sampling, blend, still)

        kind = ("render", batch, len(planes), len(reference.planes) if blend and reference else 0, sampling, blend)
        return self._frame(*self._graph(kind, look)(*inputs))

    @torch.no_grad()
    def frame(
        self,
        z: Tensor,
        camera: Camera,
        pose: Tensor | None = None,
        psi: float | Tensor = 1.0,
        *,
        blend: Blend | None = None,
        reference: Reference | None = None,
    ) -> PortraitFrame:
        """`planes` and `render` in one graph: a new latent, looked at once.

        Args:
            z: (B, latent).
            camera: B cameras, or one for all.
            pose: As for `planes`.
            psi: As for `planes`.
            blend: What is held still.
            reference: The frame that it is taken from; needed when `blend` has classes.
        """
        _check(camera, self.sampling, self.config.box)
        blend = blend if blend is not None and blend.classes else None
        batch = len(z)
        inputs = [*self._latent(z, pose, psi), _flat(camera, batch), *_still(blend, reference, batch)]

        def everything(*tensors: Tensor) -> tuple[Tensor | None, ...]:
            planes, ws, background = self._networks(*tensors[:3])
            assert planes is not None and ws is not None
            still = self._take(tensors[4:])[0].expand(batch) if blend is not None else None
            return self._look(PortraitPlanes(planes, ws, background), tensors[3], self.sampling, blend, still)

        kind = ("frame", batch, len(reference.planes) if blend and reference else 0, self.sampling, blend)
        return self._frame(*self._graph(kind, everything)(*inputs))

    # --- what the graphs hold ---------------------------------------------------------------------------------------

    def _networks(self, z: Tensor, pose: Tensor, psi: Tensor) -> tuple[Tensor | None, ...]:
        ws = self.mapping(z, pose, psi)
        planes = self.backbone(ws, None if self.guide is None else self.guide(z))
        return planes, ws, self.generator.background(z, torch.float16)

    def backbone(self, ws: Tensor, maps: Tensor | None) -> Tensor:
        """ws (B, n, w_dim) and the head's maps where the backbone is guided -> planes (B, 3, C, R, R) float16."""
        if maps is None:
            return self.synthesis(ws)
        return self.generator.synthesis(ws, dtype=torch.float16, guide=maps).half()

    def _look(
        self,
        shown: PortraitPlanes,
        view: Tensor,
        sampling: SamplingConfig,
        blend: Blend | None,
        still: PortraitPlanes | None,
    ) -> tuple[Tensor | None, ...]:
        """The picture (B, 3, H, W), and along rays: features (B, R, F), composited rows (B, R, ...), depth (B, R)."""
        from copo.field.fused.march import Scene, march, place

        side, batch = self.config.raw_resolution, len(shown)
        camera = Camera(view[:, :16].view(-1, 4, 4), view[:, 16:].view(-1, 3, 3))
        rays = camera_rays(camera, side, self.config.pixel_grid)
        fields = (shown.planes, None if still is None else still.planes)
        scene = Scene(self.config.box, sampling, blend)
        origins = rays.origins.contiguous()
        depths = place(fields, self.decoder, origins, rays.directions, scene)
        features, row = march(fields, self.decoder, origins, rays.directions, depths, scene, sampling.cutoff)
        if not sampling.opaque_end:
            passed = 1 - row[..., 4 + self.config.class_count, None]
            behind = shown.background
            if still is not None and blend is not None and BACKGROUND in blend.classes:
                behind = still.background
            if behind is not None:
                features = features + passed * behind.flatten(2).mT
            row[..., 4:5] += passed
        ws = still.ws if still is not None and blend is not None and blend.styles == "static" else shown.ws
        image = self.super_resolution(features.view(batch, side, side, -1), ws)
        return image, features, row, row[..., 0] * rays.axis_share, features[..., :3] * 2 - 1

    # --- tensors in and out -----------------------------------------------------------------------------------------

    def _graph(self, key: tuple[object, ...], function: Callable[..., tuple[Tensor | None, ...]]) -> Graph:
        if key not in self._graphs:
            self._graphs[key] = Graph(function, self._pool)
        return self._graphs[key]

    def _latent(self, z: Tensor, pose: Tensor | None, psi: float | Tensor) -> tuple[Tensor, ...]:
        """z, pose (B, 2) and psi (B, 1), each where it is; what is constant is made once."""
        check_latent(z, self.config.latent)
        constants: list[Tensor] = []
        for value, width in ((FRONTAL_POSE if pose is None else pose, 2), (psi, 1)):
            if isinstance(value, Tensor):
                constants.append(value.float().expand(len(z), width).contiguous())
                continue
            key = (len(z), value)
            if key not in self._constants:
                self._constants[key] = (
                    torch.tensor(value, device=self.decoder.w1.device).expand(len(z), width).contiguous()
                )
            constants.append(self._constants[key])
        return z.to(self.decoder.w1.device, torch.float32).contiguous(), *constants

    def _take(self, tensors: Sequence[Tensor]) -> tuple[PortraitPlanes, Sequence[Tensor]]:
        """The inverse of `_tensors`: planes, and the tensors that follow them."""
        own = 3 if self.config.background_channels else 2
        planes, ws, *background = tensors[:own]
        return PortraitPlanes(planes, ws, background[0] if background else None), tensors[own:]

    def _frame(self, *outputs: Tensor | None) -> PortraitFrame:
        image, features, row, depth, raw = (o.clone() for o in outputs if o is not None)
        side = (self.config.raw_resolution, self.config.raw_resolution)
        alpha = 4 + self.config.class_count
        return PortraitFrame(
            image=image,
            raw=as_picture(raw, side),
            features=as_picture(features, side),
            depth=depth.unflatten(1, side),
            alpha=row[..., alpha].unflatten(1, side),
            classes=as_picture(row[..., 4:alpha], side),
            normals=None,
        )


def _flat(camera: Camera, batch: int) -> Tensor:
    """A camera as one tensor (B, 25), so that it reaches the GPU in one copy."""
    view = camera.expand(batch)
    return torch.cat([view.cam2world.flatten(1), view.intrinsics.flatten(1)], dim=1)


def _check(camera: Camera, sampling: SamplingConfig, box: float) -> None:
    """`check_camera`, in microseconds where the origin is plainly in view."""
    if camera.cam2world.is_cuda or not len(camera):
        check_camera(camera, sampling, box)
        return
    for pose, k in zip(camera.cam2world.tolist(), camera.intrinsics.tolist(), strict=True):
        position = [row[3] for row in pose[:3]]
        x, y, z = (-sum(pose[i][axis] * position[i] for i in range(3)) for axis in range(3))
        far_enough = math.hypot(*position) > max(box * math.sqrt(3), sampling.distance - sampling.near)
        u, v = k[0][0] * x + k[0][1] * y + k[0][2] * z, k[1][1] * y + k[1][2] * z
        if not (far_enough and 0 <= u <= z and 0 <= v <= z and z > 0):
            check_camera(camera, sampling, box)


def _tensors(planes: PortraitPlanes) -> list[Tensor]:
    from copo.field.fused.march import texels

    parts = [texels(planes.planes), planes.ws]
    return parts if planes.background is None else [*parts, planes.background]


def _still(blend: Blend | None, reference: Reference | None, batch: int) -> list[Tensor]:
    if blend is None:
        return []
    if reference is None:
        raise CopoError("blending needs a frame to hold on to: give reference, or a blend without classes")
    reference.planes.expand(batch)  # refuses other numbers
    return _tensors(reference.planes)
