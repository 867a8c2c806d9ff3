from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.field.scenes import CONFIG, HAIR, head_decoder, head_planes
from torch import Tensor

from copo.camera import Camera
from copo.config import PRESETS
from copo.errors import CopoError
from copo.field.blending import Blend
from copo.field.composite import RayOutput
from copo.field.portrait_field import PortraitField, PortraitPlanes, Reference, add_background, sampling_of
from copo.networks.generator import Generator


@pytest.fixture(scope="module")
def tiny() -> PortraitField:
    torch.manual_seed(0)
    return PortraitField(Generator(PRESETS["tiny"]).eval().requires_grad_(False))


def latent(field: PortraitField, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, field.config.latent, generator=torch.Generator().manual_seed(seed))


def test_shapes_of_a_frame(tiny: PortraitField) -> None:
    frame = tiny.render(tiny.planes(latent(tiny, 2)), Camera.from_degrees(), normals=True)
    config = tiny.config
    raw, classes = config.raw_resolution, config.class_count
    assert frame.image.shape == (2, 3, config.output_resolution, config.output_resolution)
    assert frame.raw.shape == frame.normals.shape == (2, 3, raw, raw)
    assert frame.features.shape == (2, config.feature_channels, raw, raw)
    assert frame.depth.shape == frame.alpha.shape == (2, raw, raw)
    assert frame.classes.shape == (2, classes, raw, raw)
    torch.testing.assert_close(frame.classes.sum(1), torch.ones(2, raw, raw), atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.normals.norm(dim=1), torch.ones(2, raw, raw))


def test_same_latent_same_picture(tiny: PortraitField) -> None:
    first, second = (tiny.render(tiny.planes(latent(tiny)), Camera.from_degrees(20)).image for _ in range(2))
    assert torch.equal(first, second)


def test_one_portrait_many_cameras_and_the_reverse(tiny: PortraitField) -> None:
    cameras = Camera.cat([Camera.from_degrees(-20), Camera.from_degrees(20, 10)])
    portraits = tiny.planes(latent(tiny, 2))
    orbit = tiny.render(portraits[0], cameras)
    torch.testing.assert_close(orbit.image[1:], tiny.render(portraits[0], cameras[1]).image, atol=1e-4, rtol=1e-4)
    people = tiny.render(portraits, cameras[0])
    torch.testing.assert_close(people.image[1:], tiny.render(portraits[1], cameras[0]).image, atol=1e-4, rtol=1e-4)


def test_depth_is_along_the_viewing_axis() -> None:
    """A ray that leaves the volume at 1.12 m ends nearer than that, measured along the axis, towards the edges."""
    generator = Generator(replace(CONFIG, raw_resolution=8, output_resolution=32, background_channels=())).eval()
    generator.decoder.load_state_dict(head_decoder().state_dict())
    field = PortraitField(generator, replace(sampling_of(generator.config), opaque_end=False))
    with torch.no_grad():
        portrait = PortraitPlanes(head_planes(), torch.zeros(1, generator.config.ws_count, 32), None)
        depth = field.render(portrait, Camera.from_degrees()).depth[0]
    corner = 1.12 / math.sqrt(1 + 2 * math.tan(math.radians(6.3)) ** 2)  # the published grid has rays on the corners
    assert abs(float(depth[0, 0]) - corner) < 1e-3
    assert abs(float(depth[3:5, 3:5].mean()) - (1 - 0.085)) < 0.004


def test_background_lies_behind_what_light_passes() -> None:
    out = RayOutput(
        features=torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]]),
        depth=torch.ones(1, 2),
        alpha=torch.tensor([[0.75, 0.0]]),
        classes=torch.tensor([[[0.25, 0.5], [0.0, 0.0]]]),
    )
    background = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    features, classes = add_background(out, background, (1, 2), opaque_end=False)
    torch.testing.assert_close(features[0, :, 0], torch.tensor([[0.75, 1.0], [0.5, 2.0], [1.0, 4.0]]))
    torch.testing.assert_close(classes[0, :, 0], torch.tensor([[0.5, 1.0], [0.5, 0.0]]))


def test_background_follows_the_noise_alone(tiny: PortraitField) -> None:
    z = latent(tiny)
    other = latent(tiny, seed=1)
    other[:, : tiny.config.noise] = z[:, : tiny.config.noise]
    background, same = tiny.planes(z).background, tiny.planes(other).background
    assert background is not None and same is not None and torch.equal(background, same)


def test_neutral_keeps_all_but_the_expression(tiny: PortraitField) -> None:
    z = latent(tiny)
    c = tiny.config
    start = c.noise + c.shape + c.albedo
    neutral = tiny.neutral(z)
    assert (neutral[:, start : start + c.expression] == 0).all()
    assert torch.equal(neutral[:, :start], z[:, :start])
    assert torch.equal(neutral[:, start + c.expression :], z[:, start + c.expression :])


# --- stillness of the final picture ---------------------------------------------------------------------------------

RAW, OUTPUT = 24, 96
REACH = 4
"""Pixels of the raw picture that super-resolution looks around itself: 3 x 3 convolutions and filters at 1, 2, 4 times
the raw size reach fewer than 4."""


class Film:
    """The analytic head with random super-resolution; portraits differ in expression, texture and w."""

    def __init__(self, sr_styles: bool) -> None:
        torch.manual_seed(3)
        config = replace(
            CONFIG, raw_resolution=RAW, output_resolution=OUTPUT, sr_styles=sr_styles, sr_channels=(16, 16)
        )
        generator = Generator(config).eval().requires_grad_(False)
        generator.decoder.load_state_dict(head_decoder().state_dict())
        self.field = PortraitField(generator, replace(sampling_of(config), coarse=24, fine=24))
        self.camera = Camera.from_degrees(20, 5)

    def portrait(self, mouth: float, shift: float, seed: int) -> PortraitPlanes:
        ws = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(seed))
        return PortraitPlanes(
            head_planes(mouth, shift, resolution=64), ws.expand(1, self.field.config.ws_count, -1), None
        )


