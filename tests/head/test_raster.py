"""The rasteriser against worked pixels, analytic surfaces, exact ray casting in float64 and its Triton twin."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay
from torch import Tensor

from copo.errors import CopoError
from copo.head import raster
from copo.head.raster import Fragments, interpolate, rasterize

UNIT = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]])
"""Focal length of one picture, centred: a dyadic camera in which pixel positions are exact."""

TRIANGLE = torch.tensor([[0, 1, 2]])


def at_pixels(points: Tensor, size: int) -> Tensor:
    """(B, V, 3) of (column, row, depth) in pixels -> camera space under `UNIT`."""
    z = points[..., 2:]
    return torch.cat([(points[..., :2] / size - 0.5) * z, z], dim=-1)


def covered(points: list[list[float]], size: int, faces: Tensor = TRIANGLE) -> list[str]:
    """Rows of '#' and '.' for a mesh given in pixels."""
    fragments = rasterize(at_pixels(torch.tensor([points]), size), faces, UNIT, size)
    return ["".join("#" if pixel else "." for pixel in row) for row in fragments.mask[0].tolist()]


def icosphere(radius: float, subdivisions: int) -> tuple[Tensor, Tensor]:
    """A closed sphere around the origin, outward triangles."""
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def rays(height: int, width: int, intrinsics: Tensor) -> Tensor:
    """(H, W, 3) float64 directions through the pixel centres, z = 1."""
    v, u = torch.meshgrid(
        (torch.arange(height, dtype=torch.float64) + 0.5) / height,
        (torch.arange(width, dtype=torch.float64) + 0.5) / width,
        indexing="ij",
    )
    k = intrinsics.double()
    y = (v - k[1, 2]) / k[1, 1]
    return torch.stack([(u - k[0, 2] - k[0, 1] * y) / k[0, 0], y, torch.ones_like(u)], dim=-1)


def ray_triangle(directions: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Möller and Trumbore's intersection: barycentric coordinates (..., 3) and depth (...) of rays with z = 1."""
    a, b, c = corners.double().unbind(0)
    e1, e2 = b - a, c - a
    p = torch.linalg.cross(directions, e2.expand_as(directions))
    determinant = (p * e1).sum(-1)
    u = (p * -a).sum(-1) / determinant
    q = torch.linalg.cross(-a, e1).expand_as(directions)
    v = (q * directions).sum(-1) / determinant
    return torch.stack([1 - u - v, u, v], dim=-1), (q * e2).sum(-1) / determinant


# --- coverage ---------------------------------------------------------------------------------------------------


def test_pixels_whose_centres_lie_inside() -> None:
    # The legs run along x = 0.75 and y = 0.75, the long side from (4.75, 0.75) to (0.75, 4.75): x + y = 5.5.
    assert covered([[0.75, 0.75, 1], [4.75, 0.75, 1], [0.75, 4.75, 1]], 8) == [
        "........",
        ".###....",
        ".##.....",
        ".#......",
        *["........"] * 4,
    ]


def test_centres_on_an_edge_belong_to_top_and_left_edges() -> None:
    # All sides pass through pixel centres: the left column and the top row are in, the long side is out.
    assert covered([[0.5, 0.5, 1], [4.5, 0.5, 1], [0.5, 4.5, 1]], 8) == [
        "####....",
        "###.....",
        "##......",
        "#.......",
        *["........"] * 4,
    ]
    # The opposite half of the square takes exactly the long side; its right and bottom edges are out.
    assert covered([[4.5, 0.5, 1], [4.5, 4.5, 1], [0.5, 4.5, 1]], 8) == [
        "........",
        "...#....",
        "..##....",
        ".###....",
        *["........"] * 4,
    ]


def test_either_winding_covers_the_same_pixels() -> None:
    points = [[0.5, 0.5, 1], [4.5, 1.5, 2], [1.5, 4.5, 4]]
    assert covered(points, 8) == covered(points, 8, TRIANGLE.flip(1)) == covered(points, 8, TRIANGLE.roll(1, 1))


