from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.inversion.samples import spec

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors
from copo.formats.factor_files import save_factors
from copo.formats.portrait_file import (
    PortraitFile,
    WeightDelta,
    is_portrait_file,
    load_portrait_file,
    save_portrait_file,
)


def portrait(count: int = 2) -> PortraitFile:
    factors = Factors.random(spec(), list(range(count)))
    camera = Camera.from_degrees(5).expand(count)
    return PortraitFile(
        factors=factors,
        camera=camera,
        fingerprint="ab" * 32,
        ws_offset=torch.randn(6, 16),
        weights={
            "a.weight": WeightDelta(left=torch.randn(4, 2), right=torch.randn(2, 6)),
            "b": WeightDelta(torch.ones(3)),
        },
        report={"seconds": 1.5},
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    given_, path = portrait(), tmp_path / "p.safetensors"
    save_portrait_file(path, given_)
    read = load_portrait_file(path)
    for name in FACTOR_NAMES:
        assert torch.equal(getattr(read.factors, name), getattr(given_.factors, name))
    assert torch.equal(read.camera.cam2world, given_.camera.cam2world)
    assert given_.ws_offset is not None and read.ws_offset is not None and torch.equal(read.ws_offset, given_.ws_offset)
    assert read.background_offset is None
    assert read.fingerprint == given_.fingerprint and read.report == {"seconds": 1.5}
    assert set(read.weights) == {"a.weight", "b"}
    assert torch.equal(read.weights["b"].to(torch.zeros(3)), torch.ones(3))
    assert len(read.person) == 1 and torch.equal(read.person.shape, given_.factors.shape[:1])
    assert is_portrait_file(path)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_a_thin_product_is_the_change_of_a_weight_of_any_shape(rows: int, columns: int, rank: int) -> None:
    left, right = torch.randn(rows, rank), torch.randn(rank, columns * 9)
    change = WeightDelta(left=left, right=right).to(torch.zeros(rows, columns, 3, 3))
    assert change.shape == (rows, columns, 3, 3)
    assert torch.allclose(change.flatten(1), left @ right)


def test_a_change_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="4 numbers for a weight of 6"):
        WeightDelta(torch.zeros(4)).to(torch.zeros(2, 3))


def test_damaged_and_foreign_files_are_told_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "p.safetensors"
    save_portrait_file(good, portrait())
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(CopoError, match=r"cut.safetensors is truncated or damaged"):
        load_portrait_file(cut)
    save_factors(tmp_path / "f.safetensors", portrait().factors)
    assert not is_portrait_file(tmp_path / "f.safetensors") and not is_portrait_file(tmp_path / "none")
    with pytest.raises(CopoError, match=r"f.safetensors is no portrait file"):
        load_portrait_file(tmp_path / "f.safetensors")
    with pytest.raises(CopoError, match="does not exist"):
        load_portrait_file(tmp_path / "none.safetensors")
    save_file(
        {"x": torch.zeros(1)},
        tmp_path / "v.safetensors",
        {"copo": json.dumps({"format": "copo-portrait", "version": 7})},
    )
    with pytest.raises(CopoError, match="version 7"):
        load_portrait_file(tmp_path / "v.safetensors")


def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    too_large = replace(portrait(), weights={"b": WeightDelta(torch.full((2,), 1e6))})
    for bad in (too_large, replace(portrait(), ws_offset=torch.tensor([[float("nan")]]))):
        with pytest.raises(CopoError, match="not finite"):
            save_portrait_file(path, bad)
    assert not path.exists()
    with pytest.raises(CopoError, match=r"end the name in .safetensors"):
        save_portrait_file(tmp_path / "p.pt", portrait())
