"""The generator as training runs it: activations in the chosen type, random noise, jittered samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from copo.camera import Camera
from copo.field.fused import Backend
from copo.field.guide import guide_for
from copo.field.portrait_field import PortraitFrame, PortraitPlanes, add_background, sampling_of
from copo.field.rays import camera_rays
from copo.field.render import render_rays
from copo.field.sampling import Jitter
from copo.head.protocol import HeadModel
from copo.networks.generator import Generator
from copo.training.config import Precision

TYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Painter:
    """Draws portraits with gradients.

    Args:
        generator: Its networks.
        precision: Type of the activations of backbone, background and super-resolution.
        compiled: Compile those networks (`torch.compile`); they share the generator's weights.
        backend: Who marches rays.
        head: The head model of a guided backbone.
        jitter: How samples along rays are moved (`SamplingConfig.jitter`).
    """

    def __init__(
        self,
        generator: Generator,
        precision: Precision = "float32",
        compiled: bool = False,
        backend: Backend = "auto",
        head: HeadModel | None = None,
        jitter: Jitter = "picture",
    ) -> None:
        self.generator, self.dtype, self.backend = generator, TYPES[precision], backend
        self.guide = guide_for(generator.config, head)
        self.sampling = replace(sampling_of(generator.config), jitter=jitter)
        wrap: Callable[[Any], Any] = (
            (lambda network: torch.compile(network, dynamic=False)) if compiled else lambda network: network
        )
        self._synthesis = wrap(generator.synthesis)
        self._super_resolution = wrap(generator.super_resolution)
        branch = generator.background_branch
        self._background = None if branch is None else wrap(branch)

    def planes(self, z: Tensor, pose: Tensor) -> PortraitPlanes:
        """z (B, latent), pose (B, 2) that the planes are conditioned on -> planes of B portraits."""
        ws = self.generator.mapping(z, pose)
        maps = None if self.guide is None else self.guide(z)
        planes = self._synthesis(ws, noise="random", dtype=self.dtype, guide=maps).float()
        background = None if self._background is None else self._background(z, self.dtype).float()
        return PortraitPlanes(planes, ws, background)

    def render(self, planes: PortraitPlanes, camera: Camera) -> PortraitFrame:
        """Pictures of B portraits by B cameras."""
        config = self.generator.config
        side = config.raw_resolution
        rays = camera_rays(camera, side, config.pixel_grid)
        out = render_rays(planes.planes, self.generator.decoder, rays, self.sampling, config.box, backend=self.backend)
        features, classes = add_background(out, planes.background, (side, side), self.sampling.opaque_end)
        image = self._super_resolution(features, planes.ws, noise="random", dtype=self.dtype)
        return PortraitFrame(
            image=image,
            raw=features[:, :3] * 2 - 1,
            features=features,
            depth=(out.depth * rays.axis_share).unflatten(1, (side, side)),
            alpha=out.alpha.unflatten(1, (side, side)),
            classes=classes,
            normals=None,
        )
