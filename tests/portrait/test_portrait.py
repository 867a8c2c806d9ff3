"""The Portrait object: sampling, pictures, blending, films, shapes, saving and loading, with random weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.samples import ball_head

from copo.camera import Camera
from copo.config import VaeConfig
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.portrait_field import Reference
from copo.formats.checkpoint import Checkpoint, StoredNetwork, save_checkpoint
from copo.formats.pictures import load_image, read_metadata
from copo.formats.recipe import Recipe, read_recipe
from copo.illumination import exposure
from copo.networks.vae import Vae
from copo.portrait import MODEL_VARIABLE, Portrait, find_model, plain_expressions, with_noise

torch.set_num_threads(1)


@cache
def tiny() -> Portrait:
    return Portrait.random("tiny", seed=1)


def vae(coefficients: int, seed: int = 0) -> Vae:
    torch.manual_seed(seed)
    return Vae(VaeConfig(coefficients=coefficients, latent=4, hidden=8, blocks=1, scales=(2.0,))).eval()


# --- factors ----------------------------------------------------------------------------------------------------


def test_a_seed_names_the_same_person_in_any_company() -> None:
    model = tiny()
    alone, among = model.sample(seed=41), model.sample([3, 41, 7])
    assert torch.equal(alone.to_vector(), among[1].to_vector())
    assert not torch.equal(among[0].shape, among[1].shape)


def test_priors_are_used_and_truncated_by_factor() -> None:
    spec = tiny().spec
    prior = vae(spec.expression)
    model = replace(tiny(), priors={"expression": prior})
    full = model.sample([1, 2], psi={"expression": 1.0})
    none = model.sample([1, 2], psi={"expression": 0.0})
    average = prior.sample(torch.zeros(1, 4)).clamp(*spec.expression_range)
    assert torch.allclose(none.expression, average.expand(2, -1), atol=1e-6)
    assert not torch.allclose(full.expression, none.expression)
    assert torch.equal(full.shape, none.shape) and torch.equal(full.noise, none.noise)
    assert full.expression.min() >= 0 and full.expression.max() <= 1


def test_psi_zero_without_priors_is_the_mean_person() -> None:
    factors = tiny().sample(seed=5, psi=0.0)
    assert factors.identity.abs().max() == 0 and factors.noise.abs().max() == 0 and factors.expression.abs().max() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_plain_draws_are_within_their_ranges(seed: int) -> None:
    model = tiny()
    factors = model.sample(seed=seed)
    low, high = model.spec.expression_range
    assert factors.expression.min() >= low and factors.expression.max() <= high
    assert int((factors.expression > 0).sum()) <= 3
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    assert torch.allclose(exposure(factors.illumination) @ weights, torch.ones(1), atol=1e-4)


def test_heads_without_light_or_expressions_have_none() -> None:
    spec = replace(tiny().spec, expression_names=())
    assert plain_expressions(spec, [1, 2]).shape == (2, 0)


@pytest.mark.parametrize(
    ("seeds", "seed", "psi", "said"),
    [
        (None, None, 1.0, "seeds=[...] or seed"),
        ([1], 1, 1.0, "not both"),
        ([], None, 1.0, "no seeds"),
        ([-1], None, 1.0, "negative"),
        ([1], None, 3.0, "psi 3"),
        ([1], None, {"idendity": 0.5}, "identity"),
        ([1], None, float("nan"), "psi nan"),
    ],
)
def test_bad_samples_are_told(seeds: list[int] | None, seed: int | None, psi: object, said: str) -> None:
    with pytest.raises(CopoError, match=said.replace("[", r"\[").replace(".", r"\.")):
        tiny().sample(seeds, seed=seed, psi=psi)  # type: ignore[arg-type]


# --- cameras ----------------------------------------------------------------------------------------------------


def test_cameras_are_walks_around_the_head() -> None:
    model = tiny()
    assert torch.allclose(model.camera(20, 10).cam2world, Camera.from_degrees(20, 10).cam2world, atol=1e-5)
    wide = model.camera(fov=30.0)
    assert torch.allclose(wide.intrinsics, Camera.from_degrees(fov=30).intrinsics, atol=1e-5)
    random = model.sample_cameras([1, 2, 3])
    assert torch.allclose(random.position.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.equal(random[1].cam2world, model.sample_cameras(2).cam2world)


# --- pictures ---------------------------------------------------------------------------------------------------


def test_pictures_and_maps_have_their_shapes() -> None:
    model = tiny()
    picture = model.render(model.sample([1, 2]), maps=("depth", "normals", "semantics", "alpha"))
    assert picture.image.shape == (2, 3, 32, 32) and picture.image.abs().max() <= 1
    assert picture.depth is not None and picture.depth.shape == (2, 8, 8)
    assert picture.normals is not None and picture.normals.shape == (2, 3, 8, 8)
    assert picture.semantics is not None and picture.semantics.dtype == torch.int64
    assert picture.alpha is not None and picture.alpha.min() >= 0 and picture.alpha.max() <= 1 + 1e-6
    for name in ("depth", "normals", "semantics", "alpha"):
        assert picture.map_picture(name, 1).shape == (8, 8, 3)
    assert model.render(model.sample(seed=1)).depth is None


def test_maps_may_be_finer_than_the_picture() -> None:
    model = tiny()
    person = model.sample(seed=1)
    plain = model.render(person)
    fine = model.render(person, maps=("depth", "semantics"), map_rays=32)
    assert fine.depth is not None and fine.depth.shape == (1, 32, 32)
    assert torch.equal(fine.image, plain.image)


def test_one_camera_many_portraits_and_one_portrait_many_cameras() -> None:
    model = tiny()
    people = model.sample([1, 2, 3])
    together = model.render(people)
    for i in range(3):
        assert torch.allclose(together.image[i], model.render(people[i]).image[0], atol=1e-5)
    views = Camera.cat([model.camera(yaw) for yaw in (-20, 20)])
    turned = model.render(people[0], views)
    assert len(turned) == 2 and not torch.allclose(turned.image[0], turned.image[1])
    assert torch.allclose(turned.image[1], model.render(people[0], views[1]).image[0], atol=1e-5)
    with pytest.raises(CopoError, match="2 cameras for 3"):
        model.render(people, views)


def test_batches_do_not_change_pictures() -> None:
    model = tiny()
    people = model.sample([1, 2, 3])
    one, three = model.render(people, batch=1), model.render(people, batch=3)
    assert torch.allclose(one.image, three.image, atol=1e-4)
    blended, again = (model.render(people, blend="both", batch=n) for n in (1, 2))
    assert torch.allclose(blended.image, again.image, atol=1e-4)


def test_size_and_rays() -> None:
    model = tiny()
    person = model.sample(seed=1)
    assert model.render(person, size=48).image.shape[-2:] == (48, 48)
    assert model.render(person, rays=4).image.shape[-2:] == (16, 16)
    assert model.render(person, size=32, rays=4).image.shape[-2:] == (32, 32)


def test_psi_zero_forgets_who_is_asked_for() -> None:
    model = tiny()
    people = model.sample([1, 2])
    planes = model.planes(people, psi=0.0)
    assert torch.allclose(planes.planes[0], planes.planes[1], atol=1e-6)
    assert not torch.allclose(model.planes(people).planes[0], model.planes(people).planes[1])


def test_blending_everything_shows_the_reference() -> None:
    """With every class held still the picture is the reference's own, whatever the expression."""
    model = tiny()
    person = model.sample(seed=4)
    smiling = person.with_expression(smile=1.0, jawOpen=0.5)
    every = ",".join(["background", "skin", "brow_left", "brow_right", "eye_left", "eye_right", "glasses", "ear_left",
                      "ear_right", "earring", "nose", "mouth_interior", "lip_upper", "lip_lower", "neck", "necklace",
                      "cloth", "hair", "hat"])  # fmt: skip
    held = model.render(smiling, blend=every, reference=person)
    assert torch.allclose(held.image, model.render(person).image, atol=1e-4)
    assert not torch.allclose(model.render(smiling).image, held.image, atol=1e-4)


