"""Pictures of rendered heads, which the landmarker takes for faces, and the models that look at them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.vision.samples import FACE_TASK, HAIR, PERSON, needs

from copo.camera import Camera
from copo.factors import Factors
from copo.head.open_head import OpenHead
from copo.head.renderer import render_head
from copo.illumination import NEUTRAL_LIGHT
from copo.work.engine import one_thread

Picture = NDArray[np.uint8]

needs_models = needs(FACE_TASK, HAIR, PERSON, modules=("ai_edge_litert",))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as COPO_MODELS_DIR names it."""
    folder = tmp_path_factory.mktemp("models")
    for path in (FACE_TASK, HAIR, PERSON):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def models(models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models where adapters look for them."""
    monkeypatch.setenv("COPO_MODELS_DIR", str(models_folder))
    return models_folder


@cache
def open_head() -> OpenHead:
    """Loaded once."""
    return OpenHead.load()


@cache
def rendered(seed: int, yaw: float = 0.0, side: int = 256, smile: float = 0.0, fov: float = 20.0) -> Picture:
    """(side, side, 3) a head on grey; do not change it."""
    head = open_head()
    factors = Factors.random(head.spec, seed, NEUTRAL_LIGHT).with_expression(smile=smile)
    camera = Camera.from_degrees(yaw, 0.0, fov)
    with one_thread():
        out = render_head(head, factors.shape, factors.expression, factors.albedo, factors.illumination, camera, side)
    return (out.over(0.8)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def save(path: Path, picture: Picture) -> Path:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, compress_level=1)
    return path


def command(*words: str, models: Path, before: str = "") -> subprocess.Popen[str]:
    """`copo prepare` as a process of its own; `before` is Python that runs first."""
    code = (
        f"{before}\nimport sys, tyro\nfrom copo.cli.prepare import Command\nfrom copo.errors import CopoError\n"
        "if __name__ == '__main__':\n"
        "    try:\n        tyro.cli(Command, args=sys.argv[1:]).run()\n"
        "    except CopoError as error:\n        print('error:', error, file=sys.stderr)\n        sys.exit(2)\n"
    )
    environment = {**os.environ, "COPO_MODELS_DIR": str(models), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait; standard output and error."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out, error