@st.composite
def triangulations(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Flat triangulations at mixed depths, (V, 3) in pixels, some corners on pixel centres, windings mixed."""
    size = draw(st.sampled_from([8, 16]))
    on_grid = st.integers(0, 2 * size).map(lambda n: n / 2)
    anywhere = st.floats(-2, size + 2, width=32)
    coordinate = on_grid if draw(st.booleans()) else st.one_of(on_grid, anywhere)
    points = np.array(draw(st.lists(st.tuples(coordinate, coordinate), min_size=4, max_size=14, unique=True)))
    try:
        faces = Delaunay(points, qhull_options="QJ1e-9" if draw(st.booleans()) else "Qt").simplices
    except Exception:  # all corners on one line
        faces = np.array([[0, 1, 2]])
    depth = np.array(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(points), max_size=len(points))))
    flips = draw(st.lists(st.booleans(), min_size=len(faces), max_size=len(faces)))
    faces = np.array([face[::-1] if flip else face for face, flip in zip(faces, flips, strict=True)])
    return torch.tensor(np.column_stack([points, depth])).float(), torch.tensor(faces).long(), size


@settings(max_examples=80, deadline=None)
@given(triangulations())
def test_shared_edges_neither_crack_nor_double(mesh: tuple[Tensor, Tensor, int]) -> None:
    points, faces, size = mesh
    vertices = at_pixels(points[None], size)
    count = sum(rasterize(vertices, face[None], UNIT, size).mask[0].int() for face in faces)
    assert isinstance(count, Tensor)
    together = rasterize(vertices, faces, UNIT, size).mask[0]
    assert torch.equal(together, count > 0)
    assert count.max() <= 1
    centres = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1).reshape(-1, 2)
    if len(faces) > 1:
        hull = Delaunay(points[:, :2].double().numpy())
        # Strictly inside: a little move in any direction stays in the hull.
        moves = [np.array(m) for m in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02))]
        inside = np.all([hull.find_simplex(centres + m) >= 0 for m in moves], axis=0).reshape(size, size)
        assert bool((count[torch.tensor(inside)] == 1).all())


def test_a_closed_sphere_has_no_holes_at_any_size() -> None:
    vertices, faces = icosphere(0.1, 3)
    for size in (33, 64, 101):
        fragments = rasterize((vertices + torch.tensor([0, 0, 1.0]))[None], faces, 4 * UNIT, size)
        radius = size * 4 * math.tan(math.asin(0.1 / 1.0)) * 0.97
        row, column = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
        disc = ((row - 2 * size) ** 2 + (column - 2 * size) ** 2).sqrt() < radius
        assert fragments.mask[0][disc].all()


# --- geometry ---------------------------------------------------------------------------------------------------


def test_sphere_depth_matches_the_analytic_sphere() -> None:
    vertices, faces = icosphere(0.1, 4)
    k = torch.tensor([[[4.0, 0, 0.5], [0, 4, 0.5], [0, 0, 1]]])
    fragments = rasterize((vertices + torch.tensor([0, 0, 1.0]))[None], faces, k, 96)
    d = rays(96, 96, k[0])
    # |t d - (0, 0, 1)| = 0.1
    a, c = (d * d).sum(-1), 1 - 0.1**2
    discriminant = 1 - a * c
    hits = discriminant > 0
    depth = (1 - discriminant.clamp_min(0).sqrt()) / a
    grazing = (discriminant.abs() < 2e-3) | ~hits
    assert not fragments.mask[0][discriminant < -1e-4].any()
    assert fragments.mask[0][~grazing].all()
    error = (fragments.depth[0] - depth)[~grazing].abs().max()
    assert error < 5e-4  # the facets' sagitta is 0.1 (1 - cos(2.2 degrees)) = 7e-5, more at a slant


def test_tilted_plane_depth_is_exact() -> None:
    # The plane z = 2 + x, seen by rays (x', y', 1): z = 2 / (1 - x').
    corners = torch.tensor([[[-1.5, -9, 0.5], [2.5, -9, 4.5], [2.5, 9, 4.5], [-1.5, 9, 0.5]]])
    fragments = rasterize(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), UNIT, 16)
    x = rays(16, 16, UNIT[0])[..., 0]
    assert fragments.mask.all()
    torch.testing.assert_close(fragments.depth[0].double(), 2 / (1 - x), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0, 1, 2]))
def test_fragments_agree_with_ray_casting(seed: int, behind: int) -> None:
    """Including triangles with one or two corners behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randn(3, 3, generator=generator) * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([0, 0, 3.0])
    corners[:behind, 2] = -corners[:behind, 2].abs()
    k = torch.tensor([[0.9, 0.1, 0.45], [0, 1.1, 0.55], [0, 0, 1]])
    near, far = 0.5, 6.0
    fragments = rasterize(corners[None], TRIANGLE, k[None], (24, 32), near=near, far=far)
    barycentric, depth = ray_triangle(rays(24, 32, k), corners)
    margin = torch.minimum(barycentric.amin(-1), torch.minimum(depth - near, far - depth))
    mask = fragments.mask[0]
    sure = margin.abs() > 1e-3
    assert torch.equal(mask[sure], (margin > 0)[sure])
    well = mask & sure & (depth < far)
    # Slivers seen almost edge-on have coordinates that float32 cannot give to three digits.
    difference = (fragments.barycentric[0].double() - barycentric).abs().amax(-1)
    condition = corners.abs().max() ** 2 / torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0]).norm()
    if condition < 50:
        assert bool((difference[well] < 2e-3).all())
        assert bool(((fragments.depth[0] - depth).abs()[well] < 2e-3 * depth[well].abs() + 1e-3).all())
    torch.testing.assert_close(fragments.barycentric.sum(-1), mask[None].float())


