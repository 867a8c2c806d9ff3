"""The training set: one uncompressed zip that EG3D's loader reads too, with everything that is known of each portrait.

| member | what |
|---|---|
| `dataset.json` | EG3D's `{"labels": [[name, [25 numbers]], ...]}`, and the scene's scale |
| `00000/img00000000.png` | aligned portraits, all of one size, PNG or JPEG |
| `labels/00000/img00000000.seg` | 19-class label maps: one-channel PNG, which no loader takes for a portrait |
| `factors.safetensors` | coefficients and cameras: a factor file (`copo.formats.factor_files`), a row each |
| `landmarks.safetensors` | `points478`, `points68` (N, ., 2) in pixels of the aligned portrait, NaN where unknown |
| `manifest.csv` | source, person, licence, view, measurements: one row for each portrait |
| `preparation.json` | how it was made |

Rows everywhere follow the order of `dataset.json`, which is the order of the names.
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.atomic import atomic_write
from copo.formats.factor_files import load_factors, save_factors

Picture = NDArray[np.uint8]
FORMAT = "copo-dataset-1"
LABEL_SUFFIX = ".seg"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_POINTS = {"points478": 478, "points68": 68}
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of all members: the same portraits give the same bytes."""
_MAX_SIDE = 1 << 14


@dataclass(frozen=True)
class Portrait:
    """One row of a data set, encoded.

    Attributes:
        picture: PNG or JPEG file.
        suffix: ".png" or ".jpg".
        camera: (25,) as in `Camera.to_eg3d`, metres.
        factors: A batch of one, or None where the portrait was not fitted.
        labels: One-channel PNG of classes 0..18, or None.
        points478: (478, 2) in pixels of the portrait, or None.
        points68: (68, 2), or None.
        manifest: A row of the manifest.
    """

    picture: bytes
    suffix: str
    camera: NDArray[np.float32]
    factors: Factors | None = None
    labels: bytes | None = None
    points478: NDArray[np.float32] | None = None
    points68: NDArray[np.float32] | None = None
    manifest: Mapping[str, str] = field(default_factory=dict)


