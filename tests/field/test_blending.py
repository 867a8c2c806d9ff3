from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.field import scenes
from tests.field.scenes import BOX, HAIR, head_decoder
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.field.blending import BLEND_MODES, Blend
from copo.field.composite import RayOutput
from copo.field.planes import sample_planes
from copo.field.rays import camera_rays
from copo.field.render import render_rays, render_static
from copo.field.sampling import SamplingConfig

SAMPLING = SamplingConfig(coarse=24, fine=24, opaque_end=False, chunk=100)
EVERYTHING = frozenset(range(19))
DECODER = head_decoder()
head_planes = functools.partial(scenes.head_planes, resolution=64)
STATIC = head_planes()
RAYS = camera_rays(Camera.from_degrees(35, 10), 16)


def render(planes: Tensor, blend: Blend | None = None, still: RayOutput | None = None) -> RayOutput:
    with torch.no_grad():
        return render_rays(planes, DECODER, RAYS, SAMPLING, BOX, blend, STATIC, still, backend="torch")


def equal_rays(a: RayOutput, b: RayOutput) -> Tensor:
    """(R,) whether two renders agree in every bit."""
    same = torch.ones(a.alpha.shape[1], dtype=torch.bool)
    for name in ("features", "classes", "depth", "alpha"):
        difference = getattr(a, name) != getattr(b, name)
        same &= ~(difference if difference.ndim == 2 else difference.any(-1))[0]
    return same


mouths = st.floats(0, 0.03)
shifts = st.floats(0.5, 3)
modes = st.sampled_from(["hard", "soft"])


@settings(max_examples=6, deadline=None)
@given(mouths, shifts, modes)
def test_all_static_is_the_reference_frame(mouth: float, shift: float, mode: str) -> None:
    blend = Blend(EVERYTHING, mode)  # type: ignore[arg-type]
    assert equal_rays(render(head_planes(mouth, shift), blend), render(STATIC)).all()


@settings(max_examples=6, deadline=None)
@given(mouths, shifts, modes)
def test_none_is_the_dynamic_frame(mouth: float, shift: float, mode: str) -> None:
    moving = head_planes(mouth, shift)
    assert equal_rays(render(moving, Blend.of("none", mode)), render(moving)).all()  # type: ignore[arg-type]


@settings(max_examples=6, deadline=None)
@given(mouths, shifts, modes, st.sampled_from(["both", "background", "hair"]))
def test_rays_that_meet_static_matter_only_do_not_move(mouth: float, shift: float, mode: str, name: str) -> None:
    """Which rays those are follows from the static field alone: its classes at the coarse samples confirm it."""
    blend = Blend.of(name, mode)  # type: ignore[arg-type]
    with torch.no_grad():
        reference = render_static(STATIC, DECODER, RAYS, SAMPLING, BOX, blend)
    assert reference.static_share is not None
    static = reference.static_share[0] == 1
    frames = [render(head_planes(m, s), blend) for m, s in ((mouth, shift), (mouth / 2, shift / 2))]
    for frame in frames:
        assert equal_rays(frame, reference)[static].all()
    if name != "hair":  # before hair there is air, which is background
        assert 0.2 < static.float().mean() < 0.9
        depths = torch.linspace(SAMPLING.near, SAMPLING.far, SAMPLING.coarse).expand(1, RAYS.axis_share.shape[1], -1)
        label = DECODER(sample_planes(STATIC, RAYS.at(depths).flatten(1, 2), BOX)).classes.argmax(-1)
        held = torch.isin(label, torch.tensor(sorted(blend.classes))).view(-1, SAMPLING.coarse).all(1)
        assert held[static].all() and (~static)[~held].all()
        moved = ~equal_rays(frames[0], reference)
        assert moved.sum() > 0.5 * (~static).sum()


def test_hair_comes_from_the_reference_and_the_face_does_not() -> None:
    moving = head_planes(shift=1.5)
    held, reference, dynamic = render(moving, Blend.of("both")), render(STATIC), render(moving)
    label = reference.classes[0].argmax(1)
    solid = reference.alpha[0] > 0.99
    hair, face = solid & (reference.classes[0, :, HAIR] > 0.99), solid & (label == 1)
    assert hair.sum() > 10 and face.sum() > 10

    def distance(a: RayOutput, b: RayOutput, where: Tensor) -> float:
        return float((a.features[0, where, :3] - b.features[0, where, :3]).abs().mean())

    assert distance(held, reference, hair) < 1e-3 < 0.1 < distance(held, dynamic, hair)
    assert distance(held, dynamic, face) < 0.02 < 0.1 < distance(held, reference, face)


