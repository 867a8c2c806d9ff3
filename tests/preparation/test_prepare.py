"""`copo prepare` as a user runs it, on pictures of rendered heads whose cameras and factors are known."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import shutil
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import parity
from tests.preparation.samples import command, finish, models, models_folder, needs_models, rendered, save
from tests.preparation.test_sources import make_video

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.formats.mat import load_coefficients
from copo.formats.pictures import load_image
from copo.preparation import engine
from copo.preparation.config import PrepareConfig, QualityConfig
from copo.preparation.engine import crashed
from copo.preparation.process import camera_angles
from copo.preparation.run import RunConfig, merge, prepare
from copo.preparation.sources import Source
from copo.preparation.store import WorkFolder
from copo.preparation.units import Plan, Unit, UnitResult, result_from_bytes, result_to_bytes
from copo.vision.bisenet import BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.networks.bisenet import BiSeNet
from copo.vision.networks.deep3d import Deep3DNet
from copo.work.crew import parse_shard

__all__ = ["models", "models_folder"]

pytestmark = needs_models

HERE = RunConfig(workers=1)
SMALL = PrepareConfig(size=128, verify_person=False, quality=QualityConfig(min_sharpness=0, min_colour=1))


def rejections(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8") as file:
        return {row["source"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six heads under six yaws."""
    folder = tmp_path_factory.mktemp("inputs") / "heads"
    for seed in range(6):
        save(folder / f"{seed}.png", rendered(seed, yaw=10.0 * (seed - 2)))
    return folder


def test_known_cameras_are_found_and_everything_is_written(heads: Path, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "set"
    outcome = prepare([heads], out, SMALL, HERE)
    assert outcome.summary is not None and outcome.summary.accepted == 6 and outcome.rate > 0
    dataset = PortraitDataset(out / "dataset.zip")
    assert dataset.has_labels and dataset.factors is not None and dataset.factors.spec.head == "open_head"
    assert dataset.points478 is not None and dataset.points68 is not None
    for i in range(6):
        yaw, pitch, _ = camera_angles(dataset.cameras[i])
        assert yaw == pytest.approx(10.0 * (i - 2), abs=8) and pitch == pytest.approx(0, abs=8)
        assert float(dataset.manifest[i]["yaw"]) == pytest.approx(yaw, abs=0.1)
        assert dataset.image(i).shape == (128, 128, 3)
        labels = dataset.labels(i)
        eyes = dataset.points68[i][36:48].mean(0)
        assert 40 < eyes[0] < 88 and 40 < eyes[1] < 72, "FFHQ's place of the eyes"
        nose = dataset.points68[i][30].astype(int)
        assert labels[nose[1], nose[0]] == 10 and labels[2, 2] == 0 and (labels == 17).any() and (labels == 1).any()
    manifest = dataset.manifest[0]
    assert manifest["source"] == "heads/0.png" and len(manifest["sha256"]) == 64 and manifest["landmarks"] == "found"
    report = (out / "report.html").read_text()
    for picture in re.findall(r'src="([^"]+)"', report):
        assert load_image(out / picture).size > 1000
    assert "Yaw, degrees" in report and "jawOpen" in report and "Azimuth of the light" in report
    assert not (out / "work").exists()
    again = prepare([heads], out, SMALL, HERE)
    assert again.worked == 0 and again.kept == 6 and again.summary is not None and again.summary.accepted == 6
    with pytest.raises(CopoError, match="other photographs or choices"):
        prepare([heads / "1.png"], out, SMALL, HERE)


def test_every_kind_of_bad_picture_is_reported_and_the_run_goes_on(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "bad"
    good = rendered(1)
    save(folder / "Ünïcødé 顔.png", good)
    Image.fromarray(good).save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:4000])
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is stored turned by 90 degrees
    Image.fromarray(np.rot90(rendered(2))).save(folder / "exif.jpg", exif=exif, quality=95)
    Image.fromarray(rendered(3)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    alpha = np.dstack([rendered(4), np.full((256, 256), 255, np.uint8)])
    alpha[:40, :40, 3] = 0
    save(folder / "alpha.png", alpha)
    Image.fromarray(rendered(5).mean(-1).astype(np.uint16) * 257).save(folder / "sixteen.png")
    save(folder / "two.png", np.concatenate([rendered(6)[:, 80:176], rendered(7)[:, 80:176]], axis=1))
    save(folder / "noise.png", np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8))
    save(folder / "tiny.png", np.full((8, 8, 3), 90, np.uint8))
    save(folder / "ü-twin.png", good)
    out = tmp_path / "set"
    outcome = prepare([folder], out, SMALL, HERE)
    dataset = PortraitDataset(out / "dataset.zip")
    assert [row["source"] for row in dataset.manifest] == [
        "bad/alpha.png", "bad/cmyk.jpg", "bad/exif.jpg", "bad/Ünïcødé 顔.png"
    ]  # fmt: skip
    assert (dataset.points68[2][8] - dataset.points68[2][27])[1] > 20, "upright: the chin is below the nose"  # type: ignore[index]
    found = rejections(out)
    assert {name.removeprefix("bad/"): reason for name, (reason, _) in found.items()} == {
        "truncated.jpg": "unreadable", "text.jpg": "unreadable", "empty.png": "unreadable", "gone.png": "unreadable",
        "tiny.png": "unreadable", "sixteen.png": "grey", "two.png": "faces", "noise.png": "no face",
        "ü-twin.png": "duplicate",
    }  # fmt: skip
    assert "Ünïcødé" in found["bad/ü-twin.png"][1]
    assert outcome.summary is not None and len(outcome.summary.rejected) == 9
    assert all("\n" not in detail for _, detail in found.values())


