"""Baking vertex colours into a texture."""

from __future__ import annotations

import pytest
import torch

from copo.errors import CopoError
from copo.head.protocol import HeadTopology
from copo.head.texture import bake_texture


def square(uv: torch.Tensor | None) -> HeadTopology:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return HeadTopology(
        faces, uv, None if uv is None else faces, torch.zeros(4, dtype=torch.int64), torch.zeros(68).long()
    )


def test_a_gradient_lands_where_the_layout_says() -> None:
    """A unit square laid over the lower left quarter: red grows with u, green with v (v up, the first row is v = 1)."""
    uv = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]])
    values = torch.tensor([[0.0, 0.0, 0.2], [1.0, 0.0, 0.2], [1.0, 1.0, 0.2], [0.0, 1.0, 0.2]])
    texture = bake_texture(values, square(uv), 64)
    assert texture.shape == (64, 64, 3) and texture.dtype == torch.uint8
    # the centre of texel (row 63, column 0) is u = 0.5 / 64, v = 0.5 / 64: red = green = (1 / 64) of the way
    assert texture[63, 0].tolist() == [4, 4, 51]
    assert texture[63, 31].tolist() == [251, 4, 51]
    assert texture[32, 0].tolist() == [4, 251, 51]
    # outside of the square: the nearest covered texel
    assert texture[0, 0].tolist() == texture[32, 0].tolist()


def test_no_layout_and_bad_sizes_are_refused() -> None:
    with pytest.raises(CopoError, match="no texture layout"):
        bake_texture(torch.zeros(4, 3), square(None), 64)
    with pytest.raises(CopoError, match="choose 16 to 8192"):
        bake_texture(torch.zeros(4, 3), square(torch.rand(4, 2)), 4)