def test_near_plane_clips_a_floor_exactly() -> None:
    # The floor y = 1 from far behind the camera to far ahead: the ray (x', y', 1) meets it at z = 1 / y'.
    floor = torch.tensor([[[-90.0, 1, -50], [90.0, 1, -50], [90.0, 1, 200], [-90.0, 1, 200]]])
    near, far = 2.5, 20.0
    fragments = rasterize(floor, torch.tensor([[0, 1, 2], [0, 2, 3]]), UNIT, 64, near=near, far=far)
    y = rays(64, 64, UNIT[0])[..., 1]
    expected = (y > 0) & (1 / y >= near) & (1 / y <= far)
    assert 0 < expected.sum() < 64 * 32
    assert torch.equal(fragments.mask[0], expected)
    torch.testing.assert_close(fragments.depth[0].double()[expected], (1 / y)[expected], rtol=1e-4, atol=0)


def test_triangles_behind_the_camera_are_not_seen() -> None:
    corners = torch.tensor([[[-1.0, -1, -2], [1, -1, -2], [0, 1, -2]]])
    assert not rasterize(corners, TRIANGLE, UNIT, 8).mask.any()


def test_border_crossing_is_a_crop() -> None:
    """A window of a larger picture, by moved intrinsics, shows the same fragments."""
    generator = torch.Generator().manual_seed(5)
    vertices = torch.randn(1, 40, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.3]) + torch.tensor([0, 0, 2.0])
    faces = torch.randint(0, 40, (30, 3), generator=generator)
    whole = rasterize(vertices, faces, UNIT, 64)
    # Columns 16..48 and rows 8..40 of 64: the focal length doubles as a share of the window's 32 pixels.
    window = torch.tensor([[[2.0, 0, 0.5], [0, 2, 0.75], [0, 0, 1]]])
    part = rasterize(vertices, faces, window, 32)
    assert 0 < int(part.mask.sum()) < 32 * 32
    assert torch.equal(part.face, whole.face[:, 8:40, 16:48])
    torch.testing.assert_close(part.depth, whole.depth[:, 8:40, 16:48], rtol=1e-4, atol=1e-5)


def test_nearer_triangle_wins_and_ties_go_to_the_lower_index() -> None:
    corners = at_pixels(
        torch.tensor([[[-1.0, -1, 2], [40, -1, 2], [-1, 40, 2], [-1, -1, 1], [6, -1, 1], [-1, 6, 1]]]), 8
    )
    fragments = rasterize(corners, torch.tensor([[0, 1, 2], [3, 4, 5], [0, 1, 2], [5, 3, 4]]), UNIT, 8)
    near = rasterize(corners, torch.tensor([[3, 4, 5]]), UNIT, 8).mask
    assert near.any() and not near.all()
    assert torch.equal(fragments.face, torch.where(near, 1, 0))


