"""Renders of meshes and heads: directions, analytic values, gradients, supersampling and optical flow."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.head.protocol import HeadModel, HeadTopology
from copo.head.renderer import MeshRender, RasterConfig, optical_flow, render_head, render_mesh
from copo.head.shading import sh_shading
from copo.illumination import directional_light, rotate_illumination

FRONT = Camera.from_degrees()


def double(camera: Camera) -> Camera:
    """The same cameras in float64."""
    return Camera(camera.cam2world.double(), camera.intrinsics.double())


def sphere(radius: float = 0.08, subdivisions: int = 4) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def square(half: float, z: float, x: float = 0.0, y: float = 0.0) -> Tensor:
    """(4, 3) corners facing +z; its triangles are SQUARE."""
    return torch.tensor(
        [[x - half, y - half, z], [x + half, y - half, z], [x + half, y + half, z], [x - half, y + half, z]]
    )


SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


class LinearHead(torch.nn.Module):
    """A small head that obeys the protocol: a sphere with random linear bases, in float64 for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        vertices, faces = sphere(0.08, 1)
        count = len(vertices)
        self.name = "linear"
        self.spec = FactorSpec("linear", shape=2, albedo=2, expression_names=("a", "b", "c"))
        self.topology = HeadTopology(
            faces=faces,
            uv=None,
            uv_faces=None,
            labels=(vertices[:, 1] > 0).long() + 1,
            landmarks68=torch.zeros(68, dtype=torch.int64),
        )
        self.mean = vertices.double()
        self.shape_basis = 0.004 * torch.randn(2, count, 3, generator=generator).double()
        self.expression_basis = 0.004 * torch.randn(3, count, 3, generator=generator).double()
        self.albedo_basis = 0.1 * torch.randn(2, count, 3, generator=generator).double()

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        moved = torch.einsum("bk,kvc->bvc", shape, self.shape_basis)
        return self.mean + moved + torch.einsum("bk,kvc->bvc", expression, self.expression_basis)

    def albedo(self, albedo: Tensor) -> Tensor:
        return 0.5 + torch.einsum("bk,kvc->bvc", albedo, self.albedo_basis)


# --- meshes -----------------------------------------------------------------------------------------------------


def test_sphere_has_analytic_normals_depth_and_area() -> None:
    vertices, faces = sphere()
    render = render_mesh(vertices[None], faces, FRONT, 128, attributes={"place": vertices})
    mask = render.mask[:, 0]
    # The silhouette of a sphere of 0.08 at distance 1 has tan = 0.08 / sqrt(1 - 0.08^2).
    radius = 128 * 0.5 / math.tan(math.radians(6.3)) * 0.08 / math.sqrt(1 - 0.08**2)
    assert mask.sum().item() == pytest.approx(math.pi * radius**2, rel=5e-3)
    place = render.attributes["place"].movedim(1, -1)[mask]
    normals = render.normals.movedim(1, -1)[mask]
    assert (place.norm(dim=1) - 0.08).abs().max() < 3e-4
    torch.testing.assert_close(normals, torch.nn.functional.normalize(place, dim=1), atol=8e-3, rtol=0)
    # The camera stands at (0, 0, 1) and looks along -z: depth is 1 - z.
    torch.testing.assert_close(render.depth[:, 0][mask], 1 - place[:, 2], atol=1e-5, rtol=0)
    assert render.depth[:, 0][~mask].abs().sum() == 0


def test_the_frontal_picture_has_plus_x_at_its_right_and_plus_y_at_its_top() -> None:
    vertices, faces = sphere()
    place = render_mesh(vertices[None], faces, FRONT, 64, attributes={"place": vertices}).attributes["place"][0]
    assert place[0, 32, 50] > 0.03 > -0.03 > place[0, 32, 14]
    assert place[1, 14, 32] > 0.03 > -0.03 > place[1, 50, 32]


def test_labels_are_those_of_the_nearest_corner() -> None:
    vertices = torch.cat([square(0.05, 0.0)])
    render = render_mesh(vertices[None], SQUARE, FRONT, 64, labels=torch.tensor([3, 4, 5, 6]))
    assert render.labels is not None
    assert render.labels.dtype == torch.int64
    assert set(render.labels.unique().tolist()) == {0, 3, 4, 5, 6}
    # Just inside the four corners: half a square of 0.05 is 0.05 / tan(6.3 degrees) x 32 = 14.49 pixels.
    inner = [render.labels[0, row, column].item() for row, column in ((45, 18), (45, 45), (18, 45), (18, 18))]
    assert inner == [3, 4, 5, 6]
    assert torch.equal(render.labels > 0, render.mask[:, 0])


