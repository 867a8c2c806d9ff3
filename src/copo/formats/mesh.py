"""Write triangle meshes as .ply, .obj (with .mtl and texture) and .glb.

Lengths are metres, y is up and the head looks along +z: also glTF's convention. All files carry the mark of
`copo.formats.provenance`.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copo.errors import CopoError, unknown_name
from copo.formats.atomic import atomic_write
from copo.formats.ply import write_ply
from copo.formats.provenance import JSON_KEY, SOFTWARE, Provenance

Array = NDArray[Any]
MESH_SUFFIXES = (".ply", ".obj", ".glb")


@dataclass(frozen=True)
class MeshData:
    """A triangle mesh as numpy arrays.

    Attributes:
        vertices: (V, 3) float32 metres, y up, +z to the front.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        colors: (V, 3) uint8 sRGB, or None. Floats in [0, 1] are accepted and rounded.
        uv: (U, 2) float32 in [0, 1], v up, or None.
        uv_faces: (F, 3) int64 into `uv`; None means that `uv` has one row for each vertex and `faces` serves.
        texture: (H, W, 3) uint8 sRGB, first row at v = 1, or None.
        normals: (V, 3) float32 unit length, or None.
        labels: (V,) uint8 parser classes (`copo.head.protocol.PARSER_CLASSES`), or None.
        morphs: Blendshapes by name: (V, 3) float32 metres that a weight of 1 adds to the vertices; empty for none.
        weights: Weights that blendshapes begin with, by name; 0 where left out.

    Raises:
        CopoError: Shapes do not fit together, an index is out of range, or a coordinate is not finite.
    """

    vertices: Array
    faces: Array
    colors: Array | None = None
    uv: Array | None = None
    uv_faces: Array | None = None
    texture: Array | None = None
    normals: Array | None = None
    labels: Array | None = None
    morphs: Mapping[str, Array] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = {"vertices": "f4", "faces": "i8", "uv": "f4", "uv_faces": "i8", "normals": "f4", "labels": "u1"}
        for name, kind in types.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, dtype=kind))
        for name in ("colors", "texture"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, color_bytes(np.asarray(value)))
        count = len(self.vertices)
        _require(self.vertices.shape == (count, 3), "vertices", self.vertices, "(V, 3)")
        _require(self.faces.shape == (len(self.faces), 3), "faces", self.faces, "(F, 3)")
        for name, shape in (("colors", (count, 3)), ("normals", (count, 3)), ("labels", (count,))):
            value = getattr(self, name)
            _require(value is None or value.shape == shape, name, value, str(shape))
        morphs = {name: np.ascontiguousarray(value, dtype="f4") for name, value in self.morphs.items()}
        object.__setattr__(self, "morphs", morphs)
        for name, value in morphs.items():
            _require(value.shape == (count, 3), f"blendshape {name!r}", value, f"({count}, 3)")
            if not np.isfinite(value).all():
                raise CopoError(f"mesh blendshape {name!r} holds NaN or infinite numbers")
        for name in self.weights:
            if name not in morphs:
                raise unknown_name("blendshape in weights", name, morphs)
        if not np.isfinite(self.vertices).all():
            raise CopoError("mesh vertices hold NaN or infinite numbers: check the coefficients they came from")
        _require_range("faces", self.faces, count)
        if self.uv is None:
            if self.uv_faces is not None or self.texture is not None:
                raise CopoError("mesh has uv_faces or a texture but no uv: give uv as well")
            return
        _require(self.uv.shape == (len(self.uv), 2), "uv", self.uv, "(U, 2)")
        if self.uv_faces is None:
            _require(len(self.uv) == count, "uv", self.uv, f"({count}, 2), or uv_faces beside it")
        else:
            _require(self.uv_faces.shape == self.faces.shape, "uv_faces", self.uv_faces, str(self.faces.shape))
            _require_range("uv_faces", self.uv_faces, len(self.uv))
        if self.texture is not None:
            _require(self.texture.ndim == 3 and self.texture.shape[2] == 3, "texture", self.texture, "(H, W, 3)")


def save_mesh(path: str | os.PathLike[str], mesh: MeshData, provenance: Provenance | None = None) -> None:
    """Write a mesh; the suffix of `path` chooses the format.

    | suffix | holds |
    |---|---|
    | .ply | binary; positions, normals, colours, labels. A texture is turned into vertex colours |
    | .obj | positions, normals, uv; a texture as NAME.png and NAME.mtl beside it, else colours behind the positions |
    | .glb | binary glTF 2.0; positions, normals, texture or colours, labels as the attribute `_LABEL`, blendshapes |

    A .glb without normals of its own gets smooth ones: viewers would show facets.

    Args:
        path: The file to make, atomically and together with its side files.
        mesh: What to write.
        provenance: The mark; by default that of a generated picture, without further metadata.

    Raises:
        CopoError: Unknown suffix, no faces, or the file cannot be written.
    """
    target = Path(path)
    writers = {".ply": _write_ply, ".obj": _write_obj, ".glb": _write_glb}
    writer = writers.get(target.suffix.lower())
    if writer is None:
        raise CopoError(f"cannot write a mesh as {target.name!r}: end the name in {', '.join(MESH_SUFFIXES)}")
    if not len(mesh.faces):
        raise CopoError(f"cannot write {target.name!r}: the mesh has no faces")
    if mesh.morphs and target.suffix.lower() != ".glb":
        raise CopoError(f"cannot write {target.name!r}: only .glb holds blendshapes; end the name in .glb or drop them")
    with atomic_write(target) as temporary:
        writer(temporary, mesh, provenance or Provenance())


def color_bytes(colors: Array) -> NDArray[np.uint8]:
    """Colours as uint8: those already so as they are, floats in [0, 1] clamped and rounded."""
    if colors.dtype == np.uint8:
        return np.ascontiguousarray(colors)
    return np.rint(np.nan_to_num(colors).clip(0, 1) * 255).astype(np.uint8)


def split_at_seams(mesh: MeshData) -> MeshData:
    """The same surface with one uv for each vertex: vertices on texture seams are doubled (glTF needs it)."""
    return _split(mesh)[0]


def _split(mesh: MeshData) -> tuple[MeshData, Array]:
    """`split_at_seams`, and the old vertex of each new one."""
    if mesh.uv is None or mesh.uv_faces is None:
        return mesh, np.arange(len(mesh.vertices))
    corners = np.stack([mesh.faces.ravel(), mesh.uv_faces.ravel()], axis=1)
    pairs, corner_index = np.unique(corners, axis=0, return_inverse=True)
    vertex, uv = pairs[:, 0], pairs[:, 1]

    def pick(values: Array | None) -> Array | None:
        return None if values is None else values[vertex]

    split = replace(
        mesh,
        vertices=mesh.vertices[vertex],
        faces=corner_index.reshape(-1, 3),
        colors=pick(mesh.colors),
        normals=pick(mesh.normals),
        labels=pick(mesh.labels),
        morphs={name: value[vertex] for name, value in mesh.morphs.items()},
        uv=mesh.uv[uv],
        uv_faces=None,
    )
    return split, vertex


def baked_colors(mesh: MeshData) -> Array | None:
    """(V, 3) uint8: the vertex colours, or the texture's nearest pixel at one of each vertex's uv, or None."""
    if mesh.colors is not None or mesh.texture is None or mesh.uv is None:
        return mesh.colors
    uv = np.full((len(mesh.vertices), 2), 0.5, np.float32)
    if mesh.uv_faces is None:
        uv[:] = mesh.uv
    else:
        uv[mesh.faces.ravel()] = mesh.uv[mesh.uv_faces.ravel()]
    height, width = mesh.texture.shape[:2]
    column = np.floor(uv[:, 0] * width).clip(0, width - 1).astype(np.int64)
    row = np.floor((1 - uv[:, 1]) * height).clip(0, height - 1).astype(np.int64)
    return mesh.texture[row, column]


def smooth_normals(mesh: MeshData) -> Array:
    """(V, 3) float32: the normals of the triangles around each vertex, weighted by area, not normalised."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normals = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], np.cross(b - a, c - a))
    return normals


