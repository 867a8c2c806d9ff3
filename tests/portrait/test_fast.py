"""A portrait that draws with recorded graphs: on a GPU as such, otherwise its kernels interpreted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the fused path needs Triton")

from tests.field.test_graphs import DEVICE, SMALL

from copo.animation.talk import talk_clip
from copo.field.graphs import GraphedPortraitField
from copo.head.open_head import OpenHead
from copo.networks.generator import Generator
from copo.portrait import Portrait, with_noise


def models() -> tuple[Portrait, Portrait]:
    torch.manual_seed(0)
    head = OpenHead.load()
    spec = with_noise(head.spec, SMALL.noise)
    plain = Portrait(Generator(SMALL.for_head(spec)), spec, head).to(DEVICE)
    if DEVICE == "cuda":
        return plain, plain.fast()
    assert plain.fast() is plain
    fast = replace(plain)
    fast.field = GraphedPortraitField(fast.generator)
    return plain, fast


def test_films() -> None:
    plain, fast = models()
    person, clip = plain.sample(seed=3), talk_clip(5).first(0.4)
    films = [list(model.animate(person, clip, "drive", blend="both", batch=2)) for model in (plain, fast)]
    assert len(films[1]) == 2
    for expected, found in zip(*films, strict=True):
        assert (expected.image - found.image).square().mean() < 4e-4
        assert torch.equal(expected.recipes[0].factors.expression, found.recipes[0].factors.expression)
