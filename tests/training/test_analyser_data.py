"""Renders, photographs, whole pictures, and the stage that carries them to a GPU."""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from copo.camera import Camera, euler_zyx, euler_zyx_angles
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES
from copo.head.open_head import OpenHead
from copo.training.analyser import draw, layers
from copo.training.analyser.batch import IGNORE, Batch
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import CropConfig, LossWeights, SceneConfig
from copo.training.analyser.geometry import Crop
from copo.training.analyser.mixing import PhotoBatches, WideBatches
from copo.training.analyser.photos import Photos, Stage, Wide, load_stage, picture_bytes, save_stage
from copo.training.analyser.scenes import Scenes, surroundings
from copo.vision.networks.analyser import TYPICAL_DEPTH
from copo.vision.points import MEDIAPIPE_68
from copo.vision.portrait_pose import ffhq_square, pose_of, project

CALM = CropConfig(scale=0, shift=0, turn=0, rough=0)
PLAIN = SceneConfig(glasses=0, occluded=0, drawn_hair=0, other_lens=0)


@cache
def head() -> OpenHead:
    return OpenHead.load()


def photos(count: int = 6, fitted: bool = True) -> Photos:
    """Made-up portraits: a bright dot at the nose tip on grey, a face region in the middle, hair above it."""
    torch.manual_seed(1)
    rotation, _ = pose_of(Camera.from_degrees())
    points = 0.3 + 0.4 * torch.rand(count, 478, 2)
    pictures = torch.full((count, 3, 256, 256), 60, dtype=torch.uint8)
    for i in range(count):
        x, y = (points[i, 1] * 256).round().int().tolist()
        pictures[i, :, y - 1 : y + 1, x - 1 : x + 1] = 255
    labels = torch.zeros(count, 128, 128, dtype=torch.uint8)
    labels[:, 40:100, 40:88] = 1
    labels[:, 20:40, 40:88] = 17
    return Photos(
        pictures=pictures, labels=labels, points478=points, marked=torch.ones(count, dtype=torch.bool),
        units=torch.rand(count, 52), shape=torch.randn(count, 80), albedo=torch.randn(count, 50),
        expression=torch.zeros(count, 52), illumination=0.1 * torch.randn(count, 27),
        rotation=rotation.repeat(count, 1, 1),
        translation=torch.tensor([0, 0, TYPICAL_DEPTH]).repeat(count, 1),
        fitted=torch.full((count,), fitted), person=torch.arange(count) // 2,
        test=torch.arange(count) >= count - 2, collection=torch.zeros(count, dtype=torch.int64),
        collections=("london",),
    )  # fmt: skip


