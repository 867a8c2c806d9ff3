"""`copo analyze` with random weights: what is written, and what is told of pictures that cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from copo.cli.analyze import Command, overlaid
from copo.errors import CopoError
from copo.formats.video import write_video
from copo.head.open_head import OpenHead
from copo.vision.analyser_file import save_analyser
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork


def weights(folder: Path, logit: float) -> Path:
    """A network whose finder is sure of a face (or of none) around every cell."""
    torch.manual_seed(0)
    net = AnalyserNetwork(AnalyserConfig(size=64, width=16, fine_width=8, head=32, hidden=32))
    with torch.no_grad():
        net.finder[1].weight.zero_()
        net.finder[1].bias.copy_(torch.tensor([logit, 0, 0, -0.3, 1.0, 0]))
    path = folder / "analyser.safetensors"
    save_analyser(path, net, OpenHead.load().spec)
    return path


def photograph(path: Path, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    picture = Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)
    picture.save(path)
    return np.asarray(picture)


def test_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fotos ü"
    folder.mkdir()
    photograph(folder / "a.png")
    photograph(folder / "b.png", 1)
    (folder / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    Command((folder,), out, weights(tmp_path, 10.0), max_faces=2, json=True).run()
    told = json.loads(capsys.readouterr().out)
    assert [row["faces"] for row in told["written"]] == [2, 2]
    assert [row["name"] for row in told["rejected"]] == ["fotos ü/broken.jpg"]
    body = json.loads(Path(told["written"][0]["file"]).read_text(encoding="utf-8"))
    assert (body["width"], body["height"]) == (160, 120)
    face = body["faces"][0]
    assert len(face["landmarks478"]) == 478 and len(face["landmarks68_sigma"]) == 68
    assert set(face["expression"]) == set(OpenHead.load().spec.expression_names)
    assert len(face["sigma"]["shape"]) == len(face["shape"]) == 80 and len(face["illumination"]) == 27
    assert set(face["pose"]) == {"yaw", "pitch", "roll", "sigma"}
    assert sum(face["portrait"]["area"].values()) == pytest.approx(1, abs=0.01)
    pictures = sorted(path.name for path in out.glob("*_overlay.png"))
    assert len(pictures) == 2 and Image.open(out / pictures[0]).size == (160, 120)


def test_one_photograph_keeps_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(tmp_path / "me.png")
    Command((tmp_path / "me.png",), tmp_path / "out", weights(tmp_path, 10.0), overlay=False).run()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["me.json"]
    assert "1 faces" in capsys.readouterr().out


def test_nobody_there(tmp_path: Path) -> None:
    photograph(tmp_path / "me.png")
    with pytest.raises(CopoError, match="no face was found"):
        Command((tmp_path / "me.png",), tmp_path / "out", weights(tmp_path, -10.0)).run()
    with pytest.raises(CopoError, match="frames-per-second"):
        Command((tmp_path / "me.png",), tmp_path / "out", frames_per_second=0).run()


def test_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    picture = photograph(tmp_path / "me.png")
    frames = (np.roll(picture, 2 * i, axis=1) for i in range(10))
    write_video(tmp_path / "clip.mp4", frames, 10.0)
    Command((tmp_path / "clip.mp4",), tmp_path / "out", weights(tmp_path, 10.0), frames_per_second=5).run()
    body = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert [frame["time"] for frame in body["frames"]] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert body["frames"][0]["face"] is not None
    assert (tmp_path / "out" / "clip_overlay.mp4").stat().st_size > 500
    assert "5 frames" in capsys.readouterr().out


def test_an_overlay_without_faces_is_the_picture(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "me.png")
    np.testing.assert_array_equal(overlaid(picture, []), picture)
