"""Photographs whose answer is known: drawings of the open head, and what the fit makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors, expression_vector
from copo.head.open_head import OpenHead
from copo.head.renderer import render_head
from copo.illumination import directional_light, radiance_from_illumination
from copo.vision.fitting import FittingConfig, HeadFitter, Observation, crop_camera
from copo.vision.fitting.config import AppearanceConfig, GeometryConfig, RefineConfig
from copo.vision.fitting.landmark_model import OVAL

SIZE = 512
BLANK = np.full((SIZE, SIZE, 3), 128, np.uint8)
EXPRESSIONS: list[dict[str, float]] = [
    {},
    {"jawOpen": 0.6},
    {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    {"browInnerUp": 0.9, "mouthPucker": 0.5},
]


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def fitter(head: OpenHead) -> HeadFitter:
    """A fit that trusts its landmarks, which in these tests are exact."""
    return HeadFitter(head, FittingConfig(geometry=replace(GeometryConfig(), independence=50.0, iterations=30)))


def pixels(head: OpenHead, vertices: Tensor, camera: Camera, size: int = SIZE) -> Tensor:
    """(B, 478, 2) where the landmarks fall in a square picture."""
    return camera.project(head.landmarks478(vertices))[0] * size


def cameras(yaw: list[float], pitch: list[float], radius: float = 1.1) -> Camera:
    return Camera.cat([Camera.from_degrees(yaw=y, pitch=p, radius=radius) for y, p in zip(yaw, pitch, strict=True)])


def rotation_error(a: Camera, b: Camera) -> Tensor:
    """(B,) degrees between two orientations."""
    turn = a.cam2world[:, :3, :3].mT @ b.cam2world[:, :3, :3]
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def form(head: OpenHead, shape: Tensor) -> Tensor:
    """(B, 478 x 3) the resting face without its place and size, which a picture does not tell."""
    points = head.landmarks478(head.vertices(shape, torch.zeros(1, head.spec.expression)))
    points = points - points.mean(1, keepdim=True)
    return torch.nn.functional.normalize(points.flatten(1), dim=1)


def seen(points: Tensor, names: list[dict[str, float]] | None = None) -> list[Observation]:
    """Observations of blank pictures: only the landmarks (and scores) count."""
    return [
        Observation(BLANK, p.numpy(), blendshapes=None if names is None else names[i], fov=math.radians(12.6))
        for i, p in enumerate(points)
    ]


@pytest.fixture(scope="module")
def people(head: OpenHead) -> tuple[Factors, Camera, Tensor]:
    """Five people with five expressions before five cameras; their landmarks in pixels."""
    factors = Factors.random(head.spec, [1, 2, 3, 4, 5])
    factors = factors.replace(
        shape=factors.shape * 0.8,
        expression=torch.cat([expression_vector(head.spec, values) for values in EXPRESSIONS]),
    )
    camera = cameras([0, 15, -20, 8, -12], [0, -8, 5, 10, -5])
    return factors, camera, pixels(head, head.vertices(factors.shape, factors.expression), camera)


def test_exact_landmarks_give_camera_expression_and_shape_back(
    head: OpenHead, fitter: HeadFitter, people: tuple[Factors, Camera, Tensor]
) -> None:
    factors, camera, points = people
    fit = fitter.fit(seen(points, EXPRESSIONS))
    assert rotation_error(fit.camera, camera).max() < 1.0
    assert (
        (fit.camera.position.norm(dim=1) / 1.1 - 1).abs() < 0.1
    ).all()  # a large head far away looks like a small one near
    assert (fit.landmark_residual < 0.6).all()
    assert (fit.factors.expression - factors.expression).abs().mean() < 0.02
    assert fit.from_landmarks.all()
    found, true = form(head, fit.factors.shape), form(head, factors.shape)
    assert torch.equal(torch.cdist(found, true).argmin(1), torch.arange(5))


def test_the_fitted_head_covers_the_landmarks(
    head: OpenHead, fitter: HeadFitter, people: tuple[Factors, Camera, Tensor]
) -> None:
    """The camera of the result belongs to the whole picture, so that projected landmarks land on the given ones."""
    fit = fitter.fit(seen(people[2]))
    inner = [i for i in range(478) if i not in OVAL]
    again = pixels(head, head.vertices(fit.factors.shape, fit.factors.expression), fit.camera)
    assert (again - people[2])[:, inner].norm(dim=2).mean() < 1.0


def test_noisy_landmarks(head: OpenHead, people: tuple[Factors, Camera, Tensor]) -> None:
    """Errors of 1% of the inter-ocular distance, as landmarkers make, with the standard configuration."""
    factors, camera, points = people
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(0)) * 1.7
    fit = HeadFitter(head).fit(seen(points + noise, EXPRESSIONS))
    assert rotation_error(fit.camera, camera).median() < 1.5
    assert rotation_error(fit.camera, camera).max() < 2.5
    assert (fit.factors.expression - factors.expression).abs().mean() < 0.03
    assert (fit.factors.expression >= 0).all() and (fit.factors.expression <= 1).all()
    assert (fit.landmark_residual > 0.5).all() and (fit.landmark_residual < 2.5).all()


def test_expressions_are_found_without_scores(
    head: OpenHead, fitter: HeadFitter, people: tuple[Factors, Camera, Tensor]
) -> None:
    fit = fitter.fit(seen(people[2]))
    names = head.spec.expression_names
    for row, wanted in enumerate(EXPRESSIONS):
        for name, value in wanted.items():
            if name in ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "eyeBlinkRight"):
                assert abs(float(fit.factors.expression[row, names.index(name)]) - value) < 0.3, (row, name)


@settings(max_examples=6, deadline=None)
@given(yaw=st.floats(-40, 40), pitch=st.floats(-20, 20), roll=st.floats(-30, 30), scale=st.floats(0.5, 2.0))
def test_any_pose_in_any_picture(
    head: OpenHead, fitter: HeadFitter, yaw: float, pitch: float, roll: float, scale: float
) -> None:
    """A raw picture, the face somewhere in it, turned and scaled: the angles of the head come out."""
    camera = Camera.from_degrees(yaw=yaw, pitch=pitch, radius=1.05)
    points = pixels(head, head.vertices(torch.zeros(1, 80), torch.zeros(1, 52)), camera)[0]
    turn = math.radians(roll)
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * scale
    moved = (points - 256) @ matrix.T + torch.tensor([700.0, 500.0])
    fit = fitter.fit([Observation(np.zeros((1000, 1400, 3), np.uint8), moved.numpy())])
    angles = fit.angles()[0]
    assert abs(float(angles[0]) - yaw) < 2.5
    assert abs(float(angles[1]) - pitch) < 2.5
    assert abs(float(angles[2]) - roll) < 2.5
    place = fit.camera.project(fit.factors.shape.new_zeros(1, 1, 3))[0][0, 0] * torch.tensor([1400.0, 1000.0])
    middle = (camera.project(torch.zeros(1, 1, 3))[0][0, 0] * SIZE - 256) @ matrix.T + torch.tensor([700.0, 500.0])
    assert (place - middle).norm() < 6 * scale


def test_uncertainty_grows_with_noise_and_shrinks_with_photographs(
    head: OpenHead, people: tuple[Factors, Camera, Tensor]
) -> None:
    points = people[2][:1]
    sure = HeadFitter(head, FittingConfig(geometry=replace(GeometryConfig(), sigma=0.01)))
    unsure = HeadFitter(head, FittingConfig(geometry=replace(GeometryConfig(), sigma=0.04)))
    one = seen(points)
    assert unsure.fit(one).shape_sigma.mean() > sure.fit(one).shape_sigma.mean()
    assert unsure.fit(one).rotation_sigma[0] > sure.fit(one).rotation_sigma[0]
    twice = [replace(one[0], identity="a"), replace(one[0], identity="a")]
    shared = sure.fit(twice)
    assert shared.shape_sigma[0].mean() < sure.fit(one).shape_sigma.mean()
    assert (shared.shape_sigma <= 1.0 + 1e-5).all()


def test_photographs_of_one_person_share_and_improve_the_shape(head: OpenHead) -> None:
    person = Factors.random(head.spec, [11, 12, 13])
    rest = torch.zeros(1, 52)
    views = cameras([-35, -12, 12, 35], [0, 8, -8, 0])
    generator = torch.Generator().manual_seed(1)
    fitter = HeadFitter(head)
    alone, together = [], []
    for shape in person.shape:
        points = pixels(head, head.vertices(shape.expand(4, -1), rest), views)
        points = points + torch.randn(points.shape, generator=generator) * 1.7
        items = [replace(item, identity="p") for item in seen(points)]
        true = head.landmarks478(head.vertices(shape[None], rest))
        joint = fitter.fit(items)
        assert torch.equal(joint.factors.shape[0], joint.factors.shape[3])
        single = fitter.fit([replace(item, identity=None) for item in items])
        found = head.landmarks478(head.vertices(single.factors.shape, rest))
        alone.append((found - true).norm(dim=2).mean())
        found = head.landmarks478(head.vertices(joint.factors.shape[:1], rest))
        together.append((found - true).norm(dim=2).mean())
    assert torch.stack(together).mean() < 0.8 * torch.stack(alone).mean()


def test_a_photograph_does_not_depend_on_its_neighbours(head: OpenHead, people: tuple[Factors, Camera, Tensor]) -> None:
    fitter = HeadFitter(head)
    items = seen(people[2])
    whole, alone = fitter.fit(items), fitter.fit(items[1:2])
    torch.testing.assert_close(whole.factors.shape[1:2], alone.factors.shape, atol=2e-2, rtol=0)
    torch.testing.assert_close(whole.camera.cam2world[1:2], alone.camera.cam2world, atol=2e-3, rtol=0)


# --- colours ----------------------------------------------------------------------------------------------------

LAMPS = [(-1.0, 0.3, 0.8), (1.0, 0.3, 0.8), (0.1, 1.0, 0.6)]


@pytest.fixture(scope="module")
def portraits(head: OpenHead) -> tuple[Factors, Camera, list[Observation]]:
    """Three people, from fair to dark, each under a lamp from another side."""
    factors = Factors.random(head.spec, [21, 22, 23])
    albedo = factors.albedo * 0.3
    albedo[:, 0] = torch.tensor([-1.5, 0.5, 2.5])
    light = torch.stack([directional_light(torch.tensor(d), intensity=0.6, ambient=0.5) for d in LAMPS])
    factors = factors.replace(albedo=albedo, illumination=light, shape=factors.shape * 0.6)
    camera = cameras([0, 10, -10], [0, 0, 0])
    drawn = render_head(
        head, factors.shape, factors.expression, factors.albedo, factors.illumination, camera, 224
    ).over(0.5)
    pictures = (drawn.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    points = pixels(head, head.vertices(factors.shape, factors.expression), camera, 224)
    items = [
        Observation(picture, p.numpy(), fov=math.radians(12.6)) for picture, p in zip(pictures, points, strict=True)
    ]
    return factors, camera, items


def test_light_and_skin_are_found(
    head: OpenHead, fitter: HeadFitter, portraits: tuple[Factors, Camera, list[Observation]]
) -> None:
    factors, _, items = portraits
    fit = fitter.fit(items)
    assert (fit.photometric_residual < 0.03).all()
    assert (fit.visible > 0.2).all()
    # band 1 of the radiance points to the lamp: its coefficients 3, 1, 2 go with x, y, z
    found = radiance_from_illumination(fit.factors.illumination).mean(2)[:, [3, 1, 2]]
    true = radiance_from_illumination(factors.illumination).mean(2)[:, [3, 1, 2]]
    assert (torch.cosine_similarity(found, true, dim=1) > 0.9).all()
    skin = head.topology.labels == 1
    error = (head.albedo(fit.factors.albedo) - head.albedo(factors.albedo))[:, skin].mean(1)
    assert error.abs().max() < 0.13  # exposure and tone cannot be told apart by more than their priors
    tone = head.albedo(fit.factors.albedo)[:, skin].mean((1, 2))
    assert tone[0] > tone[1] + 0.1 and tone[1] > tone[2] + 0.1


def test_hair_and_stains_do_not_colour_the_skin(
    fitter: HeadFitter, head: OpenHead, portraits: tuple[Factors, Camera, list[Observation]]
) -> None:
    clean = portraits[2][0]
    painted = clean.picture.copy()
    painted[:92] = (0, 0, 255)  # a blue fringe over the forehead
    hair = np.zeros((56, 56), np.float32)
    hair[:23] = 1
    before = fitter.fit([clean])
    masked = fitter.fit([replace(clean, picture=painted, hair=hair)])
    fooled = fitter.fit([replace(clean, picture=painted)])
    skin = head.topology.labels == 1

    def colour(fit: object) -> Tensor:
        return head.albedo(fit.factors.albedo)[0, skin].mean(0)  # type: ignore[attr-defined]

    assert (colour(masked) - colour(before)).abs().max() < 0.05
    assert masked.visible[0] < before.visible[0]
    assert (colour(fooled) - colour(before)).abs().max() < 0.1  # without the mask the robust weights have to do


def test_refinement_on_the_pixels_lowers_the_colour_difference(
    head: OpenHead, portraits: tuple[Factors, Camera, list[Observation]]
) -> None:
    """From landmarks that are off by 1.5% of the inter-ocular distance and colours after one step."""
    item = portraits[2][1]
    assert item.landmarks is not None
    noise = np.random.default_rng(0).normal(scale=1.2, size=(478, 2))
    item = replace(item, landmarks=item.landmarks + noise)
    colours = AppearanceConfig(iterations=1)
    start, end = (
        HeadFitter(
            head, FittingConfig("high", appearance=colours, refine=replace(RefineConfig(), steps=n, size=96))
        ).fit([item])
        for n in (0, 20)
    )
    assert end.photometric_residual[0] < start.photometric_residual[0]
    assert rotation_error(end.camera, start.camera)[0] < 3
    assert (end.factors.expression >= 0).all()


def test_the_same_numbers_every_time(fitter: HeadFitter, portraits: tuple[Factors, Camera, list[Observation]]) -> None:
    first, second = fitter.fit(portraits[2]), fitter.fit(portraits[2])
    assert torch.equal(first.factors.to_vector(), second.factors.to_vector())
    assert torch.equal(first.camera.cam2world, second.camera.cam2world)


# --- profiles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("view", "yaw"), [("left_profile", 88.0), ("right_profile", -92.0)])
def test_a_profile_is_posed_by_its_outline(head: OpenHead, view: str, yaw: float) -> None:
    """The head of the front photograph, seen from the side, its mask drawn: the pose comes back."""
    shape, rest = Factors.random(head.spec, 31).shape * 0.7, torch.zeros(1, 52)
    vertices = head.vertices(shape, rest)
    front, side = Camera.from_degrees(radius=1.5), Camera.from_degrees(yaw=yaw, pitch=3, radius=1.5)
    zeros = torch.zeros(1, head.spec.albedo), torch.zeros(1, 27)
    mask = render_head(head, shape, rest, *zeros, side, 160).mask[0, 0].float().numpy()
    fov = math.radians(12.6)
    known = Observation(BLANK, pixels(head, vertices, front)[0].numpy(), identity="p", view="front", fov=fov)
    profile = Observation(BLANK, None, person=mask, identity="p", view=view, fov=fov)  # type: ignore[arg-type]
    fit = HeadFitter(head).fit([profile, known])
    assert fit.from_landmarks.tolist() == [False, True]
    assert abs(float(fit.angles()[0, 0]) - yaw) < 6
    assert torch.equal(fit.factors.expression[0], fit.factors.expression[1])
    assert torch.equal(fit.factors.shape[0], fit.factors.shape[1])
    nose = pixels(head, vertices, side)[0, 1]
    found = pixels(head, head.vertices(fit.factors.shape[:1], rest), fit.camera[0])[0, 1]
    assert (nose - found).norm() < 8
    assert fit.landmark_residual[0] < 4


def test_landmarks_of_a_known_profile_give_way_to_its_outline(head: OpenHead) -> None:
    shape, rest = torch.zeros(1, 80), torch.zeros(1, 52)
    points = pixels(head, head.vertices(shape, rest), Camera.from_degrees(radius=1.5))[0].numpy()
    side = Camera.from_degrees(yaw=90, radius=1.5)
    zeros = torch.zeros(1, head.spec.albedo), torch.zeros(1, 27)
    mask = render_head(head, shape, rest, *zeros, side, 128).mask[0, 0].float().numpy()
    known = Observation(BLANK, points, identity="p", view="front")
    guess = Observation(BLANK, points, person=mask, identity="p", view="left_profile")
    assert HeadFitter(head).fit([known, guess]).from_landmarks.tolist() == [True, False]
    assert HeadFitter(head).fit([replace(guess, identity="q")]).from_landmarks.tolist() == [True]


# --- cameras of crops -------------------------------------------------------------------------------------------


def test_the_camera_of_a_rotated_crop() -> None:
    """A point's pixel in the crop is the similarity of its pixel in the picture."""
    camera = Camera.from_degrees(yaw=20, pitch=5, radius=1.2)
    camera = Camera(camera.cam2world, camera.intrinsics * torch.tensor([[0.75], [1.0], [1.0]]))  # 400 x 300 pixels
    matrix = torch.tensor([[[1.2, -0.5, 30.0], [0.5, 1.2, -80.0]]])
    points = torch.tensor([[[0.02, 0.01, 0.03], [-0.05, 0.04, 0.0], [0.0, -0.08, 0.02]]])
    before = camera.project(points)[0] * torch.tensor([400.0, 300.0])
    after = crop_camera(camera, 400, 300, matrix, 256).project(points)[0] * 256
    torch.testing.assert_close(after, before @ matrix[0, :, :2].T + matrix[0, :, 2], atol=1e-2, rtol=0)