def test_renders_have_exact_labels() -> None:
    scenes = Scenes(head(), replace(PLAIN, yaw=20, pitch=5), CALM, 128)
    batch = scenes.draw(4, Chance("cpu", 3))
    assert batch.pictures.shape == (4, 3, 128, 128) and batch.labels.shape == (4, 64, 64)
    assert batch.pictures.abs().max() <= 1 + 1e-5
    # the square is the picture, the points are the head's in the labelled pose
    centre, side, _ = ffhq_square(batch.points[:, :68])
    torch.testing.assert_close(centre, torch.full((4, 2), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(side, torch.ones(4), atol=1e-2, rtol=0)
    vertices = head().vertices(batch.shape, batch.own_expression)
    again = project(head().landmarks478(vertices), batch.rotation, batch.translation)
    torch.testing.assert_close(batch.points[:, 68:], again, atol=1e-4, rtol=0)
    # the nose tip lies on the nose, the brows' middle points on brows or skin, the upper left corner on background
    for i in range(4):
        x, y = (batch.points[i, 30] * 64).long().tolist()
        assert batch.labels[i, y, x] == layers.NOSE
    assert torch.all(batch.labels[:, 0, 0] == 0)
    assert torch.equal(batch.shape[0], batch.shape[1]) and not torch.equal(batch.shape[1], batch.shape[2])
    assert batch.person.tolist() == [0, 0, 1, 1] and not torch.equal(batch.expression[0], batch.expression[1])


def test_renders_depend_on_seed_and_step_only() -> None:
    scenes = Scenes(head(), SceneConfig(), CropConfig(), 64)
    one, again, other = (scenes.draw(2, Chance("cpu", 0, 0, step)) for step in (5, 5, 6))
    for f in fields(Batch):
        assert torch.equal(getattr(one, f.name), getattr(again, f.name)), f.name
    assert not torch.equal(one.pictures, other.pictures)


def test_views_cover_the_range() -> None:
    config = SceneConfig()
    angles = euler_zyx_angles(draw.rotations(2000, config, Chance("cpu", 0))).rad2deg()
    assert angles[:, 1].abs().max() <= 60.01 and angles[:, 1].abs().max() > 55
    assert angles[:, 0].abs().max() <= 25.01 and angles[:, 0].abs().max() > 22
    near = (angles[:, 1].abs() < 15).float().mean()
    assert 0.4 < near < 0.75  # more heads are near the front than an even spread (0.25) has


def test_expressions_are_sparse_even_and_sane() -> None:
    values = draw.expressions(3000, ARKIT_NAMES, SceneConfig(), Chance("cpu", 0))
    index = {name: i for i, name in enumerate(ARKIT_NAMES)}
    assert values.min() >= 0 and values.max() <= 1
    assert 0.02 < (values > 0.3).float().mean() < 0.25
    left, right = values[:, index["mouthSmileLeft"]], values[:, index["mouthSmileRight"]]
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.6
    assert torch.all(values[:, index["mouthClose"]] <= values[:, index["jawOpen"]] + 1e-6)
    for unit in ("jawOpen", "eyeBlinkLeft", "browInnerUp", "mouthSmileLeft"):
        assert values[:, index[unit]].std() > 0.1


def test_lights_have_the_brightness_they_were_given() -> None:
    from copo.illumination import exposure

    made = draw.lights(200, SceneConfig(), Chance("cpu", 0), 0.3 * torch.randn(4, 9, 3) + torch.eye(9)[:, :1] * 3)
    assert torch.isfinite(made).all()
    bright = exposure(made).mean(1)
    assert float(bright.quantile(0.05)) > 0.3 and float(bright.quantile(0.95)) < 1.8
    given = draw.exposed(made, torch.full((200,), 0.7))
    usable = exposure(made).mean(1) > 0.25
    torch.testing.assert_close(
        exposure(given).mean(1)[usable], torch.full((int(usable.sum()),), 0.7), atol=1e-4, rtol=0
    )


def test_filling_keeps_what_is_there() -> None:
    picture = torch.rand(1, 3, 32, 32)
    keep = torch.zeros(1, 1, 32, 32)
    keep[..., :16] = 1
    filled = layers.fill_outside(picture, keep)
    torch.testing.assert_close(filled[..., :16], picture[..., :16])
    assert filled[..., 16:].min() >= picture[..., :16].min() - 1e-5
    for size in (32, 48):
        grey = torch.full((1, 3, size, size), 0.3)
        part = torch.zeros(1, 1, size, size)
        part[..., : size // 3] = 1
        torch.testing.assert_close(layers.fill_outside(grey, part), grey, atol=1e-5, rtol=0)


def test_heads_in_photographs_take_their_camera_and_leave_the_hair() -> None:
    lender = photos(8)
    scenes = Scenes(head(), replace(PLAIN, on_photo=1.0, occluded=0), CALM, 128, lender)
    batch = scenes.draw(4, Chance("cpu", 1))
    turned = batch.rotation.transpose(1, 2) @ lender.rotation[0]
    torch.testing.assert_close(turned, torch.eye(3).expand(4, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.translation[:, 2], torch.full((4,), TYPICAL_DEPTH), atol=1e-4, rtol=0)
    assert batch.person.tolist() == [-1] * 4
    hair = batch.labels == 17
    assert torch.all(hair[:, 12:18, 24:40])  # the photographs' hair, above the brows
    assert torch.all(batch.labels[:, 50:, 2:10] == 0)


@pytest.mark.parametrize("flip", [False, True])
def test_photographs_and_their_points_move_together(flip: bool) -> None:
    source = photos()
    batches = PhotoBatches(source, CALM, LossWeights(), 256)
    change = Crop(torch.tensor([1.2]), torch.tensor([[0.05, -0.03]]), torch.tensor([0.3]))
    batch = batches.batch(torch.tensor([2]), torch.tensor([flip]), change, None)
    x, y = (batch.points[0, 68 + 1] * 256).tolist()  # MediaPipe's nose tip is its own mirror image
    dot = batch.pictures[0, 0]
    brightest = dot[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].max()
    assert brightest > 0.5 and dot.median() < -0.4
    torch.testing.assert_close(batch.points[0, 30], batch.points[0, 68 + MEDIAPIPE_68[30]])
    assert torch.all(batch.points_weight[0, :17] == 0) and batch.points_weight[0, 17:68].max() == 1
    left, right = ARKIT_NAMES.index("mouthSmileLeft"), ARKIT_NAMES.index("mouthSmileRight")
    unit = source.units[2, right if flip else left]
    assert float(batch.expression[0, left]) == pytest.approx(float(unit))


def test_pairs_show_one_person() -> None:
    batches = PhotoBatches(photos(8), CropConfig(), LossWeights(), 64)
    batch = batches.draw(16, Chance("cpu", 0))
    assert torch.equal(batch.person[0::2], batch.person[1::2])
    unmarked = replace(photos(4), marked=torch.zeros(4, dtype=torch.bool), fitted=torch.zeros(4, dtype=torch.bool))
    blind = PhotoBatches(unmarked, CropConfig(), LossWeights(), 64).draw(4, Chance("cpu", 0))
    assert blind.points_weight.sum() == 0 and blind.geometry_weight.sum() == 0 and blind.expression_weight.sum() == 0
    assert torch.isfinite(blind.translation).all()


def test_nothing_is_known_outside_of_the_photograph() -> None:
    change = Crop(torch.tensor([0.5]), torch.zeros(1, 2), torch.zeros(1))
    source = photos(2)
    source.labels[:] = 1
    seen = surroundings(source, torch.tensor([0]), torch.tensor([False]), change, 64)
    assert torch.all(seen.labels[0, :15] == IGNORE) and torch.all(seen.labels[0, 17:47, 17:47] == 1)


def test_whole_pictures_tell_where_the_face_is() -> None:
    batch = Scenes(head(), PLAIN, CALM, 64).draw(4, Chance("cpu", 2))
    marked = replace(batch, pictures=torch.zeros_like(batch.pictures), labels=torch.ones_like(batch.labels))
    made = WideBatches(96).draw(40, marked, Chance("cpu", 4))
    assert made.pictures.shape == (40, 3, 96, 96) and 0 < int((~made.present).sum()) < 25
    square = made.square[made.present]
    assert torch.all((square[:, :2] > 0) & (square[:, :2] < 96)) and square[:, 2].min() > 0.17 * 96
    # the cut-out is plain grey: where it lies the picture is 0, and its middle is the square's
    for picture, (x, y, side, _) in zip(made.pictures[made.present], square, strict=True):
        if side < 40:
            cell = picture[:, int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
            assert cell.abs().max() < 0.05
    wide = Wide(torch.full((3, 3, 160, 160), 200, dtype=torch.uint8), torch.tensor([[0.5, 0.4, 0.6, 0.1]] * 3),
                torch.zeros(3, dtype=torch.bool))  # fmt: skip
    batches = WideBatches(96, wide)
    batches.WHOLE = 1.0  # type: ignore[misc]
    seen = batches.draw(20, marked, Chance("cpu", 4))
    assert seen.present.any() and torch.isfinite(seen.square).all()


def stage() -> Stage:
    wide = Wide(torch.zeros(2, 3, 160, 160, dtype=torch.uint8), torch.tensor([[0.5, 0.4, 0.6, 0.1]] * 2),
                torch.tensor([False, True]))  # fmt: skip
    return Stage(photos(), wide, torch.randn(3, 9, 3))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_stage_comes_back(tmp_path: Path, kind: str) -> None:
    start = stage()
    files = [picture_bytes(p.permute(1, 2, 0).numpy(), 95, kind) for p in start.photos.pictures]
    whole = [picture_bytes(p.permute(1, 2, 0).numpy(), 80, kind) for p in start.wide.pictures]
    size = save_stage(tmp_path / "s", start.photos, files, start.wide, whole, start.panoramas)
    assert size == sum(p.stat().st_size for p in (tmp_path / "s").glob("*.safetensors"))
    back = load_stage(tmp_path / "s")
    assert torch.equal(back.photos.labels, start.photos.labels) and back.photos.collections == ("london",)
    torch.testing.assert_close(back.photos.points478, start.photos.points478, atol=0.51 / 16 / 256, rtol=0)
    torch.testing.assert_close(back.photos.units, start.photos.units, atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(back.photos.shape, start.photos.shape, atol=2e-3, rtol=1e-3)
    assert (back.photos.pictures.float() - start.photos.pictures.float()).abs().mean() < 3
    assert torch.equal(back.photos.person, start.photos.person) and torch.equal(back.photos.test, start.photos.test)
    torch.testing.assert_close(back.wide.square, start.wide.square)
    assert len(back.part(test=True).photos) == 2 and len(back.part(test=True).wide.pictures) == 1
    data = (tmp_path / "s" / "photos.safetensors").read_bytes()
    (tmp_path / "s" / "photos.safetensors").write_bytes(data[:1000])
    with pytest.raises(CopoError, match="missing or damaged"):
        load_stage(tmp_path / "s")
    with pytest.raises(CopoError, match="missing or damaged"):
        load_stage(tmp_path / "nowhere")


def test_turned_pairs_of_views_are_found_for_hair() -> None:
    lender = photos(8)
    lender.rotation[4:] = euler_zyx(torch.tensor([[0, 0.8, 0]])).expand(4, 3, 3)
    scenes = Scenes(head(), PLAIN, CALM, 64, lender)
    assert scenes.photos is not None
    people = scenes._strangers(6, draw.crops(6, CALM, 15, Chance("cpu", 0)), Chance("cpu", 0))
    people = replace(people, rotation=euler_zyx(torch.tensor([[0, 0.8, 0]])).expand(6, 3, 3))
    nobody = torch.zeros(6, dtype=torch.bool)
    still = Crop(torch.ones(6), torch.zeros(6, 2), torch.zeros(6))
    same, index, flip = scenes._guests(people, nobody, still, Chance("cpu", 0))
    assert torch.equal(same.shape, people.shape)
    assert len(index) == 6 and flip.dtype == torch.bool
