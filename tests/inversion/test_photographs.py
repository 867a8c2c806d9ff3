"""Photographs through landmarks and the head fitter, and the command, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.preparation.samples import needs_models, rendered, save

from copo.cli.main import main
from copo.errors import CopoError
from copo.formats.pictures import load_image, read_metadata
from copo.inversion.photographs import Looker, choose, needs_open_head, read_photographs
from copo.inversion.service import invert_photographs
from copo.portrait import Portrait


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Portrait.random("tiny", seed=1).save_pretrained(folder)
    return folder


def boxes(*faces: tuple[float, float]) -> np.ndarray:
    """Squares by centre and side."""
    return np.array([[x - s / 2, 0, x + s / 2, s] for x, s in faces], np.float32).reshape(-1, 4)


def test_faces_are_counted_from_the_left_and_bystanders_are_not_counted() -> None:
    three = boxes((50, 40), (10, 38), (90, 10))
    assert choose(boxes((5, 4)), None, "a.png") == 0
    assert choose(boxes((5, 40), (60, 10)), None, "a.png") == 0
    assert [choose(three, face, "a.png") for face in (1, 2)] == [1, 0]
    with pytest.raises(CopoError, match=r"a.png: 2 faces; choose one with --face 1 to 2"):
        choose(three, None, "a.png")
    with pytest.raises(CopoError, match="--face 3, but there are 2 faces"):
        choose(three, 3, "a.png")
    with pytest.raises(CopoError, match=r"a.png: no face was found"):
        choose(boxes(), None, "a.png")


def test_models_of_other_heads_are_refused() -> None:
    needs_open_head("open_head")
    with pytest.raises(CopoError, match="head 'bfm09'"):
        needs_open_head("bfm09")


@needs_models
@pytest.mark.parametrize("looker", ["analyser", "fitter"])
def test_what_is_read_fits_the_picture(tmp_path: Path, models: Path, looker: Looker) -> None:
    path = save(tmp_path / "a.png", rendered(3, yaw=15.0))
    found = read_photographs([path], 128, looker=looker)
    assert found.pictures.shape == (1, 3, 128, 128) and found.looker == looker
    assert found.labels is not None and found.labels.shape == (1, 128, 128)
    position = found.camera.position[0]
    yaw = torch.rad2deg(torch.atan2(position[0], position[2]))
    assert abs(float(yaw) - 15) < 6
    from tests.preparation.samples import open_head

    head = open_head()
    vertices = head.vertices(found.factors.shape, found.factors.expression)
    projected, _ = found.camera.project(vertices[:, head.topology.landmarks68])
    inner = slice(17, 68)
    assert (projected[0, inner] * 128 - found.points68[0, inner]).norm(dim=1).mean() < 3
    assert 0.1 < float(found.face.mean()) < 0.5


@needs_models
def test_photographs_that_cannot_be_used_are_told_in_one_line(
    tmp_path: Path,
    models: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = save(tmp_path / "two.png", np.concatenate([rendered(1), rendered(2)], axis=1))
    none = save(tmp_path / "none.png", np.full((128, 128, 3), 90, np.uint8))
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    broken = tmp_path / "broken.png"
    broken.write_bytes(two.read_bytes()[:300])
    cases = [
        ([two], "2 faces; choose one with --face 1 to 2"),
        ([two, "--face", "4"], "--face 4, but there are 2 faces"),
        ([none], "no face was found"),
        ([text], ".txt is no picture"),
        ([broken], "broken.png"),
        ([tmp_path / "gone.png"], "does not exist"),
        ([two, "--face", "0"], "counted from the left, from 1"),
        ([two, "--seconds", "-1"], "--seconds -1"),
    ]
    for words, message in cases:
        out = tmp_path / "out"
        with pytest.raises(SystemExit) as stopped:
            main(["invert", *map(str, words), "--model", str(model), "--out", str(out), "--device", "cpu"])
        said = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and message in said[-1], said
        assert not out.exists()


@needs_models
def test_the_command_writes_a_portrait_that_stands_in_place_of_a_seed(
    tmp_path: Path,
    models: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = save(tmp_path / "Some Body.png", rendered(4))
    out = tmp_path / "me"
    main(
        [
            "invert",
            str(photo),
            "--model",
            str(model),
            "--out",
            str(out),
            "--seconds",
            "0.5",
            "--device",
            "cpu",
            "--json",
        ]
    )
    body = json.loads(capsys.readouterr().out)
    assert [s["stage"] for s in body["stages"]] == ["code", "latents", "tuning"] and body["seconds"] > 0
    assert sorted(p.name for p in out.iterdir()) == [
        "comparison.png", "portrait.png", "portrait.safetensors", "report.json",
    ]  # fmt: skip
    assert read_metadata(out / "portrait.png").source_type == "compositeWithTrainedAlgorithmicMedia"
    assert all("Some Body" not in p.read_bytes().decode("latin-1") for p in out.iterdir())
    whole = Portrait.from_pretrained(model, device="cpu")
    me, factors = whole.load_portrait(out / "portrait.safetensors")
    camera = whole.default_camera
    assert len(factors) == 1 and me.render(factors, camera).image.shape == (1, 3, 32, 32)
    assert load_image(out / "portrait.png").shape == (32, 32, 3)
    other = Portrait.random("tiny", seed=2)
    with pytest.raises(CopoError, match="belongs to another model"):
        other.load_portrait(out / "portrait.safetensors")


@needs_models
def test_several_photographs_and_the_python_call(tmp_path: Path, models: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", rendered(4, yaw=20.0 * i, smile=0.5 * i)) for i in range(2)]
    model = Portrait.random("tiny", seed=1)
    told: list[str] = []
    done = model.invert(paths, seconds=0.4, progress=lambda stage, share: told.append(stage))
    assert len(done.inversion.portrait.factors) == 2 and len(done.inversion.stages[-1].pictures) == 2
    shape = done.inversion.portrait.factors.shape
    assert torch.equal(shape[0], shape[1])
    assert list(dict.fromkeys(told)) == ["analysis", "start", "code", "latents", "tuning"]
    with pytest.raises(CopoError, match="no photograph given"):
        invert_photographs(model, [])
