"""Latents to the maps of the head that a guided backbone looks at."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.head.maps import CHANNELS, head_maps
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel

PARTS = ("shape", "albedo", "expression", "illumination")


class LatentMaps:
    """Draws the maps of latents with a head model.

    Args:
        config: Of the generator.
        head: The head model of its factors; by default the open head in the package.

    Raises:
        CopoError: The head has other factors than the generator, or the generator wants other maps.
    """

    def __init__(self, config: GeneratorConfig, head: HeadModel | None = None) -> None:
        self.config, self.given = config, head
        if config.guide_channels != CHANNELS:
            raise CopoError(
                f"generator: made for {config.guide_channels} guide channels, this program draws {CHANNELS}"
            )
        spec = (head or _open_head(torch.device("cpu"))).spec
        sizes = {name: getattr(config, name) for name in PARTS}
        if any(spec.sizes[name] != size for name, size in sizes.items()):
            raise CopoError(
                f"generator: its factors {tuple(sizes.values())} are not those of head {spec.head!r} "
                f"{tuple(spec.sizes[name] for name in PARTS)}: give the head that it was trained with"
            )
        self._scales = [spec.normaliser(name) for name in PARTS]
        self._heads: dict[torch.device, HeadModel] = {}

    def __call__(self, z: Tensor) -> Tensor:
        """z (B, latent) -> (B, CHANNELS, R, R) float32; without gradients."""
        c = self.config
        rest = z.detach().float()[:, c.noise :].split([getattr(c, name) for name in PARTS], dim=1)
        shape, albedo, expression, light = (part * scale for part, scale in zip(rest, self._scales, strict=True))
        return head_maps(self._head(z.device), shape, albedo, expression, light, c.guide_resolution, c.box)

    def _head(self, device: torch.device) -> HeadModel:
        if device not in self._heads:
            if self.given is None:
                self._heads[device] = _open_head(device)
            else:
                own: Any = copy.deepcopy(self.given)
                self._heads[device] = own.to(device) if hasattr(own, "to") else own
        return self._heads[device]


@functools.lru_cache(maxsize=8)
def _open_head(device: torch.device) -> OpenHead:
    return OpenHead.load().to(device)


def guide_for(config: GeneratorConfig, head: HeadModel | None = None) -> LatentMaps | None:
    """The guide of a generator, or None where it has none."""
    return LatentMaps(config, head) if config.guide_channels else None
