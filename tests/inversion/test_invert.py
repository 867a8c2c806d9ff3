from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.inversion.samples import generator, photographs, spec

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.portrait_field import PortraitField
from copo.formats.pictures import to_uint8
from copo.inversion.config import InversionConfig, TuningStage, inversion_config
from copo.inversion.controls import KINDS, Controls, draw_edit, measure
from copo.inversion.invert import Inverter, ramp
from copo.inversion.low_rank import Changes
from copo.networks.personal import personal, tunable
from copo.training.perception import Perception
from copo.vision.efficientnet import ImageFeatures


def short(steps: int = 25, **changes: object) -> InversionConfig:
    """A few steps of each stage."""
    c = inversion_config("fast", math.inf)
    c = replace(
        c,
        code=replace(c.code, candidates=3, steps=steps),
        latent=replace(c.latent, steps=steps),
        tuning=replace(c.tuning, steps=steps),
    )
    return replace(c, **changes)  # type: ignore[arg-type]


def perception() -> Perception:
    try:
        return Perception(features=ImageFeatures.load())
    except CopoError:
        return Perception()


def test_each_stage_comes_nearer_and_the_file_is_what_was_measured() -> None:
    network = generator()
    done = Inverter(network, photographs(), perception(), short()).run()
    assert [stage.name for stage in done.stages] == ["code", "latents", "tuning"]
    errors = [stage.errors[0].difference for stage in done.stages]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.6 * errors[0]
    # the last picture is what the portrait file makes
    made = PortraitField(personal(network, done.portrait), PortraitField(network).sampling.fast())
    with torch.no_grad():
        again = made.render(made.planes(done.portrait.person.to_vector()), done.portrait.camera).image
    assert (to_uint8(again).astype(int) == done.stages[-1].pictures).all()
    assert done.portrait.report["stages"][2]["errors"][0]["difference"] == round(errors[2], 5)


def test_photographs_of_one_person_share_who_it_is_but_not_the_expression() -> None:
    done = Inverter(generator(), photographs(2), Perception(), short(8, at_once=1)).run()
    factors = done.portrait.factors
    assert len(factors) == 2 and len(done.stages[-1].errors) == 2
    for name in ("shape", "albedo", "noise"):
        assert torch.equal(getattr(factors, name)[0], getattr(factors, name)[1])
    assert not torch.equal(factors.expression[0], factors.expression[1])
    low, high = spec().expression_range
    assert factors.expression.min() >= low and factors.expression.max() <= high


def test_the_same_seed_gives_the_same_portrait() -> None:
    one, two = (Inverter(generator(), photographs(), Perception(), short(4)).run().portrait for _ in range(2))
    assert torch.equal(one.factors.noise, two.factors.noise)
    for name, delta in one.weights.items():
        like = dict(generator().named_parameters())[name]
        assert torch.equal(delta.to(like), two.weights[name].to(like))


def test_time_that_is_over_ends_a_stage() -> None:
    done = Inverter(generator(), photographs(), Perception(), short(10_000, seconds=0.3)).run()
    assert all(stage.steps < 10_000 for stage in done.stages)


def test_controls_are_better_kept_with_the_comparison_than_without() -> None:
    free = replace(short(25).tuning, depth=0.0, classes=0.0, opacity=0.0, change=0.0)
    held = replace(short(25).tuning, depth=200.0, classes=10.0, opacity=10.0, change=10.0, every=1)
    kept = [
        Inverter(generator(), photographs(), Perception(), short(25, tuning=tuning)).run().kept
        for tuning in (free, held)
    ]
    assert kept[1].depth < kept[0].depth
    assert kept[1].change > kept[0].change


def test_an_unchanged_generator_keeps_everything() -> None:
    field = PortraitField(generator())
    kept = measure(field, field, photographs().factors, photographs().camera, TuningStage(), 0)
    assert kept.depth == 0 and kept.change == pytest.approx(1, abs=1e-6)
    controls = Controls(field, TuningStage())
    edit = draw_edit(photographs().factors, photographs().camera, "expression", TuningStage(), torch.Generator())
    frame = controls.answer(edit.factors, edit.camera)
    terms = controls.losses(edit, frame, frame, frame.image, frame.image)
    assert set(terms) == {"keep_depth", "keep_opacity", "keep_classes", "keep_change"}
    assert all(float(v) == 0 for v in terms.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_one_factor(kind: str) -> None:
    person, camera = Factors.random(spec(), [2], torch.linspace(-1, 1, 27)), Camera.from_degrees(3)
    edit = draw_edit(person, camera, kind, TuningStage(), torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    changed = {n for n in ("shape", "albedo", "expression", "illumination", "noise")
               if not torch.equal(getattr(edit.factors, n), getattr(person, n))}  # fmt: skip
    expected = {"pose": set(), "identity": {"shape", "albedo"}}.get(kind, {kind})
    assert changed == expected
    assert torch.equal(edit.camera.cam2world, camera.cam2world) == (kind != "pose")


def test_changes_start_at_nothing_and_large_layers_change_by_thin_products() -> None:
    import copy

    network = copy.deepcopy(generator())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    changes = Changes(network, list(tunable(network)), rank=2)
    assert all(float(d.to(before[n]).abs().max()) == 0 for n, d in changes.deltas().items())
    convolution, bias = changes.deltas()["synthesis.blocks.1.conv1.weight"], changes.deltas()["decoder.hidden.bias"]
    assert convolution.left is not None and convolution.left.shape[1] == 2 and bias.full is not None
    changes.close(keep=False)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_rates_rise_and_fall() -> None:
    assert ramp(0) == 0.05 and ramp(0.05) == ramp(0.6) == 1
    assert ramp(0.8) == pytest.approx(0.5) and ramp(1) == pytest.approx(0)


def test_photographs_of_another_size_are_refused() -> None:
    photos = photographs()
    small = replace(photos, pictures=photos.pictures[..., :16, :16])
    with pytest.raises(CopoError, match="16 px wide, the model draws 32 px"):
        Inverter(generator(), small, Perception(), short())
    with pytest.raises(CopoError, match="--seconds 0"):
        inversion_config("full", 0)
