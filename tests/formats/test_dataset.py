"""The data set: rows come back as they were put in, other programs can read it, and damage is told in one line."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, Factors, FactorSpec
from copo.formats.dataset import DatasetWriter, Portrait, PortraitDataset, read_table, write_table

SPEC = FactorSpec(head="tiny", shape=4, albedo=3, expression_names=ARKIT_NAMES[:5], noise=6)
SIZE = 16


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def portrait(index: int, **changes: object) -> Portrait:
    rng = np.random.default_rng(100 + index)
    values = {
        "picture": png(picture(index)),
        "suffix": ".png",
        "camera": Camera.from_degrees(5.0 * index, -3.0).to_eg3d()[0].numpy(),
        "factors": Factors.random(SPEC, index).with_expression(**{ARKIT_NAMES[0]: 0.25}),
        "labels": png(rng.integers(0, 19, (SIZE, SIZE)).astype(np.uint8)),
        "points478": rng.random((478, 2)).astype(np.float32) * SIZE,
        "points68": rng.random((68, 2)).astype(np.float32) * SIZE,
        "manifest": {"source": f'photos/{index}, "ü" 顔.jpg', "person": f"p{index // 2}", "licence": "CC0 1.0"},
    }
    return Portrait(**(values | changes))  # type: ignore[arg-type]


def write(path: Path, portraits: list[Portrait]) -> PortraitDataset:
    with DatasetWriter(path, {"config": {"size": SIZE}}) as writer:
        for one in portraits:
            writer.add(one)
    return PortraitDataset(path)


def test_everything_comes_back(tmp_path: Path) -> None:
    given = [portrait(i) for i in range(5)]
    dataset = write(tmp_path / "set.zip", given)
    assert len(dataset) == 5 and dataset.has_labels and dataset.preparation["config"]["size"] == SIZE
    assert dataset.factors is not None and dataset.points478 is not None and dataset.points68 is not None
    for i, one in enumerate(given):
        assert (dataset.image(i) == picture(i)).all()
        assert (dataset.labels(i) == np.array(PIL.Image.open(io.BytesIO(one.labels or b"")))).all()
        assert (dataset.points478[i] == one.points478).all() and (dataset.points68[i] == one.points68).all()
        assert one.factors is not None
        assert torch.equal(dataset.factors[i].to_vector(), one.factors.to_vector())
        assert torch.allclose(dataset.cameras[i].to_eg3d()[0], torch.from_numpy(one.camera), atol=1e-6)
        assert dataset.manifest[i]["source"] == one.manifest["source"]
    assert float(dataset.cameras[2].position[0, 0]) == pytest.approx(np.sin(np.radians(10)) * np.cos(np.radians(3)))


def test_an_eg3d_loader_can_read_it(tmp_path: Path) -> None:
    """What EG3D's ImageFolderDataset does with a zip: every member with a picture's suffix is a training picture, all
    have one square size, and dataset.json has a label of 25 numbers for each."""
    write(tmp_path / "set.zip", [portrait(i) for i in range(3)])
    PIL.Image.init()
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in PIL.Image.EXTENSION)
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        assert names == sorted(labels) and len(names) == 3
        assert {PIL.Image.open(io.BytesIO(archive.read(n))).size for n in names} == {(SIZE, SIZE)}
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    label = np.array([labels[n] for n in names], np.float32)
    assert label.shape == (3, 25)
    frontal = label[0].reshape(-1)
    assert frontal[11] == pytest.approx(
        np.cos(np.radians(3)), abs=1e-6
    )  # z of the camera, one metre away, 3 degrees low
    assert frontal[[16, 20, 24]] == pytest.approx([0.5 / np.tan(np.radians(6.3))] * 2 + [1.0], rel=1e-5)


def test_a_plain_eg3d_zip_is_read(tmp_path: Path) -> None:
    camera = Camera.from_degrees(10.0, 0.0, 18.8, 2.7)
    with zipfile.ZipFile(tmp_path / "eg3d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000/img0.png", png(picture(0)))
        archive.writestr("dataset.json", json.dumps({"labels": [["00000/img0.png", camera.to_eg3d()[0].tolist()]]}))
    dataset = PortraitDataset(tmp_path / "eg3d.zip", metres_per_unit=1 / 2.7)
    assert (dataset.image(0) == picture(0)).all()
    assert dataset.factors is None and dataset.points68 is None and not dataset.has_labels
    assert float(dataset.cameras.position.norm()) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(CopoError, match="no label map"):
        dataset.labels(0)


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write(tmp_path / name, [portrait(i) for i in range(3)])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_missing_parts_stay_missing(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set.zip", [portrait(0, points478=None), portrait(1, labels=None)])
    assert dataset.points478 is not None and np.isnan(dataset.points478[0]).all()
    assert np.isfinite(dataset.points478[1]).all() and not dataset.has_labels
    bare = write(tmp_path / "bare.zip", [portrait(i, factors=None, points68=None) for i in range(2)])
    assert bare.factors is None
    jpeg = io.BytesIO()
    PIL.Image.fromarray(picture(1)).save(jpeg, "JPEG")
    assert write(tmp_path / "jpeg.zip", [portrait(0, picture=jpeg.getvalue(), suffix=".jpg")]).names[0].endswith(".jpg")


def test_people_are_not_torn_apart(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set.zip", [portrait(i) for i in range(40)])
    train, test = dataset.split(0.3, test=False), dataset.split(0.3, test=True)
    assert sorted(train + test) == list(range(40)) and 2 <= len(test) <= 24
    people = dataset.people()
    assert not {people[i] for i in train} & {people[i] for i in test}
    nameless = write(tmp_path / "nameless.zip", [portrait(i, manifest={}) for i in range(3)])
    assert len(set(nameless.people())) == 3


def test_threads_and_pickles(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set.zip", [portrait(i) for i in range(6)])
    with ThreadPoolExecutor(6) as pool:
        for i, image in enumerate(pool.map(dataset.image, list(range(6)) * 5)):
            assert (image == picture(i % 6)).all()
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.image(3) == picture(3)).all()


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), DatasetWriter(tmp_path / "set.zip") as writer:
        writer.add(portrait(0))
        raise KeyError("stop")
    with pytest.raises(CopoError, match="give all or none"), DatasetWriter(tmp_path / "set.zip") as writer:
        writer.add(portrait(0))
        writer.add(portrait(1, factors=None))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CopoError, match=r"end the name in \.zip"):
        DatasetWriter(tmp_path / "set.tar")
    with pytest.raises(CopoError, match="25 finite numbers"), DatasetWriter(tmp_path / "set.zip") as writer:
        writer.add(portrait(0, camera=np.full(25, np.nan, np.float32)))


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    write(path, [portrait(i) for i in range(3)])
    good = path.read_bytes()

    def complaint(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(CopoError) as caught:
            PortraitDataset(path).image(0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(CopoError, match="does not exist"):
        PortraitDataset(tmp_path / "none.zip")
    assert "no zip, or damaged" in complaint(good[: len(good) // 2])
    assert "cannot be decoded" in complaint(good.replace(b"IDAT", b"IDxT", 1))
    assert "is damaged" in complaint(b"XX" + good[2:])
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.png", b"")
    assert "no dataset.json" in complaint(other.getvalue())
    for index, words in (
        ({"labels": [["a.png", [1, 2]]]}, "25 numbers"),
        ({"labels": [["b.png", [0] * 25]]}, "not in the"),
    ):
        other = io.BytesIO()
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("a.png", b"")
            archive.writestr("dataset.json", json.dumps(index))
        assert words in complaint(other.getvalue())


def test_tables_keep_every_character() -> None:
    rows = [{"a": 'x, "y"\n', "b": "ü顔"}, {"a": "", "c": "3"}]
    assert read_table(write_table(rows)) == [{**rows[0], "c": ""}, {"a": "", "b": "", "c": "3"}]
    assert read_table("\ufeffpath,set\n1.jpg,x\n".encode()) == [{"path": "1.jpg", "set": "x"}]