def _write_ply(path: Path, mesh: MeshData, provenance: Provenance) -> None:
    columns: list[tuple[str, Array, str]] = [(n, mesh.vertices[:, i], "f4") for i, n in enumerate("xyz")]
    if mesh.normals is not None:
        columns += [(n, mesh.normals[:, i], "f4") for i, n in enumerate(("nx", "ny", "nz"))]
    colors = baked_colors(mesh)
    if colors is not None:
        columns += [(n, colors[:, i], "u1") for i, n in enumerate(("red", "green", "blue"))]
    if mesh.labels is not None:
        columns.append(("label", mesh.labels, "u1"))
    write_ply(path, columns, mesh.faces, provenance)


def _write_obj(path: Path, mesh: MeshData, provenance: Provenance) -> None:
    lines = [f"# {line}" for line in provenance.comment_lines()]
    if mesh.texture is not None:
        material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
        material.write_text(
            f"newmtl head\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture.name}\n", encoding="utf-8"
        )
        picture.write_bytes(_png(mesh.texture))
        lines += [f"mtllib {material.name}", "usemtl head"]
    if mesh.colors is not None and mesh.texture is None:
        rows = np.concatenate([mesh.vertices, mesh.colors / 255.0], axis=1)
        lines += [f"v {x:.7g} {y:.7g} {z:.7g} {r:.4f} {g:.4f} {b:.4f}" for x, y, z, r, g, b in rows.tolist()]
    else:
        lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in mesh.vertices.tolist()]
    if mesh.uv is not None:
        lines += [f"vt {u:.7g} {v:.7g}" for u, v in mesh.uv.tolist()]
    if mesh.normals is not None:
        lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.normals.tolist()]
    corners = _obj_corners(mesh)
    lines += [f"f {a} {b} {c}" for a, b, c in zip(corners[::3], corners[1::3], corners[2::3], strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _obj_corners(mesh: MeshData) -> list[str]:
    """The corners of all faces as OBJ writes them: vertex/uv/normal, counted from one."""
    vertex = (mesh.faces.ravel() + 1).tolist()
    uv = vertex if mesh.uv_faces is None else (mesh.uv_faces.ravel() + 1).tolist()
    if mesh.uv is None:
        return [f"{v}//{v}" for v in vertex] if mesh.normals is not None else [str(v) for v in vertex]
    if mesh.normals is None:
        return [f"{v}/{t}" for v, t in zip(vertex, uv, strict=True)]
    return [f"{v}/{t}/{v}" for v, t in zip(vertex, uv, strict=True)]


def _write_glb(path: Path, mesh: MeshData, provenance: Provenance) -> None:
    """Binary glTF 2.0 (Khronos, section 4): one buffer, one mesh, one material.

    Blendshapes are morph targets of positions and normals, as sparse accessors (section 3.6.2.3): most move a small
    part of the head.
    """
    mesh = replace(mesh, normals=_unit(smooth_normals(mesh) if mesh.normals is None else mesh.normals))
    assert mesh.normals is not None
    rest = _unit(smooth_normals(mesh)) if mesh.morphs else mesh.normals
    turned = {
        name: _unit(smooth_normals(replace(mesh, vertices=mesh.vertices + delta, morphs={}, weights={}))) - rest
        for name, delta in mesh.morphs.items()
    }
    mesh, vertex = _split(mesh)
    assert mesh.normals is not None
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    blob = bytearray()

    def view(data: bytes, target: int | None = None, stride: int | None = None) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)}
        entry.update({k: v for k, v in (("target", target), ("byteStride", stride)) if v is not None})
        views.append(entry)
        blob.extend(data)
        return len(views) - 1

    def accessor(values: Array, kind: str, component: int, target: int, **extra: Any) -> int:
        stride = values.itemsize * (values.shape[1] if values.ndim == 2 else 1)
        padded = values
        if stride % 4:  # vertex attributes start at multiples of four bytes
            width = (stride + 3) // 4 * 4 // values.itemsize
            padded = np.zeros((len(values), width), values.dtype)
            padded[:, : stride // values.itemsize] = values.reshape(len(values), -1)
            stride = width * values.itemsize
        place = view(padded.tobytes(), target, stride if target == _ARRAY_BUFFER else None)
        accessors.append({"bufferView": place, "componentType": component, "count": len(values), "type": kind, **extra})
        return len(accessors) - 1

    bounds = {"min": mesh.vertices.min(0).tolist(), "max": mesh.vertices.max(0).tolist()}
    attributes = {"POSITION": accessor(mesh.vertices, "VEC3", _FLOAT, _ARRAY_BUFFER, **bounds)}
    attributes["NORMAL"] = accessor(mesh.normals, "VEC3", _FLOAT, _ARRAY_BUFFER)
    if mesh.uv is not None:
        uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
        attributes["TEXCOORD_0"] = accessor(uv, "VEC2", _FLOAT, _ARRAY_BUFFER)
    if mesh.colors is not None and mesh.texture is None:
        linear = np.rint(_srgb_to_linear(mesh.colors) * 65535).astype(np.uint16)
        attributes["COLOR_0"] = accessor(linear, "VEC3", _UNSIGNED_SHORT, _ARRAY_BUFFER, normalized=True)
    if mesh.labels is not None:
        attributes["_LABEL"] = accessor(mesh.labels, "SCALAR", _UNSIGNED_BYTE, _ARRAY_BUFFER)
    indices = accessor(mesh.faces.astype("<u4").ravel(), "SCALAR", _UNSIGNED_INT, _ELEMENT_BUFFER)

    def sparse(values: Array, bounded: bool) -> int:
        at = np.flatnonzero(np.abs(values).max(1) > _STILL)
        at = (
            at if len(at) else np.zeros(1, np.int64)
        )  # an accessor of zeros alone is legal, and unknown to some readers
        kept = np.zeros_like(values)
        kept[at] = values[at]
        entry = {
            "componentType": _FLOAT,
            "count": len(values),
            "type": "VEC3",
            "sparse": {
                "count": len(at),
                "indices": {"bufferView": view(at.astype("<u4").tobytes()), "componentType": _UNSIGNED_INT},
                "values": {"bufferView": view(values[at].astype("<f4").tobytes())},
            },
        }
        accessors.append(entry | ({"min": kept.min(0).tolist(), "max": kept.max(0).tolist()} if bounded else {}))
        return len(accessors) - 1

    primitive: dict[str, Any] = {"attributes": attributes, "indices": indices, "material": 0}
    shapes: dict[str, Any] = {"primitives": [primitive]}
    if mesh.morphs:
        primitive["targets"] = [
            {"POSITION": sparse(delta, True), "NORMAL": sparse(turned[name][vertex], False)}
            for name, delta in mesh.morphs.items()
        ]
        shapes["weights"] = [float(mesh.weights.get(name, 0.0)) for name in mesh.morphs]
        shapes["extras"] = {"targetNames": list(mesh.morphs)}  # where Blender, three.js and others look for names

    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.8}
    document: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": SOFTWARE,
            "extras": {
                "DigitalSourceType": provenance.uri(),
                "description": provenance.description,
                JSON_KEY: json.loads(provenance.json()),
            },
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [shapes],
        "materials": [{"name": "skin", "pbrMetallicRoughness": surface, "doubleSided": True}],
    }
    if mesh.texture is not None:
        document["images"] = [{"bufferView": view(_png(mesh.texture)), "mimeType": "image/png"}]
        document["textures"] = [{"source": 0}]
        surface["baseColorTexture"] = {"index": 0}
    blob.extend(b"\0" * (-len(blob) % 4))
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(blob)}]}
    head = json.dumps(document, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    chunks = _chunk(b"JSON", head) + _chunk(b"BIN\0", bytes(blob))
    path.write_bytes(b"glTF" + np.array([2, 12 + len(chunks)], "<u4").tobytes() + chunks)


_STILL = 1e-6
"""Metres (and parts of a unit normal); less does not count as moved."""
_FLOAT, _UNSIGNED_INT, _UNSIGNED_SHORT, _UNSIGNED_BYTE = 5126, 5125, 5123, 5121
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


def _chunk(kind: bytes, data: bytes) -> bytes:
    return np.array([len(data)], "<u4").tobytes() + kind + data


def _png(picture: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _srgb_to_linear(colors: Array) -> Array:
    """IEC 61966-2-1: uint8 sRGB to linear [0, 1]; glTF vertex colours are linear."""
    value = colors / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    straight = np.array([0, 0, 1], np.float32)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), straight).astype(np.float32)


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise CopoError(f"mesh {name} has shape {tuple(value.shape)}: expected {expected}")


def _require_range(name: str, indices: Array, count: int) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise CopoError(f"mesh {name} points outside its {count} rows: indices run from 0 to {count - 1}")
