"""`copo generate` as people use it, with a tiny model of random weights."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from copo.cli.main import main
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.dataset import PortraitDataset
from copo.formats.factor_files import load_factors, save_factors
from copo.formats.pictures import load_depth, load_image, read_metadata
from copo.formats.portrait_file import PortraitFile, WeightDelta, save_portrait_file
from copo.formats.recipe import read_recipe
from copo.generation.job import Artist, ModelSource
from copo.generation.privacy import DESCRIPTORS, Guard, load_descriptors, save_descriptors
from copo.generation.run import generate
from copo.generation.seeds import Seeds
from copo.generation.settings import DrawSettings, Item, People, Unit
from copo.portrait import Portrait
from copo.vision.models import find_model

torch.set_num_threads(1)


@cache
def tiny() -> Portrait:
    return Portrait.random("tiny", seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny().save_pretrained(tmp_path_factory.mktemp("model") / "tiny", half=False)


def run(*words: object) -> None:
    main(["generate", *map(str, words)])


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    run(*words, "--json")
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


# --- seeds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", [5]), ("0-3", [0, 1, 2, 3]), ("7,1-3,2-4", [1, 2, 3, 4, 7]), (" 1 , 9 - 10", [1, 9, 10]), ("3,4,3", [3, 4])],
)
def test_seeds_are_read(text: str, expected: list[int]) -> None:
    seeds = Seeds.parse(text)
    assert list(seeds) == expected and [seeds[i] for i in range(len(seeds))] == expected
    assert Seeds.parse(str(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1--2", "5-3", "1.5", "1,,2", "99999999999999999", "9" * 16])
def test_seeds_that_do_not_parse(text: str) -> None:
    with pytest.raises(CopoError, match="--seeds"):
        Seeds.parse(text)


def test_millions_of_seeds_are_not_spelled_out() -> None:
    seeds = Seeds.parse("0-999999999,2000000000")
    assert len(seeds) == 10**9 + 1 and seeds[10**9] == 2 * 10**9 and seeds[12345] == 12345


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=1))
def test_any_set_of_seeds_is_kept(chosen: set[int]) -> None:
    assert list(Seeds.parse(",".join(map(str, chosen)))) == sorted(chosen)


# --- pictures ---------------------------------------------------------------------------------------------------


def test_a_folder_of_portraits(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    body = told(capsys, "--model", model, "--seeds", "0-2,7", "--out", out, "--yaw", 20)
    assert body["pictures"] == body["made"] == 4 and body["missing"] == 0 and body["model"] == "tiny"
    names = sorted(p.name for p in out.iterdir())
    assert names == ["generate.json", "grid.jpg", "index.html", *(f"seed{i:06d}.png" for i in (0, 1, 2, 7))]
    picture = load_image(out / "seed000007.png")
    expected = tiny().render(tiny().sample(seed=7), tiny().camera(20)).to_uint8()[0]
    assert np.array_equal(picture, expected)
    for file in (out / "seed000000.png", out / "grid.jpg"):
        assert read_metadata(file).source_type == "trainedAlgorithmicMedia"
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 4 and "trainedAlgorithmicMedia" in page and 'src="seed000007.png"' in page
    again = told(capsys, "--model", model, "--seeds", "0-2,7", "--out", out, "--yaw", 20)
    assert again["made"] == 0 and again["kept"] == 4


def test_a_stopped_run_goes_on(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run("--model", model, "--seeds", "0-4", "--out", whole)
    shutil.copytree(whole, broken)
    for name in ("seed000001.png", "seed000004.png", "index.html", "grid.jpg"):
        (broken / name).unlink()
    body = told(capsys, "--model", model, "--seeds", "0-4", "--out", broken)
    assert body["made"] == 2 and body["kept"] == 3
    for file in whole.iterdir():
        assert (broken / file.name).read_bytes() == file.read_bytes(), file.name


def test_more_seeds_may_join_but_not_other_choices(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("--model", model, "--seeds", "3", "--out", out)
    assert told(capsys, "--model", model, "--seeds", "0-3", "--out", out)["made"] == 3
    assert "another psi (1.0, now 0.5)" in complaint(
        capsys, "--model", model, "--seeds", "3", "--out", out, "--psi", 0.5
    )
    other = Portrait.random("tiny", seed=2).save_pretrained(tmp_path / "other")
    assert "another model" in complaint(capsys, "--model", other, "--seeds", "3", "--out", out)


def test_only_the_named_factors_change_with_the_seed(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("--model", model, "--seeds", "5-7", "--out", out, "--factor", "light,pose", "--expression", "jawOpen=0.5")
    recipes = [read_recipe(out / f"seed{i:06d}.png", tiny().spec) for i in (5, 6, 7)]
    base = tiny().sample(seed=5)
    for seed, recipe in zip((5, 6, 7), recipes, strict=True):
        assert torch.equal(recipe.factors.shape, base.shape) and torch.equal(recipe.factors.noise, base.noise)
        assert torch.equal(recipe.factors.illumination, tiny().sample(seed=seed).illumination)
        assert recipe.factors.expression.sum() == 0.5
        assert torch.allclose(recipe.camera.cam2world, tiny().sample_cameras(seed).cam2world)


def test_workers_and_shards_make_the_same_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ("--model", model, "--seeds", "0-34")
    run(*plain, "--out", tmp_path / "one")
    run(*plain, "--out", tmp_path / "pool", "--workers", 2)
    run(*plain, "--out", tmp_path / "shards", "--shard", "2/2")
    assert not (tmp_path / "shards" / "index.html").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(*plain, "--out", tmp_path / "shards")
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert len(names) == 38
    for other in ("pool", "shards"):
        assert {p.name for p in (tmp_path / other).iterdir()} == names
        for name in sorted(names)[::7]:
            assert (tmp_path / other / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_one_line_says_what_to_install(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", model, "--seeds", "0-3", "--out", tmp_path / "out", "--engine", "ray")
    assert "pip install 'copo[ray]'" in complaint(capsys, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_cluster_makes_the_same_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    run("--model", model, "--seeds", "0-39", "--out", tmp_path / "one")
    run("--model", model, "--seeds", "0-39", "--out", tmp_path / "ray", "--engine", "ray", "--workers", 2)
    for name in ("seed000000.png", "seed000039.png", "index.html"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_large_sets_have_folders() -> None:
    people = People(Seeds.parse("0-2,41234"), folders=True)
    assert [item.name for item in people.items()][2:] == ["00000/seed000002", "00041/seed041234"]
    assert [len(u.items) for u in People(Seeds.parse("0-34"), (("a.json", "a", 3),)).units()] == [32, 3, 3]


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_formats(model: Path, tmp_path: Path, suffix: str) -> None:
    run("--model", model, "--seeds", 4, "--out", tmp_path, "--format", suffix, "--size", 48)
    assert load_image(tmp_path / f"seed000004.{suffix}").shape == (48, 48, 3)
    assert read_recipe(tmp_path / f"seed000004.{suffix}", tiny().spec).seed == 4


# --- labels -----------------------------------------------------------------------------------------------------


def test_labels_are_exact_and_make_a_data_set(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    body = told(capsys, "--model", model, "--seeds", "0-3", "--out", out, "--labels", "--dataset", "--factor", "all",
                "--maps", "normals,semantics")  # fmt: skip
    assert str(out / "dataset.zip") in body["written"]
    stem = out / "seed000002"
    document = json.loads(stem.with_suffix(".json").read_text())
    stored = load_factors(stem.with_suffix(".json"))
    assert stored.camera is not None
    assert torch.equal(stored.factors.to_vector(), tiny().sample(seed=2).to_vector())
    assert torch.allclose(stored.camera.cam2world, tiny().sample_cameras(2).cam2world)
    vertices = tiny().head.vertices(stored.factors.shape, stored.factors.expression)
    place, _ = stored.camera.project(vertices[:, tiny().head.topology.landmarks68])
    assert np.allclose(document["landmarks68"], place[0].numpy() * 32, atol=2e-3)
    assert np.shape(document["landmarks478"]) == (478, 2) and set(document["facing68"]) <= {0, 1}
    picture = tiny().render(stored.factors, stored.camera, maps=("depth", "semantics"), map_rays=32)
    assert picture.depth is not None and picture.semantics is not None
    assert np.allclose(load_depth(f"{stem}_depth.png"), picture.depth[0].numpy(), atol=1e-5)
    assert np.array_equal(load_image(f"{stem}_classes.png")[..., 0], picture.semantics[0].numpy())
    assert load_image(f"{stem}_normals.png").shape == (32, 32, 3)
    data = PortraitDataset(out / "dataset.zip")
    assert len(data) == 4 and data.has_labels and data.factors is not None and data.points478 is not None
    assert np.array_equal(data.image(2), load_image(f"{stem}.png"))
    assert np.array_equal(data.labels(2), picture.semantics[0].numpy())
    assert torch.equal(data.factors[2].to_vector(), stored.factors.to_vector())
    assert (
        data.preparation["generated"] is True and "trainedAlgorithmicMedia" in data.preparation["digital_source_type"]
    )


# --- other people -----------------------------------------------------------------------------------------------


def test_a_picture_is_made_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, changed = tmp_path / "first", tmp_path / "again", tmp_path / "changed"
    run("--model", model, "--seeds", 3, "--out", first, "--expression", "smile=0.4", "--psi", 0.7, "--pitch", 5)
    picture = first / "seed000003.png"
    run("--model", model, "--from", picture, "--out", again)
    assert (again / picture.name).read_bytes() == picture.read_bytes()
    run("--model", model, "--from", picture, "--out", changed, "--expression", "jawOpen=1", "--yaw", 10)
    recipe, before = (read_recipe(f / picture.name, tiny().spec) for f in (changed, first))
    assert torch.equal(recipe.factors.identity, before.factors.identity) and recipe.psi == 0.7
    assert recipe.factors.expression.sum() == 1 and not torch.equal(recipe.camera.cam2world, before.camera.cam2world)
    other = Portrait.random("tiny", seed=2).save_pretrained(tmp_path / "other")
    assert "another model, tiny" in complaint(capsys, "--model", other, "--from", picture, "--out", tmp_path / "no")
    plain = tmp_path / "plain.png"
    from PIL import Image

    Image.fromarray(load_image(picture)).save(plain)
    assert "no recipe" in complaint(capsys, "--model", model, "--from", plain, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def person_file(path: Path) -> Factors:
    """A portrait file whose person has an offset and a changed weight."""
    model = tiny()
    person = model.sample(seed=9)
    name, weight = next((n, p) for n, p in model.generator.named_parameters() if n.startswith("super_resolution"))
    delta = WeightDelta(full=torch.full_like(weight, 0.05))
    offset = torch.full((model.generator.config.ws_count, model.generator.config.w_dim), 0.1)
    save_portrait_file(path, PortraitFile(person, model.camera(-8), model.fingerprint, offset, None, {name: delta}))
    return person


def test_portrait_files_and_factor_files_in_place_of_seeds(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    person = person_file(tmp_path / "ann.safetensors")
    save_factors(tmp_path / "bob.json", tiny().sample([1, 2]))
    out = tmp_path / "out"
    run("--model", model, "--seeds", 9, "--portrait", tmp_path / "ann.safetensors", tmp_path / "bob.json", "--out", out)
    assert {p.name for p in out.glob("*.png")} == {"seed000009.png", "ann.png", "bob_000.png", "bob_001.png"}
    expected = tiny().load_portrait(tmp_path / "ann.safetensors")[0].render(person, tiny().camera(-8)).to_uint8()[0]
    assert np.array_equal(load_image(out / "ann.png"), expected)
    assert np.array_equal(load_image(out / "bob_001.png"), tiny().render(tiny().sample(seed=2)).to_uint8()[0])
    again = tmp_path / "again"
    assert "portrait file" in complaint(capsys, "--model", model, "--from", out / "ann.png", "--out", again)
    run("--model", model, "--from", out / "ann.png", "--portrait", tmp_path / "ann.safetensors", "--out", again)
    assert (again / "ann.png").read_bytes() == (out / "ann.png").read_bytes()
    other = Portrait.random("tiny", seed=2).save_pretrained(tmp_path / "other")
    words = ("--model", other, "--portrait", tmp_path / "ann.safetensors", "--out", tmp_path / "no")
    assert "another model" in complaint(capsys, *words)
    assert not (tmp_path / "no").exists()


# --- privacy ----------------------------------------------------------------------------------------------------


def has_dlib() -> bool:
    try:
        find_model("dlib-descriptor")
    except CopoError:
        return False
    return True


def test_descriptor_files(tmp_path: Path) -> None:
    rows = torch.randn(5, 128)
    save_descriptors(tmp_path / DESCRIPTORS, rows, "a test")
    assert torch.allclose(load_descriptors(tmp_path / DESCRIPTORS), rows, atol=2e-3)
    with pytest.raises(CopoError, match="no training_descriptors"):
        load_descriptors(tmp_path / "gone")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(CopoError, match="damaged"):
        load_descriptors(tmp_path / "junk")
    with pytest.raises(CopoError, match="expected"):
        save_descriptors(tmp_path / "x", torch.zeros(3, 4))


@pytest.mark.skipif(not has_dlib(), reason="needs dlib's descriptor")
def test_faces_near_to_training_faces_are_left_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The descriptor of one portrait is put among the training faces: that portrait is left out, and stays out."""
    own = tmp_path / "model"
    shutil.copytree(model, own)
    artist = Artist(tiny(), DrawSettings(labels=True))
    drawn = [artist.draw(Unit("u", (Item(f"s{i}", i),))) for i in range(3)]
    guard = Guard(torch.zeros(1, 128))
    with torch.no_grad():
        points = [d[3][0] * 32 for d in drawn if d[3] is not None]
        descriptors = [guard.network.raw(guard.network.align(d[0].image, p))[0]
                       for d, p in zip(drawn, points, strict=True)]  # fmt: skip
    save_descriptors(own / DESCRIPTORS, descriptors[1][None])
    far = min(float((descriptors[1] - descriptors[i]).norm()) for i in (0, 2))
    words = ("--model", own, "--seeds", "0-2", "--out", tmp_path / "out", "--min-distance", far / 2)
    body = told(capsys, *words)
    assert body["rejected"] == ["seed000001"] and body["pictures"] == 2
    assert not (tmp_path / "out" / "seed000001.png").exists()
    assert "too near" in (tmp_path / "out" / "index.html").read_text()
    assert told(capsys, *words)["made"] == 0


