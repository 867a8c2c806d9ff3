"""Speed, memory and fidelity of the portrait field, with the peers' recorded figures beside ours.

Weights are random (seed 0): speed does not depend on them, and fidelity is at its worst, because a random field is fog
in which every sample of a ray shows. Times are medians of whole calls, the GPU waited for; cameras and latents are
fresh in every call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from copo.bench.timing import Figure, machine, median_ms
from copo.camera import Camera
from copo.config import preset
from copo.field.blending import Blend
from copo.field.graphs import Graph, GraphedPortraitField, GraphedStep, fast_field
from copo.field.guide import guide_for
from copo.field.portrait_field import PortraitField, Reference, add_background, sampling_of
from copo.field.rays import camera_rays
from copo.field.render import render_rays
from copo.field.sampling import SamplingConfig
from copo.networks.generator import Generator

RELEASE, EG3D = "CoPo release", "EG3D"

PEERS: dict[str, dict[str, dict[str, float]]] = {
    "ffhq_512 on cuda": {
        "frame": {RELEASE: 38.0, EG3D: 24.5},
        "blended": {RELEASE: 54.8},
        "camera": {EG3D: 11.0},
        "training": {RELEASE: 146.0},
        "memory": {RELEASE: 4.7},
    },
    "ffhq_512 on cpu": {"frame": {RELEASE: 5900.0}},
}
"""Recorded on one H100 80GB (or 2 CPU cores) with random weights; the release's frames have 96 + 96 samples on the GPU
and 48 + 48 on the CPU, EG3D's 48 + 48. Milliseconds and GB."""

GOALS: dict[str, dict[str, float]] = {
    "ffhq_512 on cuda": {"frame": 4.0, "blended": 5.5, "camera": 2.5, "training": 20.0, "memory": 2.35, "psnr": 40.0},
    "portrait_256 on cpu": {"frame": 800.0, "camera": 400.0, "psnr": 40.0},
}
"""What is asked for, for an H100 and for two CPU cores."""

