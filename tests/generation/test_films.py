"""Light that moves and people in between: `copo relight`, `copo interpolate`, `copo portrait`."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.generation.test_generate import person_file, tiny

from copo.cli.main import main
from copo.errors import CopoError
from copo.formats.environment import save_panorama
from copo.formats.factor_files import save_factors
from copo.formats.pictures import load_image, read_metadata
from copo.formats.recipe import read_recipe
from copo.formats.video import read_video_metadata
from copo.generation.films import Key, Lamp, Step, factors_at, interpolated, lamp_orbit, steps_between, turned_light
from copo.head.shading import sh_shading
from copo.head.sheets import identity_sheet

MOVING = ("identity", "expression", "light", "noise")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny().save_pretrained(tmp_path_factory.mktemp("model") / "tiny", half=False)


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


# --- light ------------------------------------------------------------------------------------------------------

SIDES = torch.tensor([[[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]]])
"""Front, right of the picture, back, left."""


def test_the_lamp_goes_from_the_front_over_the_right_to_the_back() -> None:
    lights = lamp_orbit(4, Lamp(elevation=0.0, ambient=0.1))
    for frame in range(4):
        lit = sh_shading(SIDES, lights[frame][None])[0, :, 0]
        assert int(lit.argmax()) == frame
        assert lit[frame] == pytest.approx(0.1 + 1.0625 * 1.2, abs=1e-3)
    strip = lamp_orbit(3, Lamp(elevation=0.0), closed=False)
    assert [int(sh_shading(SIDES, s[None])[0, :, 0].argmax()) for s in strip] == [3, 0, 1]


def test_a_coloured_lamp_shines_in_its_colour() -> None:
    lit = sh_shading(SIDES[:, :1], lamp_orbit(1, Lamp(0.0, ambient=0.0, colour=(1.0, 0.5, 0.0))))[0, 0]
    assert lit[1] == pytest.approx(float(lit[0]) / 2, rel=1e-4) and abs(float(lit[2])) < 1e-5


def test_a_turned_light_is_the_lamp_elsewhere() -> None:
    lamp = Lamp(elevation=0.4)
    assert torch.allclose(turned_light(lamp_orbit(1, lamp)[0], 8), lamp_orbit(8, lamp), atol=1e-5)


def test_relight_writes_films_and_strips(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["relight", "--model", str(model), "--seed", "3", "--out", str(tmp_path / "a.png"), "--steps", "3"])
    strip = load_image(tmp_path / "a.png")
    assert strip.shape == (32, 96, 3)
    person = tiny().sample(seed=3)
    lights = lamp_orbit(3, closed=False)
    expected = tiny().render(person.replace(illumination=lights[1]), blend="background", reference=person)
    assert np.abs(strip[:, 32:64].astype(int) - expected.to_uint8()[0]).max() <= 1
    mark = read_metadata(tmp_path / "a.png")
    assert mark.source_type == "trainedAlgorithmicMedia" and mark.metadata["relight"]["seed"] == 3
    capsys.readouterr()
    main(["relight", "--model", str(model), "--out", str(tmp_path / "a.gif"), "--seconds", "0.25", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert body["frames"] == 6 and body["fps"] == 24
    film = read_video_metadata(tmp_path / "a.gif")
    assert film.source_type == "trainedAlgorithmicMedia" and film.metadata["command"] == "relight"


def test_a_panorama_is_a_light(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    panorama = np.full((16, 32, 3), 0.2)
    panorama[6:9, 14:18] = 20
    save_panorama(tmp_path / "room.hdr", panorama)
    words = ("relight", "--model", model, "--seed", 3, "--environment", tmp_path / "room.hdr", "--out")
    main([str(word) for word in (*words, tmp_path / "a.png")])
    assert load_image(tmp_path / "a.png").shape == (32, 32, 3)
    recipe = read_recipe(tmp_path / "a.png", tiny().spec)
    lit = sh_shading(SIDES, recipe.factors.illumination)[0, :, 0]
    assert int(lit.argmax()) == 0
    main(["generate", "--model", str(model), "--from", str(tmp_path / "a.png"), "--out", str(tmp_path / "again")])
    assert np.array_equal(load_image(tmp_path / "again" / "a.png"), load_image(tmp_path / "a.png"))
    save_panorama(tmp_path / "night.hdr", np.zeros((4, 8, 3)))
    dark = (*words[:-2], tmp_path / "night.hdr", "--out", tmp_path / "b.png")
    assert "dark" in complaint(capsys, *dark) and not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "a.bmp"), "unknown ending"),
        (("--out", "a.gif", "--steps", "3"), "--seconds and --fps"),
        (("--out", "a.png", "--steps", "0"), "--steps 0"),
        (("--out", "a.png", "--environment", "gone.hdr"), "no such file"),
        (("--out", "a.png", "--environment", "a.hdr", "--like", "b.png"), "give one of them"),
        (("--out", "a.png", "--like", "gone.png"), "gone.png"),
        (("--out", "a.png", "--face", "2"), "--like"),
        (("--out", "a.png", "--color", "1,2"), "--color"),
        (("--out", "a.png", "--elevation", "100"), "--elevation 100"),
        (("--out", "a.gif", "--seconds", "0"), "--seconds 0"),
        (("--out", "a.gif", "--fps", "-1"), "--fps -1"),
        (("--out", "a.png", "--blend", "hairs"), "hair"),
        (("--out", "a.png", "--portrait", "gone.json"), "no such file"),
    ],
)
def test_bad_light_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in complaint(capsys, "relight", "--model", model, *words)
    assert not list(tmp_path.iterdir())


# --- people -----------------------------------------------------------------------------------------------------


def test_steps_go_from_key_to_key() -> None:
    assert steps_between(3, 2, False, False) == [Step(0, 1, 0), Step(0, 1, 0.5), Step(1, 2, 0), Step(1, 2, 0.5),
                                                 Step(1, 2, 1)]  # fmt: skip
    assert steps_between(2, 2, True, False) == [Step(0, 1, 0), Step(0, 1, 0.5), Step(1, 0, 0), Step(1, 0, 0.5)]
    eased = [step.share for step in steps_between(2, 4, False, True)]
    assert eased == [0, pytest.approx(10 / 64), 0.5, pytest.approx(54 / 64), 1]
    with pytest.raises(CopoError, match="at least two"):
        steps_between(1, 5, False, False)


def test_only_what_is_named_moves() -> None:
    keys = [Key(tiny(), tiny().sample(seed=seed)) for seed in (1, 2)]
    half = factors_at(keys, Step(0, 1, 0.5), ("light",))
    assert torch.equal(half.identity, keys[0].factors.identity) and torch.equal(half.noise, keys[0].factors.noise)
    expected = (keys[0].factors.illumination + keys[1].factors.illumination) / 2
    assert torch.allclose(half.illumination, expected, atol=1e-6)
    whole = factors_at(keys, Step(0, 1, 1.0), MOVING)
    assert torch.allclose(whole.to_vector(), keys[1].factors.to_vector(), atol=1e-5)
    middle = factors_at(keys, Step(0, 1, 0.5), MOVING)
    lengths = [float(f.noise.norm()) for f in (keys[0].factors, middle, keys[1].factors)]
    assert lengths[1] == pytest.approx((lengths[0] + lengths[2]) / 2, rel=1e-4)


def test_personal_models_are_mixed(tmp_path: Path) -> None:
    """The ends are the two people exactly, and half-way the weights are half changed."""
    person = person_file(tmp_path / "ann.safetensors")
    own, _ = tiny().load_portrait(tmp_path / "ann.safetensors")
    keys = [Key(tiny(), tiny().sample(seed=1)), Key(own, person)]
    frames = list(interpolated(keys, steps_between(2, 2, False, False), MOVING))
    assert len(frames) == 3
    assert torch.equal(frames[0].image, tiny().render(keys[0].factors).image)
    assert torch.allclose(frames[2].image, own.render(person).image, atol=1e-5)
    assert frames[1].recipes == () and len(frames[0].recipes) == 1
    before = {k: v.clone() for k, v in tiny().generator.state_dict().items()}
    mixed = interpolated(keys, [Step(0, 1, 0.5)], MOVING)
    next(mixed)
    assert all(torch.equal(value, before[name]) for name, value in tiny().generator.state_dict().items())


def test_interpolate_writes_films_and_strips(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_factors(tmp_path / "bob.json", tiny().sample(seed=9))
    main(["interpolate", "--model", str(model), "--seeds", "4,2", "--portrait", str(tmp_path / "bob.json"), "--out",
          str(tmp_path / "a.png"), "--steps", "5", "--expression", "smile=0.5"])  # fmt: skip
    strip = load_image(tmp_path / "a.png")
    assert strip.shape == (32, 5 * 32, 3)
    for place, seed in ((0, 4), (2, 2), (4, 9)):
        expected = tiny().render(tiny().sample(seed=seed).with_expression(smile=0.5)).to_uint8()[0]
        assert np.abs(strip[:, place * 32 : place * 32 + 32].astype(int) - expected).max() <= 1
    capsys.readouterr()
    main(["interpolate", "--model", str(model), "--seeds", "1,2", "--loop", "--seconds", "0.125", "--out",
          str(tmp_path / "frames"), "--json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["frames"] == 6
    assert len(list((tmp_path / "frames").glob("*.png"))) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "1"), "at least two"),
        (("--seeds", "1,x"), "'x' is no seed"),
        (("--seeds", "1,2", "--factor", "pose"), "unknown factor"),
        (("--seeds", "1,2", "--expression", "smlie=1"), "'smile'"),
        (("--seeds", "1", "--portrait", "gone.json"), "no such file"),
    ],
)
def test_bad_people_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in complaint(capsys, "interpolate", "--model", model, "--out", tmp_path / "a.gif", *words)
    assert not list(tmp_path.iterdir())


# --- a first look -----------------------------------------------------------------------------------------------


def test_a_first_look(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    main(["portrait", "--model", str(model), "--out", str(tmp_path), "--seconds", "4", "--json"])
    written = json.loads(capsys.readouterr().out)["written"]
    assert [Path(path).name for path in written] == ["grid.png", "turntable.mp4", "talking.mp4"]
    for path in written[1:]:
        assert read_video_metadata(path).source_type == "trainedAlgorithmicMedia"
    assert read_metadata(written[0]).metadata["seeds"][0] == 41


def test_without_a_trained_model_the_head_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("copo.cli.portrait.has_packaged", lambda: False)
    monkeypatch.setattr("copo.cli.head.identity_sheet", partial(identity_sheet, count=2, tile=48))  # quicker
    main(["portrait", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert "not part of this installation" in told and "identities.png" in told
    assert {p.name for p in tmp_path.iterdir()} == {"head.png", "identities.png", "head.glb"}
    assert math.isfinite(load_image(tmp_path / "head.png").std())