# --- bad input --------------------------------------------------------------------------------------------------


def some_points(head: OpenHead) -> np.ndarray:
    return pixels(head, head.vertices(torch.zeros(1, 80), torch.zeros(1, 52)), Camera.from_degrees())[0].numpy()


def test_bad_input_is_told_in_one_line(head: OpenHead) -> None:
    fitter, points = HeadFitter(head), some_points(head)
    broken = points.copy()
    broken[3, 1] = np.nan
    good = Observation(BLANK, points)
    cases = [
        ([], "no photographs"),
        ([Observation(BLANK, None)], "photograph 0 has no landmarks"),
        ([good, Observation(BLANK, points[:400])], "photograph 1: landmarks of shape"),
        ([Observation(BLANK, broken)], "NaN"),
        ([Observation(BLANK, points * 0 + 7)], "less than 4 pixels"),
        ([replace(good, blendshapes={"jawOpne": 0.5})], "did you mean 'jawOpen'"),
        ([replace(good, blendshapes={"jawOpen": 1.5})], "from 0 to 1"),
        ([replace(good, hair=np.zeros((2, 2, 3), np.float32))], "hair mask"),
        ([replace(good, fov=0.0)], "field of view"),
        ([replace(good, view="behind")], "view of photograph 0"),  # type: ignore[arg-type]
        ([replace(good, picture=BLANK.astype(np.float32))], "uint8"),
        ([Observation(BLANK, None, view="left_profile", identity="x")], "no other photograph"),
        ([replace(good, identity="x"), Observation(BLANK, None, view="left_profile", identity="x")], "person mask"),
        (
            [
                replace(good, identity="x"),
                Observation(BLANK, None, person=np.zeros((9, 9)), view="left_profile", identity="x"),
            ],
            "no outline",
        ),
        (
            [replace(good, identity="x"), Observation(BLANK, None, person=np.ones((9, 9)), view="front", identity="x")],
            "only profiles",
        ),
        ([good, Observation(BLANK, points[:68])], "68 and with 478"),
    ]
    for items, message in cases:
        with pytest.raises(CopoError) as caught:
            fitter.fit(items)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_68_landmarks_do_as_well(head: OpenHead) -> None:
    vertices = head.vertices(torch.zeros(1, 80), expression_vector(head.spec, {"jawOpen": 0.5}))
    camera = Camera.from_degrees(yaw=12, pitch=-4, radius=1.1)
    points = camera.project(head.landmarks68(vertices))[0][0] * SIZE
    fit = HeadFitter(head).fit([Observation(BLANK, points.numpy(), fov=math.radians(12.6))])
    assert rotation_error(fit.camera, camera)[0] < 2
    assert fit.factors.expression[0, head.spec.expression_names.index("jawOpen")] > 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees(
    head: OpenHead, portraits: tuple[Factors, Camera, list[Observation]]
) -> None:  # pragma: no cover
    here, there = HeadFitter(head).fit(portraits[2]), HeadFitter(head, device="cuda").fit(portraits[2])
    torch.testing.assert_close(there.camera.cam2world.cpu(), here.camera.cam2world, atol=5e-3, rtol=0)
    torch.testing.assert_close(there.factors.expression.cpu(), here.factors.expression, atol=0.05, rtol=0)
    assert head.topology.faces.device.type == "cpu"
