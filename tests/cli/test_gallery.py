"""`copo gallery` from end to end with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from copo.cli.main import main
from copo.formats.pictures import load_image, read_metadata
from copo.formats.provenance import Provenance
from copo.generation.gallery import LAMPS, STRENGTHS, Gallery
from copo.portrait import Portrait


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(Portrait.random("tiny", seed=1).save_pretrained(tmp_path_factory.mktemp("models") / "tiny", half=False))


def test_every_exhibit_is_drawn_marked_and_shown(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["gallery", "--model", model, "--people", "3", "--chosen", "5,2,9", "--out", str(tmp_path / "g"), "--json"])
    written = [Path(path) for path in json.loads(capsys.readouterr().out)["written"]]
    assert all(path.is_file() for path in written)
    page, text = ((tmp_path / "g" / name).read_text() for name in ("index.html", "gallery.md"))
    assert f'<meta name="digital_source_type" content="{Provenance().uri()}">' in page
    pictures = [path for path in written if path.suffix in (".jpg", ".webp")]
    assert len(pictures) == 7
    for path in pictures:
        assert f'src="{path.name}"' in page and f"({path.name})" in text
        assert read_metadata(path).source_type is not None
    width = load_image(tmp_path / "g" / "factors.jpg").shape[1]
    assert width == len(LAMPS) * 144 + (len(LAMPS) + 1) * 4
    assert load_image(tmp_path / "g" / "people.jpg").shape[1] == 3 * 136 + 4 * 2


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    told: list[int] = []
    Gallery(Portrait.random("tiny", seed=1), range(2), [0, 1, 2], told.append).write(tmp_path)
    assert sum(told) == Gallery.pictures(2)
    assert len(STRENGTHS) == 5


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--people", "0"], "--people 0"), (["--chosen", "1,2"], "--chosen"), (["--chosen", "1,2,x"], "--chosen")],
)
def test_bad_input_is_one_line(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["gallery", "--out", str(tmp_path / "g"), *words])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and named in error and "\n" not in error
    assert not (tmp_path / "g").exists()