TRAINING_BATCH = 4


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        preset: The generator's configuration.
        machine: Where.
        figures: Times, memory, fidelity.
        stages: Milliseconds of the parts of one exact frame.
    """

    preset: str
    machine: dict[str, object]
    figures: list[Figure]
    stages: dict[str, float]


def measure(
    preset_name: str, device: torch.device, repeats: int = 20, training: bool = True, compiled: bool = True
) -> Report:
    """Measure one preset on one device.

    Args:
        preset_name: Name in `copo.config.PRESETS`.
        device: CPU or CUDA.
        repeats: Timed calls of each figure.
        training: Whether to time a generator step, on CUDA only.
        compiled: Whether its picture networks are compiled, which takes a minute or two.
    """
    torch.manual_seed(0)
    config = preset(preset_name)
    generator = Generator(config).to(device).eval().requires_grad_(False)
    key = f"{preset_name} on {device.type}"
    goals, peers = GOALS.get(key, {}), PEERS.get(key, {})

    def figure(what: str, name: str, value: float, unit: str = "ms") -> Figure:
        return Figure(what, value, unit, goals.get(name), peers.get(name, {}))

    exact = fast_field(generator)
    fast = fast_field(generator, exact.sampling.fast())
    counts = {id(f): f"{f.sampling.coarse} + {f.sampling.fine}" for f in (exact, fast)}
    figures = []
    with torch.no_grad():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for field, kind in ((exact, "exact"), (fast, "fast")):
            for what, name, call in _calls(field, device):
                value = median_ms(call, device, repeats)
                figures.append(figure(f"{what}, {kind} ({counts[id(field)]} samples)", name, value))
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 1e9
            figures.append(figure("peak memory, inference", "memory", peak, "GB"))
        figures.append(figure("fast against exact, worst picture", "psnr", worst_psnr(fast, exact, device), "dB"))
        if isinstance(exact, GraphedPortraitField):
            plain = PortraitField(generator, backend="torch")
            value = worst_psnr(exact, plain, device)
            figures.append(figure("exact in half precision against plain float32, worst picture", "psnr", value, "dB"))
        stages = _stages(exact, device, repeats)
    if training and device.type == "cuda":
        what = f"generator forward and backward, {TRAINING_BATCH} images ({counts[id(exact)]} samples)"
        figures.append(figure(what, "training", _training(generator, repeats, compiled)))
    return Report(preset_name, machine(device), figures, stages)


def _latents(field: PortraitField, device: torch.device) -> Iterator[Tensor]:
    kept = torch.randn(8, 1, field.config.latent, generator=torch.Generator().manual_seed(1)).to(device)
    return itertools.cycle(kept)


def _cameras() -> Iterator[Camera]:
    angles = [2 * math.pi * k / 8 for k in range(8)]
    pitch = torch.tensor([math.pi / 2 + 0.2 * math.sin(a) for a in angles])
    yaw = torch.tensor([math.pi / 2 + 0.4 * math.cos(a) for a in angles])
    cameras = Camera.from_pitch_yaw(pitch, yaw)
    return itertools.cycle([cameras[k] for k in range(8)])


def _frame(
    field: PortraitField, z: Tensor, camera: Camera, blend: Blend | None = None, reference: Reference | None = None
) -> Tensor:
    if isinstance(field, GraphedPortraitField):
        return field.frame(z, camera, blend=blend, reference=reference).image
    return field.render(field.planes(z), camera, blend=blend, reference=reference).image


def _calls(field: PortraitField, device: torch.device) -> list[tuple[str, str, Callable[[], object]]]:
    latents, cameras = _latents(field, device), _cameras()
    planes = field.planes(next(latents))
    reference, both = Reference(planes), Blend.of("both")
    still = next(_cameras())
    return [
        ("new latent", "frame", lambda: _frame(field, next(latents), next(cameras))),
        ("blended frame (both)", "blended", lambda: _frame(field, next(latents), still, both, reference)),
        ("new camera, cached planes", "camera", lambda: field.render(planes, next(cameras))),
    ]


def worst_psnr(field: PortraitField, expected: PortraitField, device: torch.device) -> float:
    """Lowest peak signal-to-noise ratio of a few pictures, decibels; the peak is the displayed range, 2."""
    worst = math.inf
    for _, z, camera in zip(range(4), _latents(field, device), _cameras(), strict=False):
        error = (_frame(field, z, camera) - _frame(expected, z, camera)).square().mean()
        worst = min(worst, 10 * math.log10(4 / max(float(error), 1e-20)))
    return worst


def _stages(field: PortraitField, device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of the parts of an exact frame, each alone."""
    z, camera = next(_latents(field, device)), next(_cameras())
    parts = (
        _graphed_parts(field, z, camera) if isinstance(field, GraphedPortraitField) else _plain_parts(field, z, camera)
    )
    return {name: median_ms(call, device, repeats) for name, call in parts.items()}