def test_nothing_usable_is_one_line(tmp_path: Path, models: Path) -> None:
    save(tmp_path / "none" / "noise.png", np.random.default_rng(0).integers(0, 256, (99, 99, 3)).astype(np.uint8))
    with pytest.raises(CopoError, match=r"none of the 1 photographs was accepted \(no face 1\)"):
        prepare([tmp_path / "none"], tmp_path / "set", SMALL, HERE)
    assert not (tmp_path / "set" / "dataset.zip").exists()


def test_one_identity_for_one_person(tmp_path: Path, models: Path) -> None:
    for i, yaw in enumerate((0.0, 25.0, -20.0)):
        save(tmp_path / "p" / f"{i}.png", rendered(3, yaw=yaw, smile=0.3 * i))
    save(tmp_path / "p" / "3.png", rendered(9))
    rows = "".join(f"{i}.png,anna,CC0 1.0\n" for i in range(3)) + "3.png,bert,CC BY 4.0\n"
    (tmp_path / "p" / "manifest.csv").write_text("path,person,licence\n" + rows)
    prepare([tmp_path / "p"], tmp_path / "set", SMALL, HERE)
    dataset = PortraitDataset(tmp_path / "set" / "dataset.zip")
    assert dataset.factors is not None
    shape = dataset.factors.shape
    assert (shape[0] == shape[1]).all() and (shape[0] == shape[2]).all() and not (shape[0] == shape[3]).all()
    assert not (dataset.factors.expression[0] == dataset.factors.expression[2]).all()
    assert [row["licence"] for row in dataset.manifest] == ["CC0 1.0"] * 3 + ["CC BY 4.0"]
    assert [row["person"] for row in dataset.manifest] == ["anna"] * 3 + ["bert"]


def test_method_alignment_and_mat_files(heads: Path, tmp_path: Path, models: Path) -> None:
    config = PrepareConfig(**{**vars(SMALL), "align": "copo", "mat_files": True})
    prepare([heads], tmp_path / "set", config, HERE, mat=tmp_path / "mat")
    dataset = PortraitDataset(tmp_path / "set" / "dataset.zip")
    pose = dataset.cameras.to_pitch_yaw()  # raises where a camera is not on the method's sphere
    assert pose.radius.numpy() == pytest.approx(1, abs=1e-4)
    assert dataset.factors is not None
    for i in range(6):
        mat = load_coefficients(tmp_path / "mat" / f"img{i:08d}.mat", {"id": 80, "exp": 52, "tex": 50, "angle": 3,
                                                                       "gamma": 27, "trans": 3})  # fmt: skip
        assert mat["id"] == pytest.approx(dataset.factors.shape[i : i + 1].numpy(), abs=1e-6)
        assert mat["trans"][0] == pytest.approx([0, -0.1, 0], abs=0.02)
        pitch_yaw = np.pi / 2 + mat["angle"][0, :2] * [-1, 1]  # the published reading, exact for small angles
        assert pitch_yaw == pytest.approx([float(pose.pitch[i]), float(pose.yaw[i])], abs=0.03)
        assert (load_image(tmp_path / "mat" / f"img{i:08d}.png") == dataset.image(i)).all()


