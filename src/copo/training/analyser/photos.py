"""Photographs with teachers, packed for a machine that has PyTorch, NumPy, Pillow and safetensors only.

A stage is a folder with `photos.safetensors`, `wide.safetensors`, `lights.safetensors` and `stage.json`;
tools/stage_analyser.py makes it from data sets of `copo prepare`. Pictures are WebP or JPEG, label maps PNG, points
whole numbers of 1/16 pixel, so that some 4,000 portraits take less than 40 MB.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from copo.camera import euler_zyx_angles
from copo.errors import CopoError
from copo.formats.atomic import atomic_write

FORMAT = "copo-analyser-stage-1"
SIZE, LABEL_SIZE, WIDE_SIZE = 256, 128, 160
"""Sides of the aligned portraits, of the label maps and of the whole pictures, pixels."""
_POINT_UNIT = 16 * SIZE
_UNIT_STEPS = 255


@dataclass(frozen=True)
class Photos:
    """N aligned portraits and what is known of them.

    Zeros stand where something is unknown; a portrait that was not fitted has the identity and a typical depth.

    Attributes:
        pictures: (N, 3, 256, 256) uint8.
        labels: (N, 128, 128) uint8 classes 0..18, 255 where unknown.
        points478: (N, 478, 2) shares of the side.
        marked: (N,) bool, whether there are points (and measured units).
        units: (N, 52) expression units as MediaPipe measures them.
        shape: (N, 80) of the fit, as are the next five.
        albedo: (N, 50).
        expression: (N, 52).
        illumination: (N, 27).
        rotation: (N, 3, 3) in the viewer's frame.
        translation: (N, 3) metres.
        fitted: (N,) bool.
        person: (N,) int64.
        test: (N,) bool, people kept out of training.
        collection: (N,) int64 index into `collections`.
        collections: Names of the sets.
    """

    pictures: Tensor
    labels: Tensor
    points478: Tensor
    marked: Tensor
    units: Tensor
    shape: Tensor
    albedo: Tensor
    expression: Tensor
    illumination: Tensor
    rotation: Tensor
    translation: Tensor
    fitted: Tensor
    person: Tensor
    test: Tensor
    collection: Tensor
    collections: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device | str) -> Self:
        """The same photographs on another device."""
        return self._map(lambda value: value.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        """Some of them."""
        return self._map(lambda value: value[index])

    def part(self, test: bool) -> Self:
        """Those of the people kept out of training, or the others."""
        return self[torch.nonzero(self.test == test)[:, 0]]

    def facts(self) -> Self:
        """The same without pictures and label maps (which have no pixels then): cheap to take some of."""
        return replace(self, pictures=self.pictures[:, :0], labels=self.labels[:, :0])

    @property
    def yaw(self) -> Tensor:
        """(N,) radians that the fitted head is turned."""
        return euler_zyx_angles(self.rotation)[:, 1]

    def _map(self, function: Any) -> Self:
        return type(self)(**{
            f.name: function(v) if isinstance(v := getattr(self, f.name), Tensor) else v for f in fields(self)
        })  # fmt: skip


@dataclass(frozen=True)
class Wide:
    """M whole photographs in squares, and where their face is.

    Attributes:
        pictures: (M, 3, 160, 160) uint8.
        square: (M, 4) centre x, centre y, side as shares of 160 px, angle in radians, of FFHQ's square.
        test: (M,) bool.
    """

    pictures: Tensor
    square: Tensor
    test: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.pictures.to(device), self.square.to(device), self.test.to(device))

    def part(self, test: bool) -> Self:
        """Those of the people kept out of training, or the others."""
        index = torch.nonzero(self.test == test)[:, 0]
        return type(self)(self.pictures[index], self.square[index], self.test[index])


@dataclass(frozen=True)
class Stage:
    """Everything that training reads beside the head.

    Attributes:
        photos: Aligned portraits.
        wide: Whole photographs.
        panoramas: (P, 9, 3) light of panoramas, radiance as in `copo.illumination`.
    """

    photos: Photos
    wide: Wide
    panoramas: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.photos.to(device), self.wide.to(device), self.panoramas.to(device))

    def part(self, test: bool) -> Self:
        """Those of the people kept out of training, or the others."""
        return type(self)(self.photos.part(test), self.wide.part(test), self.panoramas)


def save_stage(
    folder: Path,
    photos: Photos,
    portraits: Sequence[bytes],
    wide: Wide,
    wholes: Sequence[bytes],
    panoramas: Tensor,
    notes: dict[str, Any] | None = None,
) -> int:
    """Write a stage.

    Args:
        folder: Made if it does not exist; older files are replaced.
        photos: What is known; `pictures` is not read.
        portraits: Picture file of each portrait.
        wide: Squares; `pictures` is not read.
        wholes: Picture file of each whole photograph.
        panoramas: (P, 9, 3).
        notes: Where everything comes from.

    Returns:
        Bytes written.
    """
    maps = [_png(label.numpy()) for label in photos.labels]
    rows = {
        "pictures": _blob(portraits), "pictures_end": _ends(portraits),
        "labels": _blob(maps), "labels_end": _ends(maps),
        "points478": _packed(photos.points478),
        "units": (photos.units * _UNIT_STEPS).round().clamp(0, 255).byte(),
        **{n: getattr(photos, n).half() for n in ("shape", "albedo", "expression", "illumination")},
        "rotation": photos.rotation, "translation": photos.translation,
        **{n: getattr(photos, n).byte() for n in ("marked", "fitted", "test")},
        "person": photos.person.int(), "collection": photos.collection.byte(),
    }  # fmt: skip
    files = {
        "photos": rows,
        "wide": {"pictures": _blob(wholes), "pictures_end": _ends(wholes), "square": wide.square,
                 "test": wide.test.byte()},
        "lights": {"panoramas": panoramas},
    }  # fmt: skip
    index = {"format": FORMAT, "collections": list(photos.collections), **(notes or {})}
    with atomic_write(folder / "stage.json") as temporary:
        for name, tensors in files.items():
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary.parent / f"{name}.safetensors")
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return sum((folder / f"{name}.safetensors").stat().st_size for name in files)


def load_stage(folder: Path, threads: int = 8) -> Stage:
    """Read and decode a stage.

    Raises:
        CopoError: It is missing, damaged or of another kind.
    """
    try:
        index = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        if index.get("format") != FORMAT:
            raise CopoError(f"stage {folder}: not made by tools/stage_analyser.py of this version; make it again")
        rows = load_file(folder / "photos.safetensors")
        whole = load_file(folder / "wide.safetensors")
        panoramas = load_file(folder / "lights.safetensors")["panoramas"]
        with ThreadPoolExecutor(threads) as pool:
            portraits = _decoded(pool, rows["pictures"], rows["pictures_end"], (SIZE, SIZE), "RGB")
            labels = _decoded(pool, rows["labels"], rows["labels_end"], (LABEL_SIZE, LABEL_SIZE), "L")
            wholes = _decoded(pool, whole["pictures"], whole["pictures_end"], (WIDE_SIZE, WIDE_SIZE), "RGB")
        photos = Photos(
            pictures=portraits.permute(0, 3, 1, 2).contiguous(),
            labels=labels[..., 0],
            points478=_unpacked(rows["points478"], len(portraits)),
            units=rows["units"].float() / _UNIT_STEPS,
            **{n: rows[n].float() for n in ("shape", "albedo", "expression", "illumination")},
            rotation=rows["rotation"],
            translation=rows["translation"],
            **{n: rows[n].bool() for n in ("marked", "fitted", "test")},
            person=rows["person"].long(),
            collection=rows["collection"].long(),
            collections=tuple(index["collections"]),
        )
        wide = Wide(wholes.permute(0, 3, 1, 2).contiguous(), whole["square"], whole["test"].bool())
        return Stage(photos, wide, panoramas)
    except (OSError, SafetensorError, KeyError, ValueError, zlib.error) as error:
        if isinstance(error, CopoError):
            raise
        raise CopoError(f"stage {folder}: missing or damaged ({str(error).splitlines()[0]}); make it again") from error


def picture_bytes(picture: NDArray[np.uint8], quality: int, kind: str = "WEBP") -> bytes:
    """(H, W, 3) -> a picture file of kind "WEBP" or "JPEG"."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind, quality=quality)
    return out.getvalue()


