"""Films of faces: what the analyser reads, times its gains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from copo.animation.follow import follow_face
from copo.camera import Camera
from copo.factors import ARKIT_NAMES, Factors, FactorSpec
from copo.formats.video import write_video
from copo.vision.analyser import Analyser
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork

SPEC = FactorSpec("open_head", 4, 3, ARKIT_NAMES)
JAW, SMILE = ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("mouthSmileLeft")
NETWORK = AnalyserNetwork(AnalyserConfig(size=64, width=16, fine_width=8, head=32, hidden=32)).eval()


def reading(jaw: float, smile: float) -> Tensor:
    """(1, 52) units."""
    units = torch.zeros(1, len(ARKIT_NAMES))
    units[0, JAW], units[0, SMILE] = jaw, smile
    return units


class Reads(Analyser):
    """Reads a jaw of 0, 0.2 and 0.5, and a smile of 0.6, in three frames."""

    def analyse(self, picture: object, at: object = None) -> list:  # type: ignore[type-arg, override]
        self.seen = getattr(self, "seen", -1) + 1
        factors = Factors.neutral(SPEC).replace(expression=reading((0.0, 0.2, 0.5)[self.seen], 0.6))
        return [SimpleNamespace(factors=factors, camera=Camera.from_degrees())]

    def follow(self, picture: object, before: object) -> None:  # type: ignore[override]
        return None


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "me.mp4"
    write_video(path, (np.zeros((32, 32, 3), np.uint8) for _ in range(3)), 10)
    return path


def test_gains_multiply_within_the_range() -> None:
    """2.5 x 0.2 = 0.5; 2.5 x 0.5 = 1.25 stops at 1; rest stays rest; units without a gain stay as they are."""
    analyser = Analyser(NETWORK, SPEC, gains={"jawOpen": 2.5})
    read = torch.cat([reading(0, 0), reading(0.2, 0.6), reading(0.5, 0.6)])
    driven = analyser.driving_expression(read)
    torch.testing.assert_close(driven, torch.cat([reading(0, 0), reading(0.5, 0.6), reading(1, 0.6)]))
    torch.testing.assert_close(Analyser(NETWORK, SPEC).driving_expression(read), read)


@pytest.mark.parametrize(("gains", "jaw"), [({"jawOpen": 2.5}, [0, 0.5, 1]), (None, [0, 0.2, 0.5])])
def test_a_film_drives_with_gains(film: Path, gains: dict[str, float] | None, jaw: list[float]) -> None:
    clip = follow_face(film, cast(Analyser, Reads(NETWORK, SPEC, gains=gains)))
    np.testing.assert_allclose(clip.expression[:, JAW], jaw, atol=1e-6)
    np.testing.assert_allclose(clip.expression[:, SMILE], 0.6, atol=1e-6)
