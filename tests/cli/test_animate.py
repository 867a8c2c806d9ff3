"""`copo animate` from end to end with random weights: what is written, and what is told of bad input."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import parity
from tests.animation.samples import codes, livelink, mat_folder
from tests.cli.test_analyze import photograph, weights
from tests.formats.test_video import heard, tone

from copo.animation.sources import read_clip
from copo.animation.talk import talk_clip
from copo.cli.main import main
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, Factors
from copo.formats.bfm import bfm_spec
from copo.formats.factor_files import save_factors
from copo.formats.pictures import load_image, to_uint8
from copo.formats.recipe import read_recipe
from copo.formats.video import read_video_metadata, video_frames, video_info, write_video
from copo.networks.generator import Generator
from copo.portrait import Portrait, with_noise

pytest.importorskip("av")


@cache
def tiny() -> Portrait:
    return Portrait.random("tiny", seed=1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(tiny().save_pretrained(tmp_path_factory.mktemp("models") / "tiny", half=False))


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict:
    capsys.readouterr()
    main(["animate", "--json", *map(str, words)])
    return json.loads(capsys.readouterr().out)


def test_a_talking_film(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "clip.mp4"
    body = told(capsys, "--model", model, "--seed", "41", "--drive", "talk", "--fps", "10", "--out", out,
                "--camera", "ellipse", "--seconds", "1.5")  # fmt: skip
    assert body["frames"] == 15 and body["fps"] == 10 and not body["sound"] and body["written"] == [str(out)]
    info = video_info(out)
    assert (info.width, info.height) == (32, 32) and info.seconds == pytest.approx(1.5, abs=0.05)
    mark = read_video_metadata(out)
    assert mark.source_type == "trainedAlgorithmicMedia"
    film = mark.metadata["film"]
    assert (film["seed"], film["drive"], film["camera"], film["blend"]) == (41, "talk", "ellipse", "still")
    person = tiny().sample(seed=41)
    recipe = mark.metadata["recipe"]["factors"]
    np.testing.assert_array_equal(np.float32(recipe["shape"]), person.shape[0].numpy())
    assert [p.name for p in out.parent.iterdir()] == ["clip.mp4"]


def test_frames_are_those_of_the_portrait_and_go_on(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", model, "--seed", "3", "--drive", "talk", "--fps", "8", "--seconds", "0.75", "--blend", "none",
             "--camera", "drive", "--out", tmp_path / "frames"]  # fmt: skip
    body = told(capsys, *words)
    assert body["frames"] == 6 and body["kept"] == 0
    names = sorted(p.name for p in (tmp_path / "frames").glob("*.png"))
    assert names == [f"{i:06d}.png" for i in range(6)]
    clip = talk_clip(8).first(0.75)
    shown = list(tiny().animate(tiny().sample(seed=3), clip, "drive", blend="none"))
    whole = [load_image(tmp_path / "frames" / name) for name in names]
    for picture, wanted in zip(whole, shown, strict=True):
        assert np.abs(picture.astype(int) - to_uint8(wanted.image)[0].astype(int)).max() <= 1
    again = read_recipe(tmp_path / "frames" / "000004.png", tiny().spec)
    np.testing.assert_array_equal(again.factors.expression[0].numpy(), clip.for_spec(tiny().spec)[4].numpy())
    for name in names[3:]:
        (tmp_path / "frames" / name).unlink()
    body = told(capsys, *words)
    assert body["frames"] == 6 and body["kept"] == 3
    for name, picture in zip(names, whole, strict=True):
        np.testing.assert_array_equal(load_image(tmp_path / "frames" / name), picture)
    assert told(capsys, *words)["kept"] == 6
    with pytest.raises(SystemExit):
        main(["animate", *map(str, words), "--yaw", "5"])
    assert "another clip" in capsys.readouterr().err


def test_without_a_drive_the_camera_moves(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = told(capsys, "--model", model, "--camera", "orbit", "--seconds", "0.25", "--out", tmp_path / "turn.gif",
                "--size", "48")  # fmt: skip
    assert body["frames"] == 6
    with Image.open(tmp_path / "turn.gif") as image:
        assert image.n_frames == 6 and image.size == (48, 48)


def test_a_livelink_recording(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.zeros((60, 52))
    values[:, ARKIT_NAMES.index("jawOpen")] = np.linspace(0, 1, 60)
    path = livelink(tmp_path / "take.csv", values, codes(60, 60), np.zeros((60, 3)))
    body = told(capsys, "--model", model, "--drive", path, "--seconds", "0.2", "--out", tmp_path / "a.webp",
                "--reference", "first", "--edges", "hard", "--fast", "--camera", "drive")  # fmt: skip
    assert body["fps"] == 30 and body["frames"] == 6, "60 frames a second are thinned out"


def test_a_video_of_a_face_drives_with_its_sound(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = photograph(tmp_path / "me.png")
    film = tmp_path / "me.mp4"
    write_video(film, (picture for _ in range(10)), 10, sound=tone(tmp_path / "tone.wav", 1.0))
    seen = weights(tmp_path, 10.0)
    body = told(capsys, "--model", model, "--drive", film, "--analyser", seen, "--out", tmp_path / "out.mp4",
                "--save-drive", tmp_path / "drive.npz", "--seconds", "0.8", "--camera", "drive")  # fmt: skip
    assert body["frames"] == 8 and body["sound"]
    codec, _, seconds, pitch = heard(tmp_path / "out.mp4")
    assert codec == "aac" and seconds == pytest.approx(0.8, abs=0.1) and pitch == pytest.approx(440, abs=5)
    clip = read_clip(tmp_path / "drive.npz")
    assert len(clip) == 8 and clip.pose is not None and clip.names == tiny().spec.expression_names
    body = told(capsys, "--model", model, "--drive", film, "--analyser", seen, "--out", tmp_path / "quiet.mp4",
                "--seconds", "0.2", "--no-sound")  # fmt: skip
    assert not body["sound"] and not video_info(tmp_path / "quiet.mp4").sound


def test_the_release_has_its_conventions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A converted model: the .mat's expressions as they are, no Basel Face Model needed."""
    spec = with_noise(bfm_spec(), 8)
    torch.manual_seed(0)
    portrait = Portrait(Generator(tiny().generator.config.for_head(spec)), spec)
    portrait.save_pretrained(tmp_path / "converted", half=False)
    folder = mat_folder(tmp_path / "mat", 3)
    body = told(capsys, "--model", tmp_path / "converted", "--seed", "41", "--drive", folder, "--camera", "ellipse",
                "--published", "--out", tmp_path / "frames")  # fmt: skip
    assert body["frames"] == 3 and body["fps"] == 24
    recipe = read_recipe(tmp_path / "frames" / "000002.png", spec)
    assert torch.equal(recipe.factors.expression, torch.full((1, 64), 3.0)) and recipe.psi == pytest.approx(0.7)
    assert recipe.reference is not None and float(recipe.reference.expression[0, 0]) == 1, "the first frame"
    assert recipe.factors.to_vector()[0, spec.slices["expression"]][0] == 0.75, "exp / 4"