def _png(labels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(labels).save(out, "PNG", optimize=True)
    return out.getvalue()


def _packed(points: Tensor) -> Tensor:
    """(N, 478, 2) shares -> bytes: 16-bit numbers, all high bytes before all low ones, deflated."""
    whole = (points * _POINT_UNIT).round().clamp(-32768, 32767).short().numpy().astype("<i2")
    planes = np.ascontiguousarray(whole.reshape(len(points), -1).T).view(np.uint8).reshape(-1, 2).T
    return torch.frombuffer(bytearray(zlib.compress(planes.tobytes(), 9)), dtype=torch.uint8)


def _unpacked(data: Tensor, count: int) -> Tensor:
    """The inverse of `_packed`."""
    planes = np.frombuffer(zlib.decompress(data.numpy().tobytes()), np.uint8).reshape(2, -1)
    whole = np.ascontiguousarray(planes.T).view("<i2").reshape(-1, count)
    return torch.from_numpy(whole.T.astype(np.float32)).reshape(count, 478, 2) / _POINT_UNIT


def _blob(parts: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(parts) or b"\0"), dtype=torch.uint8)


def _ends(parts: Sequence[bytes]) -> Tensor:
    return torch.tensor([len(p) for p in parts], dtype=torch.int64).cumsum(0)


def _decoded(pool: ThreadPoolExecutor, blob: Tensor, ends: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(N, H, W, C) uint8."""
    data, stops = blob.numpy(), [0, *ends.tolist()]

    def one(number: int) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data[stops[number] : stops[number + 1]].tobytes())) as image:
            if image.size != size:
                raise ValueError(f"picture {number} has {image.size[0]} x {image.size[1]} pixels")
            return np.array(image.convert(mode)).reshape(size[1], size[0], -1)

    pictures = list(pool.map(one, range(len(ends))))
    channels = 3 if mode == "RGB" else 1
    stacked = np.stack(pictures) if pictures else np.zeros((0, size[1], size[0], channels), np.uint8)
    return torch.from_numpy(stacked)
