"""A tiny generator of the open head's factors, and photographs that are pictures of another one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from copo.camera import Camera
from copo.config import preset
from copo.factors import Factors, FactorSpec
from copo.field.portrait_field import PortraitField
from copo.head.open_head import OpenHead
from copo.inversion.photographs import Photographs
from copo.networks.generator import Generator

SIDE = 32
torch.set_num_threads(1)


@cache
def open_head() -> OpenHead:
    return OpenHead.load()


def spec() -> FactorSpec:
    """Of the open head, with the tiny generator's noise code."""
    return replace(open_head().spec, noise=preset("tiny").noise)


@cache
def generator(seed: int = 0, styled: bool = False) -> Generator:
    """Random weights; do not change it. `styled`: with a super-resolution that reads the latents."""
    config = replace(preset("tiny").for_head(spec()), sr_styles=styled)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(config).eval().requires_grad_(False)


@cache
def photographs(count: int = 1) -> Photographs:
    """Pictures that another generator draws of one person with `count` expressions."""
    field = PortraitField(generator(9))
    people = Factors.random(spec(), [5] * count)
    smiles = torch.linspace(0.5, 0, count)[:, None] * torch.ones(1, spec().expression)
    people = people.replace(expression=smiles)
    cameras = [Camera.from_degrees(10 - 15 * i) for i in range(count)]
    with torch.no_grad():
        shots = [field.render(field.planes(people[i].to_vector()), cameras[i]).image for i in range(count)]
    camera = Camera(torch.cat([c.cam2world for c in cameras]), torch.cat([c.intrinsics for c in cameras]))
    random = torch.Generator().manual_seed(0)
    face = torch.zeros(count, 1, SIDE, SIDE)
    face[:, :, 8:24, 8:24] = 1
    return Photographs(
        pictures=torch.cat(shots).clamp(-1, 1),
        camera=camera,
        factors=people.replace(noise=torch.zeros(spec().noise)),
        points68=torch.rand(count, 68, 2, generator=random) * 20 + 6,
        labels=(face[:, 0] > 0).long(),
        face=face,
        looker="test",
    )