def test_mat_files_drive_our_head_through_a_basel_face_model(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bfm = parity.ROOT / "bfm_front_synthetic_a"
    folder = mat_folder(tmp_path / "mat", 2)
    with pytest.raises(SystemExit):
        main(["animate", "--model", model, "--drive", str(folder), "--out", str(tmp_path / "a.mp4")])
    assert "give --bfm" in capsys.readouterr().err
    if not bfm.exists():
        pytest.skip("no recordings")
    from copo.head.bfm import BaselFaceModel

    if BaselFaceModel.load(bfm).spec.expression != 64:
        pytest.skip("the recording has another size")
    assert told(capsys, "--model", model, "--drive", folder, "--bfm", bfm, "--out", tmp_path / "a.mp4")["frames"] == 2


def test_blending_holds_the_background_still(model: str) -> None:
    person = tiny().sample(seed=5)
    drive = talk_clip(10).for_spec(tiny().spec)[[0, 6]]

    def change(blend: str) -> float:
        first, second = (p.image for p in tiny().animate(person, drive, blend=blend))
        return float((first - second).abs().max())

    everything = ",".join(str(name) for name in ("background", "skin", "hair", "cloth", "nose", "neck"))
    assert change(everything) <= change("none")


def test_batches_do_not_change_a_film() -> None:
    person, clip = tiny().sample(seed=7), talk_clip(10).first(0.5)
    alone, together = (list(tiny().animate(person, clip, "ellipse", batch=n)) for n in (1, 2))
    assert len(alone) == len(together) == 5, "the last batch is filled up and cut off again"
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.image, b.image, atol=1e-4)
        assert torch.equal(a.recipes[0].factors.expression, b.recipes[0].factors.expression)
        assert torch.equal(a.camera.cam2world, b.camera.cam2world)