@parity.needs_parity
def test_published_parts_give_published_files(
    heads: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep3DFaceRecon, a face model in the published format and BiSeNet; only their weights are made up."""
    torch.manual_seed(0)
    deep3d = Deep3DReconstructor(Deep3DNet().eval().requires_grad_(False))  # its last layers begin at zero
    bisenet = BiSeNetParser(BiSeNet().eval().requires_grad_(False))
    monkeypatch.setattr(Deep3DReconstructor, "load", lambda: deep3d)
    monkeypatch.setattr(BiSeNetParser, "load", lambda: bisenet)
    bfm = str(parity.ROOT / "bfm_front_synthetic_a")
    published = {"reconstructor": "deep3d", "parser": "bisenet", "bfm": bfm, "align": "copo", "mat_files": True}
    config = PrepareConfig(**{**vars(SMALL), **published})
    prepare([heads], tmp_path / "set", config, HERE, mat=tmp_path / "mat")
    dataset = PortraitDataset(tmp_path / "set" / "dataset.zip")
    assert len(dataset) == 6 and dataset.factors is not None and dataset.factors.spec.expression == 64
    assert dataset.has_labels and dataset.labels(0).max() <= 18
    mat = load_coefficients(tmp_path / "mat" / "img00000000.mat")  # the published sizes
    assert mat["angle"] == pytest.approx(0, abs=0.05) and mat["trans"][0] == pytest.approx([0, -0.1, 0], abs=0.01)
    for needless in ({"parser": "masks"}, {"align": "copo"}, {"align": "ffhq"}):
        with pytest.raises(CopoError, match="add --bfm DIR"):
            PrepareConfig(**{**vars(SMALL), **published, **needless, "bfm": ""})


def test_videos(tmp_path: Path, models: Path) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "v").mkdir()
    with av.open(str(tmp_path / "v" / "02-01-03-02-01-01-07.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.bit_rate = 256, 256, 4_000_000
        for k in range(12):
            frame = av.VideoFrame.from_ndarray(np.array(rendered(2, smile=0.2 if k < 6 else 0.9)), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    make_video(tmp_path / "v" / "02-01-03-02-01-01-08.mp4", 6)
    config = PrepareConfig(**{**vars(SMALL), "preset": "ravdess", "frames_per_second": 2.5})
    prepare([tmp_path / "v"], tmp_path / "set", config, HERE)
    dataset = PortraitDataset(tmp_path / "set" / "dataset.zip")
    assert [row["time"] for row in dataset.manifest] == ["0.000", "0.400", "0.800"]
    assert {(r["person"], r["expression"], r["sequence"]) for r in dataset.manifest} == {
        ("actor_07", "happy", "01-03-02-01-01-07")
    }
    assert dataset.factors is not None
    smile = dataset.factors.expression[:, dataset.factors.spec.expression_names.index("mouthSmileLeft")]
    assert smile[2] > smile[0] + 0.1, "the sequence of expressions is kept"
    assert {reason for reason, _ in rejections(tmp_path / "set").values()} == {"no face"}


# --- being stopped ----------------------------------------------------------------------------------------------


def words(heads: Path, out: Path) -> list[str]:
    return ["--images", str(heads), "--out", str(out), "--size", "128", "--workers", "2", "--keep-work",
            "--no-verify-person", "--quality.min-sharpness", "0", "--quality.min-colour", "1"]  # fmt: skip


def finished_units(out: Path) -> int:
    return len(list((out / "work" / "units").rglob("*.zip")))


def test_killed_and_resumed_without_loss_or_duplicates(heads: Path, tmp_path: Path, models_folder: Path) -> None:
    """Killed with SIGKILL in the middle, the same command goes on and ends with the same bytes as a run in one go."""
    out = tmp_path / "set"
    process = command(*words(heads, out), models=models_folder)
    limit = time.monotonic() + 240
    while finished_units(out) < 2 and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = finished_units(out)
    assert 2 <= done < 6 and not (out / "dataset.zip").exists()
    text, _ = finish(command(*words(heads, out), models=models_folder))
    kept = re.search(r"(\d) photographs were done before", text)
    assert kept and int(kept[1]) >= done and "6 portraits, 0 rejected" in text
    finish(command(*words(heads, tmp_path / "whole"), models=models_folder))
    assert (out / "dataset.zip").read_bytes() == (tmp_path / "whole" / "dataset.zip").read_bytes()
    assert not list(out.rglob("*.tmp")) or all("work" in p.parts for p in out.rglob("*.tmp"))


def test_full_disk_stops_in_one_line_and_can_go_on(heads: Path, tmp_path: Path, models_folder: Path) -> None:
    """The size of files is limited to less than a result takes, which fails as a full disk does."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    _, error = finish(command(*words(heads, tmp_path / "set"), models=models_folder, before=limit), code=2)
    assert next(line for line in error.splitlines() if "error:" in line).startswith("error: cannot write")
    assert "Traceback" not in error and finished_units(tmp_path / "set") == 0
    text, _ = finish(command(*words(heads, tmp_path / "set"), models=models_folder))
    assert "6 portraits" in text


def test_shards_and_merge_give_the_whole(heads: Path, tmp_path: Path, models: Path) -> None:
    whole = prepare([heads], tmp_path / "whole", SMALL, HERE)
    out = tmp_path / "set"
    for i in (1, 2):
        assert prepare([heads], out, SMALL, HERE, shard=(i, 3)).summary is None
    with pytest.raises(CopoError, match="2 of 6 units are not done"):
        merge(out)
    elsewhere = tmp_path / "elsewhere"
    prepare([heads], elsewhere, SMALL, HERE, shard=(3, 3))
    shutil.copytree(elsewhere / "work" / "units", out / "work" / "units", dirs_exist_ok=True)
    merged = merge(out)
    assert merged.summary is not None and whole.summary is not None and merged.summary.accepted == 6
    assert (out / "dataset.zip").read_bytes() == (tmp_path / "whole" / "dataset.zip").read_bytes()
    with pytest.raises(CopoError, match="run the shards"):
        merge(tmp_path / "nothing")


def test_work_of_other_choices_is_not_mixed(heads: Path, tmp_path: Path, models: Path) -> None:
    prepare([heads], tmp_path / "set", SMALL, HERE, shard=(1, 6))
    with pytest.raises(CopoError, match=r"begun with other choices \(size: 128, now 64\)"):
        prepare([heads], tmp_path / "set", PrepareConfig(**{**vars(SMALL), "size": 64}), HERE)
    store = WorkFolder(tmp_path / "set")
    with store.lock("all"), pytest.raises(CopoError, match="another copo prepare is working"):
        prepare([heads], tmp_path / "set", SMALL, HERE)


def test_a_unit_that_kills_its_workers_is_rejected(
    heads: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture whose decoding ends the process takes nobody else with it."""
    bomb = tmp_path / "set" / "bomb.png"
    shutil.copytree(heads, tmp_path / "set")
    shutil.copy(heads / "0.png", bomb)
    shutil.copy(Path(__file__).with_name("crashing_decoder.py"), tmp_path / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("COPO_TEST_BOMB", "set/bomb.png")
    outcome = prepare([tmp_path / "set"], tmp_path / "out", SMALL, RunConfig(workers=2))
    assert outcome.summary is not None and outcome.summary.accepted == 6
    reason, detail = rejections(tmp_path / "out")["set/bomb.png"]
    assert reason == "crash" and "died twice" in detail


def test_a_missing_model_is_one_line(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPO_MODELS_DIR", str(tmp_path / "none"))
    for workers in (1, 2):
        with pytest.raises(CopoError, match="copo models fetch mediapipe-face"):
            prepare([heads], tmp_path / "set", SMALL, RunConfig(workers=workers))


# --- small parts ------------------------------------------------------------------------------------------------


def test_results_survive_being_stored(heads: Path, models: Path) -> None:
    preparer = engine.Preparer(SMALL)
    sources = [Source(f"heads/{i}.png", str(heads / f"{i}.png"), None, 1) for i in (0, 1)]
    result = preparer.run(Unit.of([*sources, Source("heads/gone.png", "/nowhere", None, 1)]))
    assert len(result.accepted) == 2 and [r.name for r in result.rejected] == ["heads/gone.png"]
    data = result_to_bytes(result)
    again = result_from_bytes(data)
    assert result_to_bytes(again) == data and again.rejected == result.rejected
    assert again.accepted[1].portrait.picture == result.accepted[1].portrait.picture
    with pytest.raises(CopoError, match="damaged"):
        result_from_bytes(data[:100])
    bare = UnitResult("x", (), crashed(Unit.of(sources), -9).rejected)
    assert result_from_bytes(result_to_bytes(bare)) == bare
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert json.loads(archive.read("unit.json"))["unit"] == result.unit


def test_shard_words() -> None:
    assert parse_shard("2/8") == (2, 8)
    for text in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(CopoError, match="write i/n"):
            parse_shard(text)


def test_ids_follow_from_choices(heads: Path) -> None:
    units = (Unit.of([Source("a.png", "a.png", None, 1)]),)
    assert Plan(units, SMALL).id != Plan(units, PrepareConfig()).id