def test_a_kept_reference_gives_the_same_frames() -> None:
    model = tiny()
    person = model.sample(seed=4)
    holder = model.reference(person)
    assert isinstance(holder, Reference)
    smiling = person.with_expression(smile=0.7)
    first = model.render(smiling, blend="both", reference=holder)
    second = model.render(model.planes(smiling), blend="both", reference=holder)
    assert torch.allclose(first.image, second.image, atol=1e-5)
    assert second.recipes == first.recipes == () and len(model.render(smiling).recipes) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maps": ("dept",)}, "depth"),
        ({"blend": "hairs"}, "hair"),
        ({"size": 0}, "size 0"),
        ({"rays": 1}, "rays 1"),
        ({"psi": -1.0}, "psi -1"),
        ({"camera": Camera.from_degrees(radius=0.1)}, "inside the head"),
    ],
)
def test_bad_pictures_are_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(CopoError, match=said):
        tiny().render(tiny().sample(seed=0), **options)  # type: ignore[arg-type]


def test_factors_of_another_head_are_refused() -> None:
    with pytest.raises(CopoError, match="'ball'"):
        tiny().render(Factors.random(ball_head().spec, 0))


# --- films and shapes -------------------------------------------------------------------------------------------


def test_animate_gives_a_frame_for_each_expression_and_camera() -> None:
    model = tiny()
    person = model.sample(seed=2)
    drive = torch.zeros(3, model.spec.expression)
    drive[1] = 0.5
    frames = list(model.animate(person, drive))
    assert len(frames) == 3 and frames[0].image.shape == (1, 3, 32, 32)
    assert torch.allclose(frames[0].image, frames[2].image, atol=1e-5)
    moving = Camera.cat([model.camera(yaw) for yaw in (-10, 0, 10)])
    assert len(list(model.animate(person, camera=moving))) == 3
    with pytest.raises(CopoError, match="2 driven frames"):
        list(model.animate(person, drive[:2], moving))
    with pytest.raises(CopoError, match="no frames"):
        list(model.animate(person, drive[:0]))


