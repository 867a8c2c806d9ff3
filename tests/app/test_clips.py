"""What may drive the viewer's face: files of curves, and films of faces, here of the packaged model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("viser")

from tests.app.samples import clip, model

from copo.animation.clip import save_clip
from copo.app.viewer import VIDEO_RATE, open_clip
from copo.errors import CopoError
from copo.formats.video import write_video
from copo.portrait import Portrait


def test_a_file_of_curves_is_taken_as_it_is(tmp_path: Path) -> None:
    save_clip(tmp_path / "c.npz", clip())
    assert np.array_equal(open_clip(tmp_path / "c.npz", model()).expression, clip().expression)


def test_a_film_of_a_face_drives(tmp_path: Path) -> None:
    """A jaw that opens over eight frames is read as one."""
    shown = Portrait.from_pretrained().fast()
    person = shown.sample(seed=41)
    jaws = np.linspace(0, 0.9, 8)
    frames = [shown.render(person.with_expression(jawOpen=float(jaw))).to_uint8()[0] for jaw in jaws]
    write_video(tmp_path / "face.mp4", frames, VIDEO_RATE)
    told: list[tuple[int, int]] = []
    read = open_clip(tmp_path / "face.mp4", shown, lambda done, total: told.append((done, total)))
    jaw = read.for_spec(shown.spec)[:, list(shown.spec.expression_names).index("jawOpen")].numpy()
    assert len(jaw) == 8 and told[-1] == (8, 8)
    assert np.corrcoef(jaws, jaw)[0, 1] > 0.9 and jaw[-1] - jaw[0] > 0.15


def test_a_film_without_a_face_is_one_line(tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 3, VIDEO_RATE)
    with pytest.raises(CopoError, match=r"grey\.mp4"):
        open_clip(tmp_path / "grey.mp4", Portrait.from_pretrained())