def test_known_static_frame_changes_nothing() -> None:
    blend, moving = Blend.of("both"), head_planes(0.02, 1.0)
    with torch.no_grad():
        still = render_static(STATIC, DECODER, RAYS, SAMPLING, BOX, blend)
    kept = {name: value.clone() for name, value in vars(still).items() if value is not None}
    assert equal_rays(render(moving, blend, still), render(moving, blend)).all()
    assert all(torch.equal(value, getattr(still, name)) for name, value in kept.items()), "the frame was written to"


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_decoding_only_what_shows_changes_nothing(mode: str) -> None:
    """With gradients both fields are decoded everywhere and no ray is taken over."""
    blend, moving = Blend.of("both", mode), head_planes(0.02, 1.0)  # type: ignore[arg-type]
    quick = render(moving, blend)
    full = render_rays(moving, DECODER, RAYS, SAMPLING, BOX, blend, STATIC, backend="torch")
    for name in ("features", "classes", "depth", "alpha"):
        torch.testing.assert_close(getattr(quick, name), getattr(full, name), atol=2e-4, rtol=1e-4)


def test_portraits_of_a_batch_are_blended_on_their_own() -> None:
    blend, moving = Blend.of("both"), torch.cat([head_planes(0.02, 1.0), head_planes(0.0, 2.0)])
    rays = camera_rays(Camera.cat([Camera.from_degrees(35, 10), Camera.from_degrees(-20)]), 12)
    static = STATIC.expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        both = render_rays(moving, DECODER, rays, SAMPLING, BOX, blend, static, backend="torch")
        for b in range(2):
            part = slice(b, b + 1)
            one = render_rays(moving[part], DECODER, rays[part, :], SAMPLING, BOX, blend, STATIC, backend="torch")
            torch.testing.assert_close(both.features[part], one.features, atol=1e-4, rtol=1e-4)


def test_share_of_known_probabilities() -> None:
    """Hard: the most likely class decides. Soft: smoothstep of hair + background between 1/4 and 3/4."""
    probabilities = torch.full((4, 19), 1e-9)
    for row, (hair, background, skin) in enumerate(
        [(0.4, 0.1, 0.5), (0.5, 0.1, 0.4), (0.2, 0.0, 0.8), (0.7, 0.1, 0.2)]
    ):
        probabilities[row, HAIR], probabilities[row, 0], probabilities[row, 1] = hair, background, skin
    logits = probabilities.log()
    torch.testing.assert_close(Blend.of("both").share(logits), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    x = 0.7  # (0.6 - 0.25) / 0.5
    torch.testing.assert_close(
        Blend.of("both", "soft").share(logits), torch.tensor([0.5, x * x * (3 - 2 * x), 0.0, 1.0]), atol=1e-5, rtol=0
    )


@given(
    st.lists(st.floats(-6, 6), min_size=19, max_size=19), st.floats(-0.3, 0.3), st.integers(0, 18), st.floats(0.1, 1)
)
def test_soft_share_has_no_jumps(values: list[float], change: float, index: int, softness: float) -> None:
    """A probability's slope in a logit is at most 1/4, the smoothstep's at most 3/2 over its width."""
    blend = Blend.of("both", "soft", softness)
    logits = torch.tensor(values)
    changed = logits.clone()
    changed[index] += change
    step = (blend.share(changed) - blend.share(logits)).abs()
    assert step <= 0.25 * 1.5 / softness * abs(change) + 1e-5


def test_names() -> None:
    assert Blend.of("both").classes == BLEND_MODES["both"] == {0, 17}
    assert Blend.of("hair, cloth").classes == {16, 17}
    assert Blend.of(["background", 18]).classes == {0, 18}
    assert Blend.of("none").classes == Blend.of("").classes == frozenset()
    assert Blend.published("hair") == Blend(frozenset({17}), "hard", 0.5, "dynamic", "dynamic", "dynamic")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blend.of("hiar"), "did you mean 'hair'"),
        (lambda: Blend.published("cloth"), "unknown blend mode"),
        (lambda: Blend.of("hair", "sfot"), "did you mean 'soft'"),  # type: ignore[arg-type]
        (lambda: Blend(frozenset({19})), "class 19"),
        (lambda: Blend(frozenset({0}), "soft", 0.0), "softness"),
        (lambda: render_rays(STATIC, DECODER, RAYS, SAMPLING, BOX, Blend.of("hair")), "static_planes"),
    ],
)
def test_bad_requests(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CopoError, match=message):
        make()