@pytest.mark.skipif(not has_dlib(), reason="needs dlib's descriptor")
def test_descriptors_of_a_training_set_know_its_pictures(model: Path, tmp_path: Path) -> None:
    """A data set of generated portraits is the training set: each of them is at distance 0 and left out."""
    from tools.training_descriptors import descriptors

    from copo.vision.dlib_descriptor import DlibDescriptor

    out = tmp_path / "set"
    run("--model", model, "--seeds", "0-2", "--out", out, "--labels", "--dataset")
    found = descriptors(PortraitDataset(out / "dataset.zip"), DlibDescriptor.load())
    assert found.shape == (3, 128)
    drawn = Artist(tiny(), DrawSettings(labels=True)).draw(Unit("u", (Item("s1", 1),)))
    assert drawn[3] is not None
    distance = Guard(found).distances(drawn[0].image, drawn[3][0] * 32)
    assert distance[0] < 0.05  # the picture was rounded to 8 bits, landmarks to thousandths of a pixel


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nobody to draw"),
        (("--seeds", "5-1"), "runs backwards"),
        (("--seeds", "1", "--factor", "idendity"), "'identity'"),
        (("--seeds", "1", "--maps", "dept"), "'depth'"),
        (("--seeds", "1", "--format", "bmp"), "format"),
        (("--seeds", "1", "--expression", "smlie=1"), "'smile'"),
        (("--seeds", "1", "--psi", "9"), "--psi 9"),
        (("--seeds", "1", "--size", "5"), "--size 5"),
        (("--seeds", "1", "--pitch", "100"), "pitch 100"),
        (("--seeds", "1", "--factor-psi", "noise=x"), "--factor-psi"),
        (("--seeds", "1", "--factor-psi", "nose=1"), "'noise'"),
        (("--seeds", "1", "--light", "gone.hdr"), "no such file"),
        (("--seeds", "1", "--shard", "3/2"), "--shard"),
        (("--seeds", "1", "--dataset"), "--labels"),
        (("--seeds", "1", "--min-distance", "0.4"), "training_descriptors"),
        (("--portrait", "gone.safetensors"), "no such file"),
        (("--portrait", "a.txt"), "portrait file"),
        (("--from", "gone.png"), "no such file"),
        (("--from", "a.txt"), "give a picture"),
        (("--seeds", "1", "--from", "a.png"), "leave --seeds out"),
        (("--seeds", "1", "--workers", "-1"), "--workers"),
        (("--seeds", "1", "--device", "cuda:77"), "CUDA"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in complaint(capsys, "--model", model, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_without_a_model_one_line_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such folder" in complaint(capsys, "--model", tmp_path / "gone", "--seeds", 1, "--out", tmp_path / "o")
    monkeypatch.setenv("COPO_MODEL", str(tmp_path / "gone"))
    assert "no such folder" in complaint(capsys, "--seeds", 1, "--out", tmp_path / "o")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0 and "Example: copo generate" in capsys.readouterr().out


def test_the_library_call_is_the_command(model: Path, tmp_path: Path) -> None:
    outcome = generate(
        People(Seeds.parse("1")), DrawSettings(), tmp_path / "out", ModelSource(str(model), device="cpu"), model=tiny()
    )
    assert [os.path.basename(p) for p in outcome.pictures] == ["seed000001.png"]