def test_crossing_triangles_meet_where_their_depths_are_equal() -> None:
    # z = 2 + x and z = 2 - x cross at x = 0: the nearer one is on either side.
    left = torch.tensor([[-1.0, -9, 1], [1, -9, 3], [1, 9, 3], [-1, 9, 1]])
    right = torch.tensor([[-1.0, -9, 3], [1, -9, 1], [1, 9, 1], [-1, 9, 3]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize(torch.cat([left, right])[None], faces, UNIT, 16)
    x = rays(16, 16, UNIT[0])[..., 0]
    assert torch.equal(fragments.face[0] < 2, x < 0)


def test_culling_removes_the_far_side_only() -> None:
    vertices, faces = icosphere(0.1, 2)
    inside = (vertices + torch.tensor([0, 0, 1.0]))[None]
    k = torch.tensor([[[4.0, 0, 0.5], [0, 4, 0.5], [0, 0, 1]]])
    both = rasterize(inside, faces, k, 48)
    assert torch.equal(rasterize(inside, faces, k, 48, cull_backfaces=True).face, both.face)
    hollow = rasterize(inside, faces.flip(1), k, 48, cull_backfaces=True)
    assert torch.equal(hollow.mask, both.mask)
    assert (hollow.depth > both.depth)[both.mask].all()
    turned = faces[:, [2, 0, 1]]
    assert torch.equal(rasterize(inside, turned, k, 48, cull_backfaces=True).face, both.face)


def test_front_is_counter_clockwise_in_the_picture() -> None:
    down_then_right = at_pixels(torch.tensor([[[1.0, 1, 1], [1, 7, 1], [7, 7, 1]]]), 8)
    assert rasterize(down_then_right, TRIANGLE, UNIT, 8, cull_backfaces=True).mask.any()
    assert not rasterize(down_then_right, TRIANGLE.flip(1), UNIT, 8, cull_backfaces=True).mask.any()


def test_degenerate_triangles_draw_nothing_and_leave_gradients_finite() -> None:
    points = torch.tensor([[[1.0, 1, 1], [6, 6, 1], [3, 3, 1], [2, 5, 0.5], [4, 2.5, 1]]])
    vertices = at_pixels(points, 8).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [3, 3, 4], [4, 4, 4], [0, 3, 1]])
    fragments = rasterize(vertices, faces, UNIT, 8)
    assert set(fragments.face.unique().tolist()) == {-1, 3}
    (fragments.depth.sum() + (fragments.barycentric**2).sum()).backward()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()
    edge_on = torch.tensor([[[0.0, -1, 1], [0, 1, 1], [0, 0, 3]]])
    assert not rasterize(edge_on, TRIANGLE, UNIT, 8).mask.any()


# --- batches, memory, determinism -------------------------------------------------------------------------------


def scene(seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Random triangles around the camera, some behind it."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randn(batch, 60, 3, generator=generator) + torch.tensor([0, 0, 1.5])
    faces = torch.randint(0, 60, (80, 3), generator=generator)
    k = UNIT + torch.rand(batch, 1, 1, generator=generator) * torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    return vertices, faces, k


def assert_same(a: Fragments, b: Fragments) -> None:
    assert torch.equal(a.face, b.face)
    torch.testing.assert_close(a.barycentric, b.barycentric, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.depth, b.depth, rtol=1e-4, atol=1e-5)


def test_a_batch_is_its_members() -> None:
    vertices, faces, k = scene()
    together = rasterize(vertices, faces, k, (20, 30), near=0.1)
    for i in range(3):
        one = rasterize(vertices[i : i + 1], faces, k[i : i + 1], (20, 30), near=0.1)
        assert torch.equal(one.face[0], together.face[i])


def test_chunks_do_not_change_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces, k = scene()
    whole = rasterize(vertices, faces, k, 32, near=0.1)
    monkeypatch.setattr(raster, "_CHUNK", 1000)
    assert_same(rasterize(vertices, faces, k, 32, near=0.1), whole)


def test_order_of_faces_does_not_change_depth() -> None:
    vertices, faces, k = scene(1)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(2))
    a, b = rasterize(vertices, faces, k, 32), rasterize(vertices, faces[order], k, 32)
    torch.testing.assert_close(a.depth, b.depth)


def test_no_faces_and_everything_outside_are_empty() -> None:
    vertices, faces, k = scene()
    assert not rasterize(vertices, faces[:0], k, 8).mask.any()
    away = rasterize(vertices + torch.tensor([1e4, 0, 0]), faces, k, 8)
    assert not away.mask.any()
    assert float(away.depth.abs().sum() + away.barycentric.abs().sum()) == 0.0


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton kernels run in Python, on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernel = importlib.reload(importlib.import_module("copo.head.raster_triton"))
    yield
    monkeypatch.delenv("TRITON_INTERPRET")
    importlib.reload(kernel)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="test_raster_cuda.py runs the compiled kernel")
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("cull", [False, True])
def test_triton_kernel_gives_the_same_bits_in_its_interpreter(cull: bool) -> None:
    vertices, faces, k = scene(3, batch=2)
    grid = at_pixels(torch.tensor([[[0.5, 0.5, 1], [8.5, 0.5, 1], [0.5, 8.5, 2], [8.5, 8.5, 1]]]), 16)
    square = torch.tensor([[0, 2, 1], [2, 3, 1]])
    for arguments in ((vertices, faces[:40], k, 16), (grid, square, UNIT, 16)):
        twin = rasterize(*arguments, near=0.2, cull_backfaces=cull, backend="torch")
        kernel = rasterize(*arguments, near=0.2, cull_backfaces=cull, backend="triton")
        assert twin.mask.any()
        assert torch.equal(kernel.face, twin.face)


