"""Picture sets and what instruments saw in them, as files of some pictures each: written whole, read in order.

SET/plan.json, asked.safetensors            what was asked for
SET/pictures/00000.zip                       CHUNK pictures (PNG, or JPEG to travel light) and maps.npz
SET/seen/INSTRUMENT/00000.npz                what an instrument saw in them
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.provenance import SOFTWARE, Provenance

Picture = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
CHUNK = 24
"""Pictures in a file."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_FAILURES = (OSError, ValueError, LookupError, EOFError, SyntaxError, zipfile.BadZipFile)


def chunk_count(total: int) -> int:
    """Files that hold so many pictures."""
    return -(-total // CHUNK)


def chunk_rows(number: int, total: int) -> slice:
    """Rows in a file."""
    return slice(number * CHUNK, min((number + 1) * CHUNK, total))


class PictureSet:
    """One picture set on disk.

    Args:
        folder: Of the set.
        total: Number of pictures.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total

    def __len__(self) -> int:
        return self.total

    @property
    def chunks(self) -> int:
        """Number of files."""
        return chunk_count(self.total)

    def picture_path(self, number: int) -> Path:
        """File of pictures."""
        return self.folder / "pictures" / f"{number:05d}.zip"

    def seen_path(self, instrument: str, number: int) -> Path:
        """File of what an instrument saw."""
        return self.folder / "seen" / instrument / f"{number:05d}.npz"

    @property
    def rendered(self) -> bool:
        """Whether all pictures are there."""
        return all(self.picture_path(i).is_file() for i in range(self.chunks))

    def was_seen(self, instrument: str) -> bool:
        """Whether an instrument has seen all of them."""
        return all(self.seen_path(instrument, i).is_file() for i in range(self.chunks))

    def pictures(self, number: int) -> Picture:
        """(n, S, S, 3) uint8 of one file."""
        return read_pictures(self.picture_path(number))

    def maps(self, number: int) -> Arrays:
        """Maps of one file."""
        return read_maps(self.picture_path(number))

    def some(self, rows: Sequence[int]) -> list[Picture]:
        """Single pictures, (S, S, 3) uint8 each."""
        out: dict[int, Picture] = {}
        for number in sorted({row // CHUNK for row in rows}):
            here = sorted({row for row in rows if row // CHUNK == number})
            read = read_pictures(self.picture_path(number), [row % CHUNK for row in here])
            out |= dict(zip(here, read, strict=True))
        return [out[row] for row in rows]

    def all_maps(self) -> Arrays:
        """Maps of all pictures."""
        return _joined([self.maps(i) for i in range(self.chunks)])

    def seen(self, instrument: str) -> Arrays:
        """What an instrument saw in all of them, in order.

        Raises:
            CopoError: A file is missing or damaged.
        """
        return _joined([self.seen_chunk(instrument, i) for i in range(self.chunks)])

    def seen_chunk(self, instrument: str, number: int) -> Arrays:
        """What an instrument saw in one file's pictures."""
        return read_arrays(self.seen_path(instrument, number))


def write_pictures(path: Path, pictures: Picture, maps: Mapping[str, NDArray[np.generic]], quality: int = 100) -> None:
    """Write one file of pictures with the mark of generated pictures.

    Args:
        path: The .zip to make, atomically.
        pictures: (n, S, S, 3) uint8.
        maps: By name, (n, ...).
        quality: 100 for PNG, lossless; below for JPEG of that quality.
    """
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(lambda p: _encode(p, quality), pictures))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(encoded):
            archive.writestr(zipfile.ZipInfo(f"{number:04d}.{'png' if quality >= 100 else 'jpg'}", _EPOCH), data)
        if maps:
            archive.writestr(zipfile.ZipInfo("maps.npz", _EPOCH), _packed(maps))
    write_bytes(path, out.getvalue())


def read_pictures(path: Path, rows: Sequence[int] | None = None) -> Picture:
    """(n, S, S, 3) uint8.

    Args:
        path: A file of pictures.
        rows: Which of them; all by default.

    Raises:
        CopoError: The file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if not n.endswith(".npz"))
            names = names if rows is None else [names[row] for row in rows]
            return np.stack([np.array(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    except _FAILURES as error:
        raise CopoError(f"{path} is missing or damaged; remove it and run again") from error


def read_maps(path: Path) -> Arrays:
    """Maps beside the pictures.

    Raises:
        CopoError: The file is missing or damaged, or holds no maps.
    """
    try:
        with (
            zipfile.ZipFile(path) as archive,
            np.load(io.BytesIO(archive.read("maps.npz")), allow_pickle=False) as data,
        ):
            return {name: data[name] for name in data}
    except _FAILURES as error:
        raise CopoError(f"{path} is missing, damaged or holds no maps; remove it and run again") from error


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write an .npz atomically."""
    write_bytes(path, _packed(arrays))


def read_arrays(path: Path) -> Arrays:
    """Read an .npz.

    Raises:
        CopoError: It is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data}
    except _FAILURES as error:
        raise CopoError(f"{path} is missing or damaged; remove it and run again") from error


def _packed(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}


def _encode(picture: Picture, quality: int) -> bytes:
    out, image, mark = io.BytesIO(), Image.fromarray(picture), Provenance()
    if quality >= 100:
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", SOFTWARE)
        text.add_itxt("XML:com.adobe.xmp", mark.xmp().decode())
        image.save(out, "PNG", pnginfo=text, compress_level=1)
    else:
        image.save(out, "JPEG", quality=quality, subsampling=0, xmp=mark.xmp())
    return out.getvalue()
