"""Expressions of one head in the units of another."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests import parity
from torch import Tensor

from copo.animation.clip import DrivingClip
from copo.animation.retarget import landmark_moves, retarget
from copo.animation.talk import talk_clip
from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead


class Rotated:
    """A head whose expressions are sums of another's, as a PCA's are."""

    def __init__(self, head: OpenHead, mixing: Tensor) -> None:
        names = tuple(f"exp_{i:02d}" for i in range(len(mixing)))
        self.name, self.head, self.mixing = "pca", head, mixing
        self.spec = FactorSpec("pca", head.spec.shape, 0, names, expression_range=(-10.0, 10.0))
        self.topology = SimpleNamespace(landmarks68=head.topology.landmarks68)

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        return self.head.vertices(shape, expression @ self.mixing)


def test_there_and_back() -> None:
    head = OpenHead.load()
    talk = talk_clip(10)
    mixing = torch.randn(52, 52, generator=torch.Generator().manual_seed(0)) / 4
    pca = Rotated(head, mixing)
    there = retarget(talk, head, pca)  # type: ignore[arg-type]
    assert there.names == pca.spec.expression_names and there.pose is talk.pose
    back = retarget(there, pca, head)  # type: ignore[arg-type]
    moves = landmark_moves(head).flatten(1)
    wanted, found = (torch.from_numpy(c.expression) @ moves for c in (talk, back))
    assert (found - wanted).norm() < 0.25 * wanted.norm()
    jaw = talk.names.index("jawOpen")
    assert np.corrcoef(talk.expression[:, jaw], back.expression[:, jaw])[0, 1] > 0.9
    assert back.expression.min() >= 0 and back.expression.max() <= 1


def test_rest_stays_rest() -> None:
    head = OpenHead.load()
    rest = DrivingClip(head.spec.expression_names, np.zeros((2, 52)), 10)
    assert np.abs(retarget(rest, head, head).expression).max() == 0


def test_other_names_are_refused() -> None:
    head = OpenHead.load()
    with pytest.raises(CopoError, match="exp_00"):
        retarget(DrivingClip(("exp_00",), np.zeros((1, 1)), 10), head, head)


def test_a_basel_face_model() -> None:
    folder = parity.ROOT / "bfm_front_synthetic_a"
    if not folder.exists():
        pytest.skip("no recordings")
    model, head = BaselFaceModel.load(folder), OpenHead.load()
    clip = DrivingClip(model.spec.expression_names, np.ones((2, model.spec.expression)), 24)
    found = retarget(clip, model, head)
    assert found.for_spec(head.spec).shape == (2, 52)