def test_meshes() -> None:
    model = tiny()
    person = model.sample(seed=1)
    head = model.head_mesh(person)
    assert head.vertices.shape[1] == 3 and head.faces.max() < len(head.vertices)
    field = model.volume(person)
    points = torch.rand(1, 4096, 3) * 0.2 - 0.1
    threshold = float(field.probe(points).density.median())
    from copo.field.shapes import ShapeConfig

    mesh = model.mesh(person, config=ShapeConfig(resolution=16, threshold=threshold, without=frozenset()))
    assert len(mesh.faces) > 10 and mesh.colors is not None
    with pytest.raises(CopoError, match="2 portraits"):
        model.mesh(model.sample([1, 2]))


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_carries_what_makes_it_again(tmp_path: Path, suffix: str) -> None:
    model = tiny()
    person = model.sample(seed=3).with_expression(jawOpen=0.4)
    picture = model.render(
        person, model.camera(13, -4), psi=0.8, blend="hair", seeds=[3], sampling=model.field.sampling.fast()
    )
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    assert read_metadata(path).source_type == "trainedAlgorithmicMedia"
    recipe = read_recipe(path, model.spec)
    assert recipe.seed == 3 and recipe.psi == 0.8 and recipe.model == "random-tiny"
    assert torch.equal(recipe.factors.to_vector(), person.to_vector())
    again = model.remake(recipe)
    assert torch.equal(again.image, picture.image)
    if suffix == "png":
        assert np.array_equal(load_image(path), picture.to_uint8()[0])


def test_a_recipe_of_another_model_is_refused(tmp_path: Path) -> None:
    model = tiny()
    model.render(model.sample(seed=3)).save(tmp_path / "a.png")
    other = Portrait.random("tiny", seed=2)
    with pytest.raises(CopoError, match="another model"):
        other.remake(read_recipe(tmp_path / "a.png", other.spec))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["version", "head", "factors", "camera", "psi", "size", "blend", "model"]),
                       st.one_of(st.none(), st.integers(), st.text(), st.lists(st.floats())), min_size=1))  # fmt: skip