def test_python(tmp_path: Path) -> None:
    """The example of docs/animate.md."""
    portrait = tiny()
    person = portrait.sample(seed=41)
    clip = talk_clip(10).first(0.5)
    frames = portrait.fast().animate(person, clip, "ellipse", blend="both")
    count = write_video(tmp_path / "clip.mp4", (frame.to_uint8()[0] for frame in frames), clip.rate)
    assert count == 5
    assert len(list(video_frames(tmp_path / "clip.mp4", [0.0, 0.4]))) == 2
    with pytest.raises(CopoError, match="needs a drive"):
        list(portrait.animate(person, camera="orbit"))


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = photograph(tmp_path / "wall.png")
    write_video(tmp_path / "wall.mp4", [picture] * 3, 10)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "wall.mp4").read_bytes()[:60])
    nobody = weights(tmp_path, -10.0)
    save_factors(tmp_path / "two.npz", Factors.neutral(tiny().spec, 2))
    lacking = livelink(tmp_path / "take.csv", np.zeros((3, 52)), codes(3, 60))
    lacking.write_text(lacking.read_text(encoding="utf-8-sig").replace("JawOpen", "Jaw"), encoding="utf-8")
    (tmp_path / "empty.csv").write_text(lacking.read_text().splitlines()[0].replace("Jaw,", "JawOpen,"))
    before = sorted(p.name for p in tmp_path.iterdir())
    talk = ["--drive", "talk"]
    for words, complaint in (
        ([*talk, "--out", "clip.avi"], "end the name in"),
        ([*talk, "--out", "clip.png"], "folder"),
        ([*talk, "--fps", "0"], "--fps 0"),
        ([*talk, "--blend", "hairs"], "hair"),
        ([*talk, "--reference", "900"], "--reference 900"),
        ([*talk, "--reference", "someone"], "--reference 'someone'"),
        ([*talk, "--seed", "1", "--portrait", "two.npz"], "give one of them"),
        ([*talk, "--portrait", "two.npz"], "2 portraits"),
        ([*talk, "--seed", "-1"], "--seed -1"),
        (["--camera", "drive"], "--drive"),
        (["--drive", "take.csv"], "jawOpen"),
        (["--drive", "empty.csv"], "no frames"),
        (["--drive", "missing.npz"], "does not exist"),
        (["--drive", "cut.mp4", "--analyser", str(nobody)], "no picture"),
        (["--drive", "wall.mp4", "--analyser", str(nobody)], "no face was found"),
        (["--drive", "wall.mp4", "--analyser", "none.safetensors"], "none.safetensors"),
        (["--drive", "wall.png"], "unknown kind"),
    ):
        given = [str(tmp_path / w) if (tmp_path / w).is_file() or w.startswith(("clip.", "missing", "none.")) else w
                 for w in words]  # fmt: skip
        if "--out" not in given:
            given += ["--out", str(tmp_path / "out.mp4")]
        with pytest.raises(SystemExit) as stop:
            main(["animate", "--model", model, *given])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and complaint in error, (words, error)
        assert error.count("\n") == 1 and error.endswith("\n")
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_strength_and_rest_reach_the_film(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", model, "--drive", "talk", "--fps", "5", "--seconds", "0.8", "--blend", "none"]
    told(capsys, *words, "--strength", "0", "--out", tmp_path / "still")
    told(capsys, *words, "--strength", "0.5", "--smooth", "2", "--calibrate", "--out", tmp_path / "half")
    still = [read_recipe(p, tiny().spec).factors.expression for p in sorted((tmp_path / "still").glob("*.png"))]
    assert all(float(e.abs().max()) == 0 for e in still)
    half = read_recipe(tmp_path / "half" / "000003.png", tiny().spec)
    assert 0 < float(half.factors.expression.max()) <= 0.5
    assert math.isfinite(float(half.camera.position.norm()))
