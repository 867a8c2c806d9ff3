"""Curves of a run as a picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from copo.cli.main import main
from copo.errors import CopoError
from copo.training.plots import POINTS, curves_svg, read_curves

SVG = "{http://www.w3.org/2000/svg}"


def record(folder: Path, lines: int) -> Path:
    rows = [
        {
            "Progress/kimg": {"mean": float(i)},
            "Loss/G/gan": {"mean": 2.0 * i},
            "Loss/G/flat": {"mean": 3.0},
            "Resources/x": {"mean": 1.0},
        }
        for i in range(lines)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"Progress/kimg": {"me'  # cut off by a kill
    folder.mkdir(exist_ok=True)
    (folder / "training_stats.jsonl").write_text(text)
    return folder


def test_long_curves_are_means_of_neighbours(tmp_path: Path) -> None:
    curves = read_curves(record(tmp_path, 2 * POINTS))
    assert set(curves) == {"Loss/G/gan", "Loss/G/flat"}
    assert len(curves["Loss/G/gan"]) == POINTS
    assert curves["Loss/G/gan"][:2] == [(0.5, 1.0), (2.5, 5.0)]


def test_panels_reach_from_corner_to_corner(tmp_path: Path) -> None:
    root = ET.fromstring(curves_svg(read_curves(record(tmp_path, 3)), "a <run>"))
    rising = list(root.iter(f"{SVG}polyline"))[1].attrib["points"].split()
    frames = [r.attrib for r in root.iter(f"{SVG}rect")][1:]
    assert len(frames) == 2
    left, top, width, height = (float(frames[1][k]) for k in ("x", "y", "width", "height"))
    ends = [tuple(map(float, place.split(","))) for place in (rising[0], rising[-1])]
    assert ends == [(left, top + height), (left + width, top)]
    assert "a <run>" in {t.text for t in root.iter(f"{SVG}text")}


def test_the_command_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", 3)
    main(["train", "curves", "--run", str(run), "--out", str(tmp_path / "c.svg")])
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    with pytest.raises(CopoError, match="no training_stats"):
        read_curves(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "curves", "--run", str(run), "--out", str(tmp_path / "c.png")])
    assert stopped.value.code == 2 and "c.png" in capsys.readouterr().err
