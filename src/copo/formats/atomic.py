"""Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from copo.errors import CopoError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path`.

    The temporary path has the same file name, in a hidden temporary folder beside the target. Whatever else the block
    puts into that folder (an .obj's material and texture, a config's weights) comes along: side files are moved first
    and the named file last, so that a reader who finds it finds its side files too. Everything is flushed to the disk
    before it is moved. When the block raises, nothing is left behind and older files stay as they were.

    Args:
        path: The file to make. Missing parent folders are created, and removed again if the block fails.

    Yields:
        The path to write to.

    Raises:
        CopoError: The folder cannot be written, the disk is full, or `path` is a folder.
    """
    target = Path(path)
    if not target.name or target.is_dir():
        raise CopoError(f"cannot write {target}: it is a folder; give a file name")
    made: list[Path] = []
    work: Path | None = None
    try:
        _make_parents(target.parent, made)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent))
        yield work / target.name
        _publish(work, target)
        made.clear()
    except OSError as error:
        raise CopoError(f"cannot write {target}: {_reason(error)}; free the space or choose another folder") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write one file atomically.

    Raises:
        CopoError: See `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Create the missing folders on the way to `folder`, outermost first, and note each in `made`."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for parent in reversed(missing):
        with suppress(FileExistsError):  # somebody else made it meanwhile
            parent.mkdir()
            made.append(parent)


def _publish(work: Path, target: Path) -> None:
    """Flush every file in `work`, then move them beside `target`, the file of its name last."""
    names = sorted((p.name for p in work.iterdir()), key=lambda name: (name == target.name, name))
    if target.name not in names:
        raise RuntimeError(f"nothing was written to {work / target.name}")
    for name in names:
        _sync(work / name)
    for name in names:
        os.replace(work / name, target.with_name(name))
    with suppress(OSError):  # some file systems cannot flush a folder; the files themselves are safe
        _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    text = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    return text[:1].lower() + text[1:]