class DatasetWriter:
    """Writes a data set; it appears under its name when the `with` block ends well, and not at all otherwise.

    Raises (on leaving):
        CopoError: The portraits disagree (some fitted, some not; different heads), or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], preparation: Mapping[str, Any] | None = None) -> None:
        """Args: path: The .zip to make. preparation: Plain data for `preparation.json`."""
        self.path = Path(path)
        if self.path.suffix.lower() != ".zip":
            raise CopoError(f"data set {self.path}: end the name in .zip")
        self._preparation = dict(preparation or {})
        self._labels: list[tuple[str, list[float]]] = []
        self._factors: list[Factors] = []
        self._points: dict[str, list[NDArray[np.float32]]] = {name: [] for name in _POINTS}
        self._manifest: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        self._writing = atomic_write(self.path)
        self._zip = zipfile.ZipFile(self._writing.__enter__(), "w", zipfile.ZIP_STORED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
                self._zip.close()
            except BaseException as failure:
                self._close_quietly()
                if not self._writing.__exit__(type(failure), failure, failure.__traceback__):
                    raise
                return
        else:
            self._close_quietly()
        self._writing.__exit__(kind, error, trace)

    def add(self, portrait: Portrait) -> str:
        """Append a portrait.

        Returns:
            Its name in the data set.
        """
        number = len(self._labels)
        stem = f"{number // 1000:05d}/img{number:08d}"
        suffix = portrait.suffix.lower()
        if suffix not in PICTURE_SUFFIXES:
            raise CopoError(f"portrait {portrait.suffix!r}: a data set holds .png or .jpg")
        camera = np.asarray(portrait.camera, np.float32)
        if camera.shape != (25,) or not np.isfinite(camera).all():
            raise CopoError(f"portrait {number}: the camera must be 25 finite numbers, not {camera.shape}")
        self._member(stem + suffix, portrait.picture)
        if portrait.labels is not None:
            self._member(f"labels/{stem}{LABEL_SUFFIX}", portrait.labels)
        self._labels.append((stem + suffix, [float(value) for value in camera]))
        if portrait.factors is not None:
            self._factors.append(portrait.factors)
        for name, count in _POINTS.items():
            points = getattr(portrait, name)
            self._points[name].append(np.full((count, 2), np.nan, np.float32) if points is None else points)
        self._manifest.append({"name": stem + suffix, **portrait.manifest})
        return stem + suffix

    def _finish(self) -> None:
        if self._factors and len(self._factors) != len(self._labels):
            raise CopoError(
                f"{len(self._factors)} of {len(self._labels)} portraits have coefficients: give all or none"
            )
        index = {"format": FORMAT, "metres_per_unit": 1.0, "labels": self._labels}
        self._member("dataset.json", json.dumps(index).encode())
        if self._factors:
            factors = Factors.cat(self._factors)
            camera = Camera.from_eg3d(torch.tensor([label for _, label in self._labels]))
            self._member("factors.safetensors", factor_bytes(factors, camera))
        if any(np.isfinite(p).any() for rows in self._points.values() for p in rows):
            arrays = {name: np.stack(rows).astype(np.float32) for name, rows in self._points.items()}
            self._member("landmarks.safetensors", safetensors.numpy.save(arrays))
        self._member("manifest.csv", write_table(self._manifest))
        self._member("preparation.json", json.dumps(self._preparation, indent=1, allow_nan=False).encode())

    def _member(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, _EPOCH), data)

    def _close_quietly(self) -> None:
        with suppress(OSError, ValueError):  # a full disk; the temporary file goes away anyway
            self._zip.close()


class PortraitDataset:
    """A data set that is read from its zip, or a plain EG3D zip without anything else.

    Pictures are read on demand, and no file is kept open: one object may serve threads and workers, and can be pickled.

    Attributes:
        path: The zip.
        names: Of the portraits.
        cameras: (N) in metres.
        factors: (N) or None.
        points478: (N, 478, 2) float32 in pixels, NaN where unknown; or None.
        points68: (N, 68, 2) likewise.
        manifest: N rows; empty dictionaries where the zip has none.
        preparation: How it was made.
    """

    def __init__(self, path: str | os.PathLike[str], metres_per_unit: float | None = None) -> None:
        """Open a data set.

        Args:
            path: The zip.
            metres_per_unit: Scale of the cameras where the zip does not say it (a plain EG3D zip: 1 if left out).

        Raises:
            CopoError: The file is missing, damaged or no data set.
        """
        self.path = Path(path)
        self._open()
        try:
            index = json.loads(self._read("dataset.json"))
            self.names: list[str] = [str(name) for name, _ in index["labels"]]
            numbers = np.asarray([numbers for _, numbers in index["labels"]], np.float32).reshape(len(self.names), 25)
            scale = float(index.get("metres_per_unit", metres_per_unit or 1.0))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CopoError(
                f"data set {self.path}: its dataset.json is not EG3D's list of names and 25 numbers"
            ) from error
        missing = [name for name in self.names if name not in self._members]
        if missing:
            raise CopoError(f"data set {self.path}: {missing[0]} is in its list but not in the zip")
        self.cameras = Camera.from_eg3d(torch.from_numpy(numbers), scale)
        self.factors = self._load_factors()
        points = self._load_points()
        self.points478, self.points68 = points.get("points478"), points.get("points68")
        self.manifest: list[dict[str, str]] = self._load_manifest()
        self.preparation: dict[str, Any] = {}
        if "preparation.json" in self._members:
            self.preparation = json.loads(self._read("preparation.json"))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_labels(self) -> bool:
        """Whether every portrait has a label map."""
        return bool(self.names) and all(self._label_name(name) in self._members for name in self.names)

    def image(self, index: int) -> Picture:
        """(S, S, 3) uint8.

        Raises:
            CopoError: The picture is damaged.
        """
        return np.array(self._decode(self.names[index]).convert("RGB"))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """(S, S) uint8 classes 0..18.

        Raises:
            CopoError: There are none, or they are damaged.
        """
        name = self._label_name(self.names[index])
        if name not in self._members:
            raise CopoError(f"data set {self.path}: {self.names[index]} has no label map")
        return np.array(self._decode(name).convert("L"))

    def people(self) -> list[str]:
        """For each portrait, who it shows: the manifest's set and person, or else the portrait's own name."""
        return [
            f"{row.get('set', '')}/{row['person']}" if row.get("person") else name
            for name, row in zip(self.names, self.manifest, strict=True)
        ]

    def split(self, share: float, test: bool) -> list[int]:
        """Indices of the training or the test part. All portraits of one person are in the same part.

        Args:
            share: Of people in the test part, 0 to 1. A person's part depends on the person's name only.
            test: Which part.
        """
        limit = int(share * 2**32)
        return [i for i, person in enumerate(self.people()) if (zlib.crc32(person.encode()) < limit) == test]

    def read(self, name: str) -> bytes:
        """The content of any member.

        Raises:
            CopoError: There is no such member.
        """
        if name not in self._members:
            raise CopoError(f"data set {self.path} has no member {name!r}")
        return self._read(name)

    # --- inside -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
        except FileNotFoundError:
            raise CopoError(f"data set {self.path} does not exist") from None
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise CopoError(f"data set {self.path} is no zip, or damaged: make it again with copo prepare") from error
        self._members: dict[str, tuple[int, int, int]] = {
            e.filename: (e.header_offset, e.compress_size, e.compress_type) for e in entries
        }
        if "dataset.json" not in self._members:
            raise CopoError(f"data set {self.path} has no dataset.json: make it with copo prepare")

    def _read(self, name: str) -> bytes:
        start, size, kind = self._members[name]
        with self.path.open("rb") as file:
            file.seek(start)
            header = file.read(30)
            if len(header) != 30 or header[:4] != b"PK\x03\x04":
                raise CopoError(f"data set {self.path}: {name} is damaged; make the data set again")
            file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)  # the name and the extra field
            data = file.read(size)
        if len(data) != size or kind not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CopoError(f"data set {self.path}: {name} is cut off or packed in an unknown way; make it again")
        try:
            return data if kind == zipfile.ZIP_STORED else zlib.decompress(data, -15)
        except zlib.error as error:
            raise CopoError(f"data set {self.path}: {name} is damaged; make the data set again") from error

    def _decode(self, name: str) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self._read(name)))
            if max(image.size) > _MAX_SIDE:
                raise CopoError(f"data set {self.path}: {name} is {image.size} pixels large")
            image.load()
            return image
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, CopoError):
                raise
            raise CopoError(f"data set {self.path}: {name} cannot be decoded; make the data set again") from error

    def _label_name(self, name: str) -> str:
        return f"labels/{name.rpartition('.')[0]}{LABEL_SUFFIX}"

    def _load_factors(self) -> Factors | None:
        if "factors.safetensors" not in self._members:
            return None
        factors = factors_from_bytes(self._read("factors.safetensors"))
        if len(factors) != len(self):
            raise CopoError(f"data set {self.path}: coefficients of {len(factors)} portraits for {len(self)} pictures")
        return factors

    def _load_points(self) -> dict[str, NDArray[np.float32]]:
        if "landmarks.safetensors" not in self._members:
            return {}
        try:
            arrays = safetensors.numpy.load(self._read("landmarks.safetensors"))
        except SafetensorError as error:
            raise CopoError(f"data set {self.path}: its landmarks are damaged; make the data set again") from error
        for name, count in _POINTS.items():
            if name in arrays and arrays[name].shape != (len(self), count, 2):
                raise CopoError(f"data set {self.path}: {name} has shape {arrays[name].shape}")
        return arrays

    def _load_manifest(self) -> list[dict[str, str]]:
        if "manifest.csv" not in self._members:
            return [{} for _ in self.names]
        rows = {row.get("name", ""): row for row in read_table(self._read("manifest.csv"))}
        return [rows.get(name, {}) for name in self.names]


def write_table(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Rows as CSV, UTF-8; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_table(data: bytes) -> list[dict[str, str]]:
    """The inverse of `write_table`; also reads what spreadsheets write (UTF-8 with a mark at the start)."""
    text = data.decode("utf-8-sig", "replace")
    return [{k: v or "" for k, v in row.items() if isinstance(k, str)} for row in csv.DictReader(io.StringIO(text))]


def factor_bytes(factors: Factors, camera: Camera | None = None) -> bytes:
    """A .safetensors factor file as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "factors.safetensors"
        save_factors(path, factors, camera)
        return path.read_bytes()


def factors_from_bytes(data: bytes) -> Factors:
    """The inverse of `factor_bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "factors.safetensors"
        path.write_bytes(data)
        return load_factors(path).factors
