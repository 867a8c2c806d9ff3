"""Restricted reading of MATLAB files, and the method's coefficient files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from copo.errors import CopoError
from copo.formats.mat import COEFFICIENT_SIZES, MatField, load_coefficients, read_mat, save_coefficients, write_mat

RNG = np.random.default_rng(0)


def coefficients(batch: int = 1) -> dict[str, np.ndarray]:
    return {name: RNG.normal(size=(batch, size)).astype(np.float32) for name, size in COEFFICIENT_SIZES.items()}


def test_vectors_may_be_rows_columns_or_flat(tmp_path: Path) -> None:
    path = tmp_path / "v.mat"
    scipy.io.savemat(path, {"row": np.arange(3)[None], "column": np.arange(3)[:, None], "one": 7, "m": np.eye(2)})
    vector = MatField((3,), integer=True)
    data = read_mat(path, {"row": vector, "column": vector, "one": MatField((1,)), "m": MatField((2, None))})
    assert data["row"].tolist() == data["column"].tolist() == [0, 1, 2] and data["row"].dtype == np.int64
    assert data["one"].tolist() == [7] and data["one"].dtype == np.float32
    assert data["m"].tolist() == [[1, 0], [0, 1]]


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.mat"
    scipy.io.savemat(path, {"a": np.ones(2), "odd": {"field": "text"}})
    assert list(read_mat(path, {"a": MatField((2,)), "b": MatField((2,), optional=True)})) == ["a"]


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ({"b": np.ones(3)}, MatField((3,)), r"has no field 'a' \(it has b\)"),
        ({"a": np.ones((2, 3))}, MatField((3, 2)), r"'a' has shape \(2, 3\): expected \(3, 2\)"),
        ({"a": np.ones((1, 4))}, MatField((3,)), r"'a' has shape \(1, 4\): expected \(3,\)"),
        ({"a": np.ones((2, 2, 2))}, MatField((None, 3)), r"'a' has shape \(2, 2, 2\): expected \(n, 3\)"),
        ({"a": "text"}, MatField((4,)), "of class char"),
        ({"a": {"b": 1}}, MatField((1, 1)), "of class struct"),
        ({"a": np.array([[1, "x"]], dtype=object)}, MatField((2,)), "of class cell"),
        ({"a": np.array([1 + 2j])}, MatField((1,)), "complex"),
        ({"a": np.array([1, np.nan])}, MatField((2,)), "'a' holds NaN"),
        ({"a": np.array([1, 1.5])}, MatField((2,), integer=True), "'a' holds fractions"),
        ({"a": np.ones((0, 3))}, MatField((3,)), r"'a' has shape \(0, 3\)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: dict, field: MatField, message: str) -> None:
    path = tmp_path / "c.mat"
    scipy.io.savemat(path, content)
    with pytest.raises(CopoError, match=message) as caught:
        read_mat(path, {"a": field})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_mat_files(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("hello " * 100)
    (tmp_path / "empty.mat").write_bytes(b"")
    v73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n"
    (tmp_path / "new.mat").write_bytes(v73 + bytes(400))
    for name, message in (
        ("text.mat", "no MATLAB file"),
        ("empty.mat", "no MATLAB file"),
        ("new.mat", "-v7"),
        ("none.mat", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(CopoError, match=message):
            read_mat(tmp_path / name, {"a": MatField((1,))})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "whole.mat"
    save_coefficients(path, coefficients())
    return path


@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4))
def test_damaged_files_never_raise_anything_else(whole: Path, cut: float, flips: list[tuple[float, int]]) -> None:
    data = bytearray(whole.read_bytes())
    for place, value in flips:
        data[int(place * len(data))] ^= value
    damaged = whole.with_name("damaged.mat")
    damaged.write_bytes(data[: int(cut * len(data))] if cut < 0.9 else data)
    try:
        load_coefficients(damaged)
    except CopoError as error:
        assert "\n" not in str(error)


def test_coefficients_come_back_exactly_and_as_scipy_writes_them(tmp_path: Path) -> None:
    path, values = tmp_path / "c.mat", coefficients()
    save_coefficients(path, values)
    for name, value in load_coefficients(path).items():
        np.testing.assert_array_equal(value, values[name])
    stored = scipy.io.loadmat(path)
    assert {name: stored[name].shape for name in COEFFICIENT_SIZES} == {
        "id": (1, 80), "exp": (1, 64), "tex": (1, 80), "angle": (1, 3), "gamma": (1, 27), "trans": (1, 3),
    }  # fmt: skip


def test_other_layouts_of_the_same_numbers_are_read(tmp_path: Path) -> None:
    """Vectors as columns, doubles, further fields such as landmarks, and several faces."""
    values = coefficients()
    other = {name: value[0].astype(np.float64)[:, None] for name, value in values.items()}
    scipy.io.savemat(tmp_path / "c.mat", other | {"lm68": np.ones((1, 68, 2))})
    for name, value in load_coefficients(tmp_path / "c.mat").items():
        np.testing.assert_array_equal(value, values[name])
    save_coefficients(tmp_path / "many.mat", many := coefficients(3))
    np.testing.assert_array_equal(load_coefficients(tmp_path / "many.mat")["trans"], many["trans"])


def test_incomplete_and_mixed_coefficients_are_refused(tmp_path: Path) -> None:
    values = coefficients()
    scipy.io.savemat(tmp_path / "a.mat", {**values, "exp": np.ones((1, 79))})
    with pytest.raises(CopoError, match=r"'exp' has shape \(1, 79\): expected \(1, 64\)"):
        load_coefficients(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "b.mat", {k: v for k, v in values.items() if k != "gamma"})
    with pytest.raises(CopoError, match="no field 'gamma'"):
        load_coefficients(tmp_path / "b.mat")
    scipy.io.savemat(tmp_path / "c.mat", {**values, "tex": np.ones((2, 80))})
    with pytest.raises(CopoError, match="different numbers of faces: id 1, exp 1, tex 2"):
        load_coefficients(tmp_path / "c.mat")
    with pytest.raises(CopoError, match="fields id; expected id, exp"):
        save_coefficients(tmp_path / "d.mat", {"id": values["id"]})
    assert not (tmp_path / "d.mat").exists()


def test_flat_arrays_are_written_as_rows(tmp_path: Path) -> None:
    write_mat(tmp_path / "f.mat", {"a": np.arange(5.0)})
    assert scipy.io.loadmat(tmp_path / "f.mat")["a"].shape == (1, 5)
