"""Write binary PLY: a header that says what follows, then little-endian records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from copo.formats.provenance import Provenance

_TYPE_NAMES = {"f4": "float", "u1": "uchar", "i4": "int"}


def write_ply(
    path: Path,
    columns: Sequence[tuple[str, NDArray[np.generic], str]],
    faces: NDArray[np.int64] | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write one PLY file, not atomically.

    Args:
        path: Where to.
        columns: The vertex properties in file order: name, (V,) values, type "f4", "u1" or "i4".
        faces: (F, 3) vertex indices, or None for a point cloud without a face element.
        provenance: Goes into the header's comments.
    """
    count = len(columns[0][1])
    records = np.empty(count, dtype=[(name, "<" + kind) for name, _, kind in columns])
    for name, values, _ in columns:
        records[name] = values
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {line}" for line in (provenance.comment_lines() if provenance else [])]
    header += [f"element vertex {count}", *(f"property {_TYPE_NAMES[kind]} {name}" for name, _, kind in columns)]
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with path.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(records.tobytes())
        if faces is not None:
            triangles = np.empty(len(faces), dtype=[("n", "<u1"), ("v", "<i4", (3,))])
            triangles["n"], triangles["v"] = 3, faces
            file.write(triangles.tobytes())
