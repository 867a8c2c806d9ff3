"""`copo head` as a user runs it, at small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from copo.cli.main import main
from copo.factors import ARKIT_NAMES
from copo.formats.factor_files import load_factors
from copo.formats.pictures import LABEL_COLORS, load_depth, load_image, read_metadata


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The single line that a bad call prints."""
    with pytest.raises(SystemExit) as stop:
        main(["head", *words])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_picture_with_maps_and_factors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "head.png"
    words = [
        "--seed",
        "3",
        "--expression",
        "jawOpen=0.6,smile=0.8",
        "--yaw",
        "20",
        "--light",
        "45,30",
        "--size",
        "96",
        "--json",
    ]
    main(["head", *words, "--maps", "depth,normals,labels,mask", "--out", str(out),
          "--save-factors", str(tmp_path / "f.json")])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert len(report["written"]) == 6 and report["head"]["head"] == "open_head"
    picture = load_image(out)
    assert picture.shape == (96, 96, 3)
    mask = load_image(tmp_path / "head_mask.png")[..., 0] > 127
    assert 0.1 < mask.mean() < 0.95
    assert (picture[:4, :4] == 255).all() and picture[mask].std() > 20
    depth = load_depth(tmp_path / "head_depth.png")
    assert 0.7 < depth[mask].min() < depth[mask].max() < 1.3 and not depth[~mask].any()
    mark = read_metadata(out)
    assert mark.source_type == "algorithmicMedia" and mark.metadata["options"]["seed"] == 3
    factors, camera = load_factors(tmp_path / "f.json")
    assert float(factors.expression[0, ARKIT_NAMES.index("jawOpen")]) == pytest.approx(0.6)
    assert camera is not None and float(camera.position[0, 0]) == pytest.approx(np.sin(np.radians(20)), abs=1e-5)

    again = tmp_path / "again.png"
    main(["head", "--factors", str(tmp_path / "f.json"), "--yaw", "20", "--size", "96", "--out", str(again)])
    assert np.abs(load_image(again).astype(int) - picture).max() <= 1


def test_light_and_camera_move_the_right_way(tmp_path: Path) -> None:
    """A lamp at the right of the picture brightens the right half of the face; yaw moves the nose to the left."""
    out = tmp_path / "lit.png"
    main(["head", "--light", "80,0", "--size", "96", "--fov", "12", "--out", str(out)])
    face = load_image(out)[30:70, 30:66].mean(axis=(0, 2))
    assert face[-10:].mean() > face[:10].mean() + 20
    main(["head", "--yaw", "40", "--size", "96", "--maps", "labels", "--out", str(out)])
    right = load_image(tmp_path / "lit_labels.png")
    main(["head", "--yaw", "-40", "--size", "96", "--maps", "labels", "--out", str(out)])
    left = load_image(tmp_path / "lit_labels.png")
    columns = [np.nonzero((labels == LABEL_COLORS[10]).all(-1))[1].mean() for labels in (right, left)]
    assert columns[0] < columns[1] - 5


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
@pytest.mark.parametrize("texture", ["0", "128"])
def test_mesh_files_open_elsewhere(tmp_path: Path, suffix: str, texture: str) -> None:
    out = tmp_path / f"head{suffix}"
    main(["head", "--seed", "2", "--texture", texture, "--out", str(out)])
    mesh = trimesh.load(out, force="mesh")
    assert len(mesh.faces) > 9000
    assert 0.15 < np.ptp(mesh.vertices[:, 1]) < 0.6  # metres
    assert mesh.vertices[:, 2].max() > 0.04  # the nose points along +z


def test_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.jpg"
    main(["head", "--sheet", "expressions", "--out", str(out)])
    assert load_image(out).size > 10**5


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "head.png")
    assert "did you mean 'jawOpen'" in fails(capsys, "--expression", "jawopne=0.5", "--out", out)
    assert "out of range" in fails(capsys, "--expression", "jawOpen=1.5", "--out", out)
    assert "NAME=VALUE" in fails(capsys, "--expression", "jawOpen", "--out", out)
    assert "unknown ending '.tiff'" in fails(capsys, "--out", "head.tiff")
    assert "write 2 numbers" in fails(capsys, "--light", "45", "--out", out)
    assert "choose 1 to 8192" in fails(capsys, "--size", "0", "--out", out)
    assert "choose from depth" in fails(capsys, "--maps", "dept", "--out", out)
    assert "negative" in fails(capsys, "--seed=-1", "--out", out)
    assert "outside of the head" in fails(capsys, "--distance", "0.05", "--out", out)
    assert "--device" in fails(capsys, "--device", "cuda:7", "--out", out)
    assert "does not exist" in fails(capsys, "--factors", str(tmp_path / "none.json"), "--out", out)
    missing = fails(capsys, "--bfm", str(tmp_path), "--out", out)
    assert "BFM" in missing
    (tmp_path / "BFM_model_front.mat").write_bytes(b"MATLAB 5.0 truncated")
    assert "BFM_model_front.mat" in fails(capsys, "--bfm", str(tmp_path), "--out", out)
    assert not Path(out).exists()


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = fails(capsys, "--size", "32", "--out", str(tmp_path / "file" / "head.png"))
    assert "head.png" in line or "file" in line