def _graphed_parts(field: GraphedPortraitField, z: Tensor, camera: Camera) -> dict[str, Callable[[], object]]:
    from copo.field.fused.march import Scene, march, place

    config, decoder = field.config, field.decoder
    pose, psi = z.new_full((1, 2), math.pi / 2), z.new_ones(1, 1)
    ws = field.mapping(z, pose, psi)
    maps = None if field.guide is None else field.guide(z)
    planes = field.backbone(ws, maps)
    view = camera.to(z.device)
    rays = camera_rays(view, config.raw_resolution, config.pixel_grid)
    origins, directions = rays.origins.contiguous(), rays.directions.contiguous()
    scene = Scene(config.box, field.sampling, None)
    depths = place((planes, None), decoder, origins, directions, scene)
    features, _ = march((planes, None), decoder, origins, directions, depths, scene)
    picture = features.view(1, config.raw_resolution, config.raw_resolution, -1)

    def all_rays(pose: Tensor, k: Tensor) -> tuple[Tensor]:
        return (camera_rays(Camera(pose, k), config.raw_resolution, config.pixel_grid).directions,)

    def graph(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Callable[[], object]:
        recorded = Graph(function)
        return lambda: recorded(*inputs)

    parts = {
        "mapping": graph(lambda z, pose, psi: (field.mapping(z, pose, psi),), z, pose, psi),
        "backbone": graph(lambda ws: (field.backbone(ws, maps),), ws.contiguous()),
        "rays": graph(all_rays, view.cam2world, view.intrinsics),
        "placing samples": graph(lambda p: (place((p, None), decoder, origins, directions, scene),), planes),
        "march": graph(lambda p: march((p, None), decoder, origins, directions, depths, scene), planes),
        "super-resolution": graph(lambda x, ws: (field.super_resolution(x, ws),), picture, ws.contiguous()),
    }
    if config.background_channels:
        parts["background"] = graph(lambda z: (_given(field.generator.background(z, torch.float16)),), z)
    return parts


def _plain_parts(field: PortraitField, z: Tensor, camera: Camera) -> dict[str, Callable[[], object]]:
    generator, config = field.generator, field.config
    pose = z.new_full((1, 2), math.pi / 2)
    ws = generator.mapping(z, pose)
    maps = None if field.guide is None else field.guide(z)
    planes = generator.synthesis(ws, guide=maps)
    rays = camera_rays(camera.to(z.device), config.raw_resolution, config.pixel_grid)
    side = config.raw_resolution
    features = z.new_zeros(1, config.feature_channels, side, side)
    parts: dict[str, Callable[[], object]] = {
        "mapping": lambda: generator.mapping(z, pose),
        "backbone": lambda: generator.synthesis(ws, guide=maps),
        "field": lambda: render_rays(planes, generator.decoder, rays, field.sampling, config.box),
        "super-resolution": lambda: generator.super_resolution(features, ws),
    }
    if config.background_channels:
        parts["background"] = lambda: generator.background(z)
    return parts


def _given(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


def training_loss(
    generator: Generator,
    sampling: SamplingConfig,
    synthesis: Callable[..., Tensor],
    super_resolution: Callable[..., Tensor],
    dtype: torch.dtype,
) -> Callable[..., Tensor]:
    """A generator's forward pass as in training, with a loss that depends on everything that it makes.

    Args:
        generator: Its mapping and decoder are used.
        sampling: Sample counts.
        synthesis: Its backbone, maybe compiled.
        super_resolution: Likewise.
        dtype: Type of the pictures' activations.

    Returns:
        A function of z (B, latent), pose (B, 2), cam2world (B, 4, 4) and intrinsics (B, 3, 3).
    """
    config, guide = generator.config, guide_for(generator.config)

    def loss(z: Tensor, pose: Tensor, cam2world: Tensor, intrinsics: Tensor) -> Tensor:
        ws = generator.mapping(z, pose)
        planes = synthesis(ws, noise="random", dtype=dtype, guide=None if guide is None else guide(z))
        behind = generator.background(z, dtype)
        rays = camera_rays(Camera(cam2world, intrinsics), config.raw_resolution, config.pixel_grid)
        out = render_rays(planes, generator.decoder, rays, sampling, config.box)
        side = (config.raw_resolution, config.raw_resolution)
        features, classes = add_background(out, behind, side, sampling.opaque_end)
        picture = super_resolution(features, ws, noise="random", dtype=dtype)
        return picture.square().mean() + features.square().mean() + classes.square().mean()

    return loss


def _training(generator: Generator, repeats: int, compiled: bool) -> float:
    """Milliseconds of a generator's forward and backward pass in bfloat16, recorded as one CUDA graph."""
    generator.requires_grad_(True)
    synthesis: Callable[..., Tensor] = generator.synthesis
    super_resolution: Callable[..., Tensor] = generator.super_resolution
    if compiled:
        synthesis, super_resolution = (torch.compile(m, dynamic=False) for m in (synthesis, super_resolution))
    sampling = replace(sampling_of(generator.config), jitter=True)
    device = generator.mapping.w_avg.device
    loss = training_loss(generator, sampling, synthesis, super_resolution, torch.bfloat16)
    step = GraphedStep(loss, list(generator.parameters()))
    cameras = list(itertools.islice(_cameras(), TRAINING_BATCH))
    views = Camera.cat(cameras).to(device)
    z = torch.randn(TRAINING_BATCH, generator.config.latent, device=device)
    pose = z.new_full((TRAINING_BATCH, 2), math.pi / 2)
    return median_ms(lambda: step(z, pose, views.cam2world, views.intrinsics), device, repeats)
