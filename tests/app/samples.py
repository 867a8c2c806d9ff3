"""A studio of a tiny model, and a clip."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from copo.animation.clip import DrivingClip
from copo.app.studio import Look, Studio
from copo.portrait import Portrait

torch.set_num_threads(1)


@cache
def model() -> Portrait:
    return Portrait.random("tiny", seed=3)


def studio(seed: int = 1) -> Studio:
    return Studio(model(), Look(model().sample(seed=seed), seed=seed))


def clip(frames: int = 4, rate: float = 10.0) -> DrivingClip:
    return DrivingClip(("jawOpen",), np.linspace(0, 1, frames)[:, None], rate)