def test_damaged_recipes_are_told(changes: dict[str, object]) -> None:
    """A recipe comes from an untrusted file: whatever stands there, it is read or told, never worse."""
    model = tiny()
    data = good_recipe().to_dict() | changes
    with suppress(CopoError):
        Recipe.from_dict(data, model.spec)


@cache
def good_recipe() -> Recipe:
    model = tiny()
    return Recipe(model.sample(seed=1), model.camera(), "m", "f")


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = replace(
        tiny(), priors={"expression": vae(tiny().spec.expression)}, default_camera=Camera.from_degrees(1, 2)
    )
    model.save_pretrained(tmp_path / "m", half=False)
    again = Portrait.from_pretrained(tmp_path / "m", device="cpu")
    assert again.name == "m" and again.fingerprint == model.fingerprint
    person = model.sample(seed=8)
    assert torch.equal(again.sample(seed=8).to_vector(), person.to_vector())
    assert torch.allclose(again.default_camera.cam2world, model.default_camera.cam2world, atol=1e-6)
    assert torch.equal(again.render(person).image, model.render(person).image)
    model.save_pretrained(tmp_path / "half")
    small = Portrait.from_pretrained(tmp_path / "half", device="cpu")
    assert small.fingerprint == model.fingerprint
    assert "Fingerprint" in (tmp_path / "half" / "README.md").read_text()


def test_a_training_run_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run7"
    tiny().save_pretrained(run / "network-snapshot")
    for source in (run, run / "network-snapshot"):
        assert find_model(source) == (run / "network-snapshot", "run7")
    monkeypatch.setenv(MODEL_VARIABLE, str(run))
    assert Portrait.from_pretrained(device="cpu").name == "run7"


def test_models_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match="no such folder"):
        Portrait.from_pretrained(tmp_path / "gone")
    prior = vae(tiny().spec.expression)
    save_checkpoint(Checkpoint({"prior_expression": StoredNetwork(prior.config, prior.state_dict())}), tmp_path / "p")
    with pytest.raises(CopoError, match="no generator"):
        Portrait.from_pretrained(tmp_path / "p", device="cpu")
    with pytest.raises(CopoError, match="CUDA"):
        Portrait.random("tiny", device="cuda:99")


def test_the_hub_is_asked_for_names_and_its_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for call in (
        lambda: Portrait.from_pretrained("somebody/portrait"),
        lambda: tiny().push_to_hub("somebody/portrait"),
    ):
        with pytest.raises(CopoError, match="somebody/portrait") as told:
            call()
        assert "\n" not in str(told.value)


def test_a_model_for_another_head_needs_that_head(tmp_path: Path) -> None:
    ball = Portrait.random("tiny", head=ball_head())  # type: ignore[arg-type]
    ball.save_pretrained(tmp_path / "ball")
    alone = Portrait.from_pretrained(tmp_path / "ball", device="cpu")
    alone.render(alone.sample(seed=1))  # pictures need no head
    with pytest.raises(CopoError, match="'ball', which is not in the box"):
        _ = alone.head
    given_head = Portrait.from_pretrained(tmp_path / "ball", device="cpu", head=ball_head())  # type: ignore[arg-type]
    assert given_head.head.name == "ball"
    with pytest.raises(CopoError, match="made for head"):
        Portrait.from_pretrained(tmp_path / "ball", device="cpu", head=tiny().head)


def test_priors_of_other_sizes_are_refused() -> None:
    with pytest.raises(CopoError, match="prior of expression has 3"):
        replace(tiny(), priors={"expression": vae(3)})


def test_the_portrait_is_offered_at_the_top() -> None:
    import copo

    assert copo.Portrait is Portrait
    with pytest.raises(AttributeError):
        _ = copo.Nothing


def test_noise_is_the_generators() -> None:
    assert tiny().spec.noise == 8 and with_noise(tiny().spec, 3).noise == 3