@pytest.fixture(scope="module", params=[True, False], ids=["styled", "plain"])
def film(request: pytest.FixtureRequest) -> Film:
    return Film(request.param)


@pytest.mark.parametrize(("mouth", "shift", "seed"), [(0.0, 1.0, 1), (0.03, 0.5, 2), (0.01, 2.5, 3)])
def test_the_final_picture_is_still_away_from_what_moves(film: Film, mouth: float, shift: float, seed: int) -> None:
    reference = Reference(film.portrait(0, 0, 0))
    blend = Blend.of("both")
    first = film.field.render(reference.planes, film.camera)
    frame = film.field.render(film.portrait(mouth, shift, seed), film.camera, blend=blend, reference=reference)
    moved = (frame.features != first.features).any(1).float()
    assert 0.05 < moved.mean() < 0.6
    near = torch.nn.functional.max_pool2d(moved[:, None], 2 * REACH + 1, stride=1, padding=REACH)
    still = torch.nn.functional.interpolate(near, scale_factor=OUTPUT // RAW)[0, 0] == 0
    assert still.float().mean() > 0.08
    assert torch.equal(frame.image[0, :, still], first.image[0, :, still])


def test_styles_of_the_dynamic_frame_would_move_everything() -> None:
    """Why blending takes the reference's styles: with the published choice no pixel stays what it was."""
    film = Film(sr_styles=True)
    reference, moving = Reference(film.portrait(0, 0, 0)), film.portrait(0.02, 1.0, 7)
    first = film.field.render(reference.planes, film.camera).image
    blend = Blend.of("both")
    still = film.field.render(moving, film.camera, blend=blend, reference=reference).image
    drifting = film.field.render(moving, film.camera, blend=replace(blend, styles="dynamic"), reference=reference).image
    assert (still == first).all(1).float().mean() > 0.2
    assert (drifting == first).all(1).float().mean() < 0.01


def test_a_reference_remembers_its_camera_and_notices_another() -> None:
    film = Film(sr_styles=False)
    blend, moving = Blend.of("both"), film.portrait(0.02, 1.0, 7)
    reference = Reference(film.portrait(0, 0, 0))
    for camera in (film.camera, Camera.from_degrees(-30), film.camera, film.camera):
        remembering = film.field.render(moving, camera, blend=blend, reference=reference)
        fresh = film.field.render(moving, camera, blend=blend, reference=Reference(reference.planes))
        assert torch.equal(remembering.image, fresh.image)
    soft = film.field.render(moving, film.camera, blend=Blend.of("hair", "soft"), reference=reference)
    fresh = film.field.render(
        moving, film.camera, blend=Blend.of("hair", "soft"), reference=Reference(reference.planes)
    )
    assert torch.equal(soft.image, fresh.image)


def test_hair_is_labelled_hair() -> None:
    film = Film(sr_styles=False)
    frame = film.field.render(film.portrait(0, 0, 0), film.camera)
    label = frame.classes[0].argmax(0)
    assert label[6, 12] == HAIR and label[15, 12] == 1 and label[0, 0] == 0


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_latents_are_refused(tiny: PortraitField) -> None:
    z = latent(tiny, 3)
    for value in (math.nan, math.inf):
        bad = z.clone()
        bad[1, 2] = value
        with pytest.raises(CopoError, match="row 1"):
            tiny.planes(bad)
    with pytest.raises(CopoError, match=r"\(3, 19\).*expects"):
        tiny.planes(z[:, :19])


def test_bad_cameras_are_refused(tiny: PortraitField) -> None:
    portrait = tiny.planes(latent(tiny))
    for position in ((0.0, 0.0, 0.1), (0.0, 0.05, 0.0), (0.15, 0.0, 0.15)):
        with pytest.raises(CopoError, match="camera 0 stands inside the head"):
            tiny.render(portrait, Camera.look_at(position, (0.0, 0.0, 1.0)))
    behind = Camera.look_at((0.0, 0.0, 1.0), (0.0, 0.0, 2.0))
    with pytest.raises(CopoError, match="camera 1 looks away"):
        tiny.render(portrait, Camera.cat([Camera.from_degrees(), behind]))
    with pytest.raises(CopoError, match="looks away"):
        tiny.render(portrait, Camera.look_at((0.0, 0.0, 1.0), (1.0, 0.0, 0.5)))


@settings(max_examples=20, deadline=None)
@given(st.floats(-180, 180), st.floats(-80, 80), st.floats(0.4, 20), st.floats(1, 100))
def test_cameras_that_look_at_the_head_are_accepted(
    tiny: PortraitField, yaw: float, pitch: float, radius: float, fov: float
) -> None:
    frame = tiny.render(tiny.planes(latent(tiny)), Camera.from_degrees(yaw, pitch, fov, radius))
    assert torch.isfinite(frame.image).all()


def test_other_bad_requests(tiny: PortraitField) -> None:
    portrait = tiny.planes(latent(tiny, 2))
    with pytest.raises(CopoError, match="has no pixels"):
        tiny.render(portrait, Camera.from_degrees(), size=0)
    with pytest.raises(CopoError, match="2 portraits"):
        tiny.render(portrait, Camera.cat([Camera.from_degrees()] * 3))
    with pytest.raises(CopoError, match="reference"):
        tiny.render(portrait, Camera.from_degrees(), blend=Blend.of("hair"))