# --- interpolation and gradients --------------------------------------------------------------------------------


def test_interpolation_is_perspective_correct() -> None:
    # An edge from depth 1 to depth 3: the picture's middle sees the point at a quarter of the way, not at half.
    vertices = torch.tensor([[[-1.0, -9, 1], [3, -9, 3], [-1, 9, 1], [3, 9, 3]]])
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    k = torch.tensor([[[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]])
    fragments = rasterize(vertices, faces, k, 101)
    values = interpolate(torch.tensor([[0.0], [1], [0], [1]]), faces, fragments)
    assert fragments.mask.all()
    # Position p in [0, 1] across the edge: x / z = 2 p - 1 with x = -1 + 4 s, z = 1 + 2 s, so s = p / (3 - 2 p).
    p = (torch.arange(101) + 0.5) / 101
    torch.testing.assert_close(values[0, 0, 50], p / (3 - 2 * p), atol=1e-5, rtol=0)
    assert values[0, 0, 50, 50] == pytest.approx(0.25, abs=1e-5)


def test_interpolation_shapes_and_background() -> None:
    vertices, faces, k = scene()
    fragments = rasterize(vertices, faces, k, (16, 24))
    shared = torch.randn(60, 5)
    out = interpolate(shared, faces, fragments)
    assert out.shape == (3, 5, 16, 24)
    torch.testing.assert_close(out, interpolate(shared.expand(3, -1, -1), faces, fragments))
    assert out.movedim(1, -1)[~fragments.mask].abs().sum() == 0
    with pytest.raises(CopoError, match="attributes have shape"):
        interpolate(torch.zeros(2, 60, 5), faces, fragments)


def test_gradients_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(7)
    points = torch.tensor([[[-3.0, -3, 1], [20, 0, 2], [0, 21, 1.5], [18, 19, -0.5]]], dtype=torch.float64)
    vertices = at_pixels(points, 16).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    attributes = torch.randn(1, 4, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.randn(16, 16, dtype=torch.float64, generator=generator)

    def picture(v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        fragments = rasterize(v, faces, UNIT, 16)
        return (interpolate(a, faces, fragments) * weights).sum((2, 3)), (fragments.depth * weights).sum()

    assert len(rasterize(vertices, faces, UNIT, 16).face.unique()) >= 2
    assert torch.autograd.gradcheck(picture, (vertices, attributes))


# --- bad input --------------------------------------------------------------------------------------------------

GOOD = torch.tensor([[[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vertices": GOOD * float("nan")}, "vertices hold NaN or infinite numbers"),
        ({"vertices": GOOD[0]}, "vertices have shape (3, 3)"),
        ({"faces": TRIANGLE.int()}, "faces have shape (1, 3) and type torch.int32"),
        ({"faces": TRIANGLE + 1}, "faces name vertices outside 0..2"),
        ({"faces": -TRIANGLE}, "faces name vertices outside 0..2"),
        ({"intrinsics": UNIT[0]}, "intrinsics have shape (3, 3)"),
        ({"size": 0}, "picture size 0 x 0"),
        ({"size": (8, -1)}, "picture size 8 x -1"),
        ({"near": 0.0}, "near 0.0 and far"),
        ({"near": 5.0, "far": 1.0}, "near 5.0 and far 1.0"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: dict[str, object], words: str) -> None:
    call = {"vertices": GOOD, "faces": TRIANGLE, "intrinsics": UNIT, "size": 8, **arguments}
    with pytest.raises(CopoError) as caught:
        rasterize(**call)  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("nvdiffrast") is not None, reason="nvdiffrast is installed")
def test_a_missing_backend_is_told() -> None:
    with pytest.raises(CopoError, match="backend 'nvdiffrast' is not installed"):
        rasterize(GOOD, TRIANGLE, UNIT, 8, backend="nvdiffrast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_triton_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(CopoError, match="backend 'triton'"):
        rasterize(GOOD, TRIANGLE, UNIT, 8, backend="triton")
