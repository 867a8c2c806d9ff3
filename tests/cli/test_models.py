"""`copo models` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro

from copo.cli.models import Command
from copo.errors import CopoError
from copo.vision.models import MODELS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPO_MODELS_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*words: str) -> None:
    tyro.cli(Command, args=list(words)).run()


def test_list_names_every_file_and_how_to_get_it(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    run()
    text = capsys.readouterr().out
    assert f"folder: {cache}" in text and "to get it: copo models fetch yunet" in text
    assert all(f"  {entry.name}, " in text for entry in MODELS)


def test_fetch_from_a_folder_then_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    (tmp_path / "backbone.pth").write_bytes(b"weights")
    run("fetch", "arcface", "--from", str(tmp_path))
    assert capsys.readouterr().out == f"arcface: {cache / 'backbone.pth'}\n"
    run("list", "arcface", "--json")
    listed = json.loads(capsys.readouterr().out)["models"]
    assert [(m["name"], m["path"]) for m in listed] == [("arcface", str(cache / "backbone.pth"))]
    run("fetch", "arcface", "--from", str(tmp_path), "--json")
    assert json.loads(capsys.readouterr().out) == {"arcface": str(cache / "backbone.pth")}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("fetch",), "name at least one"),
        (("fetch", "arcfacce"), "did you mean 'arcface'"),
        (("list", "--from", "."), "--from goes with"),
        (("fetch", "bisenet"), "by hand"),
        (("fetch", "bisenet", "--from", "/no/such/folder"), "no such folder"),
    ],
)
def test_bad_input_is_told_in_one_line(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(CopoError, match=complaint) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