def test_uv_uses_its_own_faces() -> None:
    # A seam: the two triangles have separate texture corners.
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    render = render_mesh(
        square(0.05, 0.0)[None], SQUARE, FRONT, 64, uv=uv, uv_faces=torch.tensor([[0, 1, 2], [3, 4, 5]])
    )
    assert render.uv is not None
    # In the lower right triangle (0, 1, 2) u grows to the right and v upwards, over 28.99 pixels from 17.5.
    assert render.uv[0, 0, 40, 42].item() == pytest.approx((42.5 - 17.505) / 28.99, abs=2e-3)
    assert render.uv[0, 1, 40, 42].item() == pytest.approx((46.495 - 40.5) / 28.99, abs=2e-3)
    # In the other one, (0, 2, 3), corner 2 is at (0.5, 0.5).
    assert render.uv[0, 0, 20, 20].item() < 0.5


def test_supersampling_smooths_borders_and_keeps_colours() -> None:
    vertices, faces = sphere()
    colour = torch.tensor([0.2, 0.5, 0.9]).expand(len(vertices), 3)
    config = RasterConfig(supersample=4)
    fine = render_mesh(vertices[None], faces, FRONT, 32, attributes={"colour": colour}, config=config)
    large = render_mesh(vertices[None], faces, FRONT, 128, attributes={"colour": colour})
    torch.testing.assert_close(fine.alpha, torch.nn.functional.avg_pool2d(large.alpha, 4))
    assert ((fine.alpha > 0) & (fine.alpha < 1)).any()
    inside = (fine.alpha > 0)[:, 0]
    seen = fine.colour.movedim(1, -1)[inside]
    torch.testing.assert_close(seen, colour[:1].expand_as(seen), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        fine.over(1.0), fine.alpha * torch.tensor([0.2, 0.5, 0.9])[:, None, None] + 1 - fine.alpha, atol=1e-5, rtol=0
    )
    assert (fine.depth[fine.alpha > 0] > 0.9).all() and (fine.depth <= 1).all()
    assert fine.normals.norm(dim=1)[inside].sub(1).abs().max() < 1e-4


def test_over_takes_numbers_colours_and_pictures() -> None:
    render = render_mesh(square(0.03, 0.0)[None], SQUARE, FRONT, 16, attributes={"colour": 2 * torch.ones(4, 3)})
    inside = render.mask[0, 0]
    for background in (0.25, torch.tensor([0.25, 0.25, 0.25]), torch.full((1, 3, 16, 16), 0.25)):
        picture = render.over(background)
        assert (picture[0, :, inside] == 1).all() and (picture[0, :, ~inside] == 0.25).all()


def test_one_camera_serves_a_batch() -> None:
    vertices, faces = sphere(subdivisions=2)
    batch = torch.stack([vertices, 0.8 * vertices])
    render = render_mesh(batch, faces, FRONT, 32)
    assert torch.equal(render.mask[1:], render_mesh(batch[1:], faces, FRONT, 32).mask)
    assert render.mask[0].sum() > render.mask[1].sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attributes": {"heat": torch.zeros(5, 1)}}, "attribute 'heat' has shape (5, 1)"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels have shape (5,)"),
        ({"uv": torch.zeros(6, 2)}, "uv has shape (6, 2)"),
        ({"uv": torch.zeros(6, 2), "uv_faces": SQUARE[:1]}, "uv_faces have shape (1, 3)"),
        ({"size": 0}, "picture size 0 x 0"),
        ({"config": RasterConfig(supersample=0)}, "supersample 0"),
        ({"camera": FRONT.expand(3)}, "3 cameras for 1"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: dict[str, object], words: str) -> None:
    call = {"vertices": square(0.05, 0.0)[None], "faces": SQUARE, "camera": FRONT, "size": 8, **arguments}
    with pytest.raises(CopoError) as caught:
        render_mesh(**call)  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- heads ------------------------------------------------------------------------------------------------------


def draw(head: HeadModel, camera: Camera, light: Tensor, frame: str = "world", size: int = 24) -> MeshRender:
    zeros = [torch.zeros(1, n, dtype=torch.float64) for n in (2, 3, 2)]
    return render_head(head, *zeros, light.double(), double(camera), size, frame=frame)  # type: ignore[arg-type]


