"""Files appear whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from copo.errors import CopoError
from copo.formats.atomic import atomic_write, write_bytes


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_has_its_content_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"12345")
    assert (tmp_path / "a.bin").read_bytes() == b"12345"
    assert names(tmp_path) == ["a.bin"]


def test_the_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    mode = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "ours")]
    assert mode[0] == mode[1]


def test_side_files_come_along_and_keep_their_names(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "m.obj") as path:
        path.write_text("mtllib m.mtl")
        path.with_suffix(".mtl").write_text("newmtl x")
    assert names(tmp_path / "new") == ["m.mtl", "m.obj"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a.txt") as path:
        path.write_text("half of the n")
        raise KeyError("boom")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_folders_made_for_a_failed_write_go_away_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_write(tmp_path / "x" / "y" / "a.txt"):
        raise KeyError("boom")
    assert names(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses writes beyond a limit on file sizes with an OSError, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CopoError) as caught:
            write_bytes(tmp_path / "sub" / "big.bin", b"0" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "big.bin" in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["file.txt/out.png", "."])
def test_impossible_targets_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("a file, not a folder")
    with pytest.raises(CopoError, match="cannot write"):
        write_bytes(tmp_path / name, b"1")
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(CopoError, match="permission denied"):
        write_bytes(folder / "a.bin", b"1")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_a_folder_that_nobody_can_write_is_refused() -> None:
    with pytest.raises(CopoError, match=r"cannot write /proc/copo/a\.png"):
        write_bytes("/proc/copo/a.png", b"1")
