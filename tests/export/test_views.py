"""Colours from pictures of several sides: real renderings of the head give its own skin back."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from copo.camera import Camera
from copo.errors import CopoError
from copo.export.heads import blendshape_head
from copo.export.views import View, bake_views, check_layout, gather, layout, vertex_normals, with_substitute
from copo.factors import ARKIT_NAMES, Factors
from copo.head.open_head import OpenHead
from copo.head.protocol import PARSER_CLASSES
from copo.head.raster import interpolate
from copo.head.renderer import RasterConfig, render_head
from copo.portrait import Portrait

torch.set_num_threads(1)
HAIR = PARSER_CLASSES.index("hair")


@cache
def seen() -> tuple[OpenHead, Factors, list[View]]:
    """A person's head from the front and from both sides, and a flat-lit picture of its albedo."""
    head = OpenHead.load()
    person = Factors.random(head.spec, 3)
    views = []
    for yaw in (0, -50, 50):
        camera = Camera.from_degrees(yaw, 0, fov=16)
        picture = render_head(
            head, person.shape, person.expression, person.albedo, person.illumination, camera, 160,
            config=RasterConfig(supersample=1),
        )  # fmt: skip
        assert picture.labels is not None
        views.append(View(camera, picture.over(1.0)[0], picture.depth[0, 0], picture.labels[0]))
    return head, person, views


def flat() -> View:
    """A picture one metre before the origin whose red rises to the right and whose green rises downwards."""
    side = torch.linspace(0.5 / 64, 1 - 0.5 / 64, 64)
    image = torch.stack([side.expand(64, 64), side[:, None].expand(64, 64), torch.full((64, 64), 0.5)])
    return View(Camera.from_degrees(), image, torch.full((32, 32), 1.0), torch.ones(32, 32, dtype=torch.long))


def test_a_point_gets_the_colour_of_its_pixel() -> None:
    view = flat()
    points = torch.tensor([[0.0, 0, 0], [0.05, 0, 0], [0, 0.05, 0], [0, 0, -0.05], [0.5, 0, 0], [0, 0, 0]])
    front = torch.tensor([[0.0, 0, 1]]).repeat(6, 1)
    front[5, 2] = -1  # turned away
    colors, weight = gather([view], points, front)
    place, _ = view.camera.project(points[None])
    assert torch.allclose(colors[:3, :2], place[0, :3], atol=1e-3) and torch.allclose(colors[:3, 2], torch.tensor(0.5))
    assert (weight[:3] > 0.9).all()
    assert weight[3] == 0, "behind the surface"
    assert weight[4] == 0 and weight[5] == 0, "outside the picture; turned away"


def test_hair_is_not_taken_for_skin() -> None:
    view = flat()
    hairy = View(view.camera, view.image, view.depth, torch.full((32, 32), HAIR))
    point, front = torch.zeros(2, 3), torch.tensor([[0.0, 0, 1]]).repeat(2, 1)
    _, weight = gather([hairy], point, front, is_skin=torch.tensor([True, False]))
    assert weight[0] == 0 and weight[1] > 0.9


def test_the_substitute_is_fitted() -> None:
    colors = torch.tensor([[0.2, 0.4, 0.6], [0.0, 0, 0]])
    own = torch.tensor([[0.4, 0.4, 0.4], [0.2, 0.2, 0.2]])
    mixed = with_substitute(colors, torch.tensor([1e6, 0.0]), own, torch.tensor([True, True]))
    assert torch.allclose(mixed, torch.tensor([[0.2, 0.4, 0.6], [0.1, 0.2, 0.3]]), atol=1e-4)
    nothing = with_substitute(colors, torch.zeros(2), own, torch.tensor([True, True]))
    assert torch.allclose(nothing, own)


def test_renderings_give_the_skin_back() -> None:
    head, person, views = seen()
    size = 256
    baked = bake_views(head, person, views, size).float() / 255
    fragments = layout(head, size)
    faces = head.topology.faces
    albedo = head.albedo(person.albedo)[0]
    wanted = interpolate(albedo, faces, fragments)[0].movedim(0, -1)
    vertices = head.vertices(person.shape, person.expression)[0]
    normals = interpolate(vertex_normals(vertices, faces), faces, fragments)[0].movedim(0, -1)
    places = interpolate(vertices, faces, fragments)[0].movedim(0, -1)
    skin = head.topology.labels[faces[fragments.face[0]]][..., 0] == PARSER_CLASSES.index("skin")
    cheeks = (fragments.face[0] >= 0) & skin & (normals[..., 2] > 0.5) & (places[..., 2] > 0.03)
    assert cheeks.sum() > 60
    ratio = baked[cheeks] / wanted[cheeks].clamp_min(0.02)  # the light of zeros scales all colours alike
    assert float(ratio.std(0).max()) < 0.12 * float(ratio.mean())
    assert baked.shape == (size, size, 3) and float(baked.min(-1).values.max()) > 0


def test_heads_with_blendshapes() -> None:
    model = Portrait.random("tiny", seed=1)
    person = model.sample(seed=3).with_expression(jawOpen=0.5)
    mesh = blendshape_head(model, person, texture=0, from_pictures=False)
    assert tuple(mesh.morphs) == ARKIT_NAMES and mesh.weights["jawOpen"] == 0.5 and mesh.weights["mouthLeft"] == 0
    moved = mesh.vertices + 0.5 * mesh.morphs["jawOpen"]
    wanted = model.head_mesh(person).vertices
    assert abs(moved - wanted).max() < 1e-6
    painted = blendshape_head(model, person, texture=64)
    assert painted.texture is not None and painted.texture.shape == (64, 64, 3) and painted.colors is None
    seen_colors = blendshape_head(model, person, texture=0).colors
    assert seen_colors is not None and seen_colors.shape == mesh.vertices.shape


def test_what_cannot_be_baked() -> None:
    head = OpenHead.load()
    with pytest.raises(CopoError, match="16 to 8192"):
        check_layout(head, 8)