def test_a_head_is_albedo_times_shading() -> None:
    head = LinearHead()
    assert isinstance(head, HeadModel)
    light = directional_light(torch.tensor([0.5, 0.5, 1.0]), ambient=0.3)[None]
    render = draw(head, FRONT, light, size=64)
    expected = 0.5 * sh_shading(render.normals.flatten(2).mT, light.double()).mT.view(1, 3, 64, 64)
    mask = render.mask.expand(-1, 3, -1, -1)
    # Shading is done at the corners of a coarse sphere: inside its triangles that differs a little.
    assert (render.colour - expected)[mask].abs().max() < 0.06
    assert render.labels is not None and set(render.labels.unique().tolist()) == {0, 1, 2}


def test_light_of_the_world_stays_with_the_head() -> None:
    head = LinearHead()
    light = directional_light(torch.tensor([1.0, 0.0, 0.0]))[None]
    # From the right side the camera looks at the lit half, from the left side at the dark one.
    right, left = (draw(head, Camera.from_degrees(yaw=yaw), light).colour.mean() for yaw in (90, -90))
    assert right > 5 * left.abs()


def test_light_of_the_camera_turns_with_it() -> None:
    head = LinearHead()
    light = directional_light(torch.tensor([0.6, 0.3, 1.0]))[None]
    camera = Camera.from_degrees(yaw=70, pitch=25)
    axes = camera.cam2world[:, :3, :3] * torch.tensor([1.0, -1.0, -1.0])  # picture frame (y up) -> world
    same = draw(head, camera, rotate_illumination(light, axes))
    torch.testing.assert_close(draw(head, camera, light, frame="camera").colour, same.colour, atol=1e-6, rtol=0)
    frontal = draw(head, FRONT, light, frame="camera").colour
    torch.testing.assert_close(frontal, draw(head, FRONT, light).colour, atol=1e-6, rtol=0)


def test_gradients_of_a_head_match_finite_differences() -> None:
    head = LinearHead()
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(3, 12, 12, dtype=torch.float64, generator=generator)
    inputs = [
        (0.1 * torch.randn(1, n, dtype=torch.float64, generator=generator)).requires_grad_() for n in (2, 3, 2, 27)
    ]

    def picture(shape: Tensor, expression: Tensor, albedo: Tensor, light: Tensor) -> Tensor:
        render = render_head(head, shape, expression, albedo, light, double(FRONT), 12)
        return ((render.colour + render.depth + render.normals) * weights).sum()

    assert torch.autograd.gradcheck(picture, inputs, eps=1e-7, atol=1e-4)


