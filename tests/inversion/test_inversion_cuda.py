"""Inversion and adaptation where there is a GPU: the same code on its tensors and kernels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.inversion.samples import generator, photographs

from copo.errors import CopoError
from copo.inversion.adapt import Adapter
from copo.inversion.config import AdaptConfig, inversion_config
from copo.inversion.invert import Inverter
from copo.inversion.styles import Styles
from copo.portrait import Portrait
from copo.training.perception import Perception
from copo.vision.efficientnet import ImageFeatures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_inversion_comes_nearer_on_a_gpu() -> None:
    c = inversion_config("full", math.inf)
    c = replace(
        c,
        code=replace(c.code, candidates=3, steps=20),
        latent=replace(c.latent, steps=20),
        tuning=replace(c.tuning, steps=20),
    )
    done = Inverter(generator(), photographs(2), Perception(), c, "cuda").run()
    errors = [stage.errors[0].difference for stage in done.stages]
    assert errors[2] < errors[0]
    assert done.portrait.factors.shape.device.type == "cpu"
    assert all(math.isfinite(v) for v in vars(done.kept).values())


def test_adaptation_comes_nearer_on_a_gpu() -> None:
    try:
        features = ImageFeatures.load().cuda()
    except CopoError as error:
        pytest.skip(str(error))
    source = Portrait.random("tiny", seed=3, device="cuda")
    styles = Styles(torch.full((2, 3, 32, 32), -0.5), 0)
    done = Adapter(source, styles, features, AdaptConfig(steps=15, rate=1e-2)).run()
    assert done.after < done.before
