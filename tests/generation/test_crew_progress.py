"""Progress where there is no terminal: lines on standard error."""

from __future__ import annotations

import pytest

from copo.work import crew


def test_lines_tell_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(crew, "_QUIET_STEP", 0.0)
    with crew.progress(4, "pictures") as advance:
        advance(1)
        advance(2)
    with crew.counted("frames") as show:
        show(7, 0)
    with crew.shared("learning") as told:
        told(0.257)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "0 of 4 pictures", "1 of 4 pictures", "3 of 4 pictures", "7 frames", "0 of 100 percent of learning",
        "25 of 100 percent of learning",
    ]  # fmt: skip


def test_a_quick_job_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with crew.progress(2, "pictures") as advance:
        advance(2)
    assert capsys.readouterr().err == ""