def test_gradients_in_the_camera_match_finite_differences() -> None:
    vertices, faces = sphere(subdivisions=1)
    place = vertices.double()
    base = double(Camera.from_degrees(yaw=15, pitch=5))
    weights = torch.randn(4, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def picture(shift: Tensor, focal: Tensor) -> Tensor:
        move = torch.nn.functional.pad(shift[:, None], (3, 0, 0, 1))
        camera = Camera(base.cam2world + move, base.intrinsics * focal)
        render = render_mesh(place[None], faces, camera, 12, attributes={"place": place})
        return (torch.cat([render.attributes["place"], render.depth], dim=1) * weights).sum()

    start = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.ones(3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(picture, (start[0], start[1].requires_grad_()), eps=1e-7, atol=1e-4)


# --- optical flow -----------------------------------------------------------------------------------------------


def test_no_motion_has_no_flow() -> None:
    vertices, faces = sphere()
    flow = optical_flow(vertices[None], vertices[None], faces, FRONT, FRONT, 64)
    assert flow.flow.abs().max() < 1e-3
    assert torch.equal(flow.visible, flow.mask)


def test_flow_of_a_moved_square_is_its_projected_motion() -> None:
    a, b = square(0.04, 0.0)[None], square(0.04, 0.0, x=0.01, y=-0.02)[None]
    flow = optical_flow(a, b, SQUARE, FRONT, FRONT, 64)
    pixels_per_metre = 32 / math.tan(math.radians(6.3))
    expected = torch.tensor([0.01, 0.02]) * pixels_per_metre  # y down
    torch.testing.assert_close(flow.flow.movedim(1, -1)[flow.mask[:, 0]].mean(0), expected, atol=1e-3, rtol=0)
    # All of it stays visible, but for borders that land nearer to a pixel that the mesh does not cover.
    inner = -torch.nn.functional.max_pool2d(-flow.mask.float(), 3, stride=1, padding=1) > 0
    assert inner.any() and flow.visible[inner].all() and not (flow.visible & ~flow.mask).any()


def test_points_that_leave_the_picture_are_not_visible() -> None:
    a, b = square(0.04, 0.0)[None], square(0.04, 0.0, x=0.1)[None]
    flow = optical_flow(a, b, SQUARE, FRONT, FRONT, 64)
    columns = torch.arange(64).expand(64, 64)[None, None] + 0.5
    stays = flow.mask & (columns + 0.1 * 32 / math.tan(math.radians(6.3)) < 64)
    assert flow.visible.any() and not (flow.visible & ~stays).any()
    inner = -torch.nn.functional.max_pool2d(-flow.mask.float(), 3, stride=1, padding=1) > 0
    assert flow.visible[stays & inner].all()
    assert flow.flow[(flow.mask & ~stays).expand(-1, 2, -1, -1)].abs().sum() == 0


def test_occluded_points_are_not_visible() -> None:
    # A small square stands 1 cm before a large one and moves 2 cm to the right.
    faces = torch.cat([SQUARE, SQUARE + 4])
    a = torch.cat([square(0.06, 0.0), square(0.02, 0.01)])[None]
    b = torch.cat([square(0.06, 0.0), square(0.02, 0.01, x=0.02)])[None]
    flow = optical_flow(a, b, faces, FRONT, FRONT, 128)
    scale = 64 / math.tan(math.radians(6.3))
    row, column = torch.meshgrid(torch.arange(128) + 0.5 - 64, torch.arange(128) + 0.5 - 64, indexing="ij")
    near = scale / 0.99  # pixels per metre at depth 0.99
    in_rows = row.abs() < 0.02 * near
    small_a = in_rows & (column.abs() < 0.02 * near)
    small_b = in_rows & ((column - 0.02 * near).abs() < 0.02 * near)
    large = (row.abs() < 0.06 * scale) & (column.abs() < 0.06 * scale)
    assert torch.equal(flow.mask[0, 0], large)
    assert torch.equal(flow.visible[0, 0], large & (small_a | ~small_b))
    torch.testing.assert_close(flow.flow[0, 0][small_a].mean(), torch.tensor(0.02 * near), atol=1e-3, rtol=0)


def test_points_that_turn_away_are_not_visible() -> None:
    # From x = 1 the sphere is seen where x > 0.08^2 = 0.0064; near that line it is thinner than a pixel of 2.3 mm.
    vertices, faces = sphere()
    flow = optical_flow(vertices[None], vertices[None], faces, FRONT, Camera.from_degrees(yaw=90), 96)
    place = render_mesh(vertices[None], faces, FRONT, 96, attributes={"place": vertices}).attributes["place"]
    assert flow.visible[flow.mask & (place[:, :1] > 0.03)].all()
    assert not flow.visible[flow.mask & (place[:, :1] < 0.005)].any()


def test_flow_lands_on_the_same_point_of_the_surface() -> None:
    """Across a large turn of a rough sphere: what is seen at the landing place is the point that set out."""
    vertices, faces = sphere()
    rough = vertices * (1 + 0.1 * torch.sin(60 * vertices).prod(dim=1, keepdim=True))
    camera = Camera.from_degrees(yaw=40, pitch=-15)
    flow = optical_flow(rough[None], rough[None], faces, FRONT, camera, 160)
    place_a, place_b = (
        render_mesh(
            rough[None], faces, c, 160, attributes={"place": rough, "one": torch.ones(len(rough), 1)}
        ).attributes
        for c in (FRONT, camera)
    )
    row, column = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    landing = (torch.stack([column, row], dim=-1)[None] + flow.flow.movedim(1, -1)) / 80 - 1
    seen, share = (
        torch.nn.functional.grid_sample(place_b[name], landing, align_corners=False) for name in ("place", "one")
    )
    assert 0.3 < float(flow.visible.sum() / flow.mask.sum()) < 0.95
    # Read between four pixels (1.4 mm apart) that all show the surface.
    error = (seen - place_a["place"]).norm(dim=1)[(flow.visible & (share > 0.999))[:, 0]]
    assert error.median() < 2e-4 and error.quantile(0.99) < 2e-3


def test_flow_is_differentiable_in_the_target() -> None:
    a = square(0.04, 0.0)[None].double()
    b = square(0.04, 0.0, x=0.003)[None].double().requires_grad_()

    def total(target: Tensor) -> Tensor:
        return optical_flow(a, target, SQUARE, double(FRONT), double(FRONT), 16).flow.sum((2, 3))

    assert torch.autograd.gradcheck(total, (b,), eps=1e-6, atol=1e-3)
