"""Shapes out of the volume: meshes with colours and labels, Gaussian splats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import fast_simplification
import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from copo.errors import CopoError
from copo.field.blending import BACKGROUND
from copo.field.volume import Field
from copo.formats.mesh import MeshData
from copo.formats.splat import GaussianSplats

CHUNK = 1 << 15
"""Points that are decoded together."""

STEP = 0.005
"""Metres; matter that stops half of the light within this length counts as solid. It is the published distance of
coarse samples (0.24 m / 48)."""

BISECTIONS = 8
"""Halvings of a grid edge in search of the surface: a grid step of 2 mm becomes 8 micrometres."""


@dataclass(frozen=True)
class ShapeConfig:
    """How a surface is cut out of the volume.

    Attributes:
        resolution: Grid points along each side of the cube, at least 8.
        threshold: Density of the surface, per metre; ln 2 / 5 mm by default.
        without: Classes that are left out; background by default, which some models keep in the volume as a wall.
        largest: Keep the largest connected part only.
        faces: Number of triangles to simplify to; None to keep all.
    """

    resolution: int = 192
    threshold: float = math.log(2) / STEP
    without: frozenset[int] = frozenset({BACKGROUND})
    largest: bool = True
    faces: int | None = None

    def __post_init__(self) -> None:
        if self.resolution < 8:
            raise CopoError(f"shape: a grid of {self.resolution} points a side is too coarse: give at least 8")
        if not (self.threshold > 0 and math.isfinite(self.threshold)):
            raise CopoError(f"shape: threshold {self.threshold:g} is not a density: give a number above 0")
        if self.faces is not None and self.faces < 4:
            raise CopoError(f"shape: {self.faces} triangles do not close a surface: give at least 4")


@torch.no_grad()
def extract_mesh(field: Field, config: ShapeConfig | None = None) -> MeshData:
    """The surface at one density, by marching cubes (Lorensen and Cline 1987, Lewiner's tables of scikit-image).

    Density jumps within less than a grid step at a surface, so its values at grid points say little about where the
    surface is. Only which points are inside is used; vertices are then found by bisection along their grid edges.
    They get the colour and the most likely class of the field where they are.

    Args:
        field: One portrait.
        config: Resolution, threshold, parts.

    Returns:
        MeshData in metres of the scene.

    Raises:
        CopoError: The density reaches the threshold nowhere.
    """
    config = config or ShapeConfig()
    inside = _inside(field, config)
    vertices, faces, _, _ = marching_cubes(inside.astype(np.float32), 0.5, gradient_direction="ascent")
    vertices, faces = _on_surface(field, config, inside, vertices), faces.astype(np.int64)
    if config.largest:
        vertices, faces = _largest_part(vertices, faces)
    colors, labels = _appearance(field, vertices)
    if config.faces is not None and len(faces) > config.faces:
        exact = vertices
        vertices, faces = fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=config.faces)
        vertices, faces = vertices.astype(np.float32), faces.astype(np.int64)
        nearest = KDTree(exact).query(vertices)[1]  # simplified vertices lie beside the surface, at times in the air
        colors, labels = colors[nearest], labels[nearest]
    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    return MeshData(vertices=vertices, faces=faces, colors=colors, normals=normals, labels=labels)


@torch.no_grad()
def extract_splats(
    field: Field, count: int = 100_000, config: ShapeConfig | None = None, seed: int = 0
) -> GaussianSplats:
    """Flat Gaussians spread evenly over the surface, for viewers of splats.

    Each is a disc in the surface, as wide as the mean distance of its neighbours and a tenth as thick.

    Args:
        field: One portrait.
        count: Number of Gaussians.
        config: As for `extract_mesh`.
        seed: Of the places.

    Raises:
        CopoError: `count` is below 1, or there is no surface.
    """
    if count < 1:
        raise CopoError(f"splats: {count} of them: give at least 1")
    mesh = extract_mesh(field, config)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(across, axis=1) / 2
    random = np.random.default_rng(seed)
    # One place in each of `count` equal shares of the area: more even than independent draws.
    places = (np.arange(count) + random.random(count)) * (area.sum() / count)
    index = np.searchsorted(np.cumsum(area), places).clip(max=len(area) - 1)
    u, v = random.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    a, b, c = corners[index].transpose(1, 0, 2)
    positions = (a + u * (b - a) + v * (c - a)).astype(np.float32)
    normals = across[index] / np.linalg.norm(across[index], axis=1, keepdims=True).clip(1e-20)
    colors, _ = _appearance(field, positions)
    width = math.sqrt(float(area.sum()) / count)
    return GaussianSplats(
        positions=positions,
        colors=colors,
        opacities=np.full(count, 0.95, np.float32),
        scales=np.tile(np.array([width, width, width / 10], np.float32), (count, 1)),
        rotations=_from_z(normals),
        normals=normals,
    )


def _inside(field: Field, config: ShapeConfig) -> NDArray[np.bool_]:
    """(n, n, n) whether grid points x, y, z are solid; those on the cube's faces never are, so that surfaces close."""
    n = config.resolution
    axis = torch.linspace(-field.box, field.box, n)
    inside = np.zeros((n, n, n), np.bool_)
    densest = 0.0
    layers = max(1, CHUNK // (n * n))
    for start in range(1, n - 1, layers):
        stop = min(start + layers, n - 1)
        density = _density(field, torch.cartesian_prod(axis[start:stop], axis[1:-1], axis[1:-1]), config.without)
        densest = max(densest, float(density.max()))
        inside[start:stop, 1:-1, 1:-1] = (density > config.threshold).view(-1, n - 2, n - 2).numpy()
    if not inside.any():
        raise CopoError(
            f"shape: there is no surface, the density reaches {densest:.3g} per metre at most: "
            f"lower the threshold of {config.threshold:.3g}"
        )
    return inside


def _on_surface(
    field: Field, config: ShapeConfig, inside: NDArray[np.bool_], vertices: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Midpoints of grid edges (V, 3) in grid steps -> where those edges meet the surface, metres."""
    step = 2 * field.box / (config.resolution - 1)
    low, high = np.floor(vertices), np.ceil(vertices)
    low_is_solid = inside[tuple(low.astype(np.int64).T)][:, None]
    solid = torch.from_numpy(np.where(low_is_solid, low, high) * step - field.box).float()
    empty = torch.from_numpy(np.where(low_is_solid, high, low) * step - field.box).float()
    for _ in range(BISECTIONS):
        middle = (solid + empty) / 2
        is_solid = (_density(field, middle, config.without) > config.threshold)[:, None]
        solid, empty = torch.where(is_solid, middle, solid), torch.where(is_solid, empty, middle)
    return ((solid + empty) / 2).numpy()


def _density(field: Field, points: Tensor, without: frozenset[int]) -> Tensor:
    """(N, 3) -> (N,) per metre, zero where the most likely class is one of `without`; on the CPU."""
    densities = []
    for part in points.split(CHUNK):
        probe = field.probe(part[None].to(field.heads.weight.device))
        density = probe.density[0]
        if without:
            label = field.heads.class_logits(probe.label_hidden[0]).argmax(-1)
            unwanted = torch.zeros(field.heads.class_count, dtype=torch.bool, device=label.device)
            unwanted[sorted(without)] = True
            density = density.masked_fill(unwanted[label], 0)
        densities.append(density.float().cpu())
    return torch.cat(densities)


def _appearance(field: Field, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Colours (N, 3) in [0, 1] and the most likely classes (N,) at points (N, 3)."""
    colors, labels = [], []
    for part in torch.from_numpy(points).split(CHUNK):
        probe = field.probe(part[None].to(field.heads.weight.device))
        colors.append(field.heads.colors(probe.hidden[0]).clamp(0, 1).float().cpu())
        labels.append(field.heads.class_logits(probe.label_hidden[0]).argmax(-1).cpu())
    return torch.cat(colors).numpy(), torch.cat(labels).numpy()


def _largest_part(
    vertices: NDArray[np.float32], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The connected part with the most triangles."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    _, part = connected_components(graph, directed=False)
    kept = part == np.bincount(part[faces[:, 0]]).argmax()
    renumbered = np.cumsum(kept) - 1
    return vertices[kept], renumbered[faces[kept[faces[:, 0]]]]


def _from_z(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) quaternions w, x, y, z of the shortest turns from the z axis to unit normals (N, 3)."""
    x, y, z = normals.T
    half = np.stack([1 + z, -y, x, np.zeros_like(z)], axis=1)  # opposite to z there is no shortest turn: take x
    half[z < -1 + 1e-6] = (0, 1, 0, 0)
    return half / np.linalg.norm(half, axis=1, keepdims=True)
