from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from tests.app.samples import clip, model, studio

from copo.animation.clip import DrivingClip
from copo.app.panel import regions
from copo.errors import CopoError
from copo.portrait import Portrait


def test_a_picture_is_the_model_s() -> None:
    s = studio()
    expected = model().render(model().sample(seed=1)).to_uint8()[0]
    assert np.array_equal(s.draw(model().default_camera), expected)
    assert s.draw(model().default_camera, rays=4).shape == (16, 16, 3)


def test_every_change_is_counted_and_seen() -> None:
    s, camera = studio(), model().default_camera
    before, version = s.draw(camera), s.version
    s.change(factors=s.look.factors.replace(shape=s.look.factors.shape + 2))
    assert s.version == version + 1
    assert not np.array_equal(s.draw(camera), before)
    s.sow(1)
    assert np.array_equal(s.draw(camera), before)
    with pytest.raises(CopoError, match="negative"):
        s.sow(-1)


def test_blending_holds_on_to_the_same_person_without_expression() -> None:
    s, camera = studio(), model().default_camera
    s.change(factors=s.look.factors.with_expression(jawOpen=1.0), blend="both")
    expected = model().render(s.look.factors, camera, blend="both").to_uint8()[0]
    assert np.abs(s.draw(camera).astype(int) - expected).max() <= 1


def test_a_clip_moves_the_face_and_nothing_else() -> None:
    s = studio()
    with pytest.raises(CopoError, match="no driving clip"):
        s.play(True)
    s.load(clip())
    jaw = model().spec.expression_names.index("jawOpen")
    s.seek(3)
    assert float(s.look.factors.expression[0, jaw]) == 1 and float(s.look.factors.expression.sum()) == 1
    assert torch.equal(s.look.factors.shape, model().sample(seed=1).shape)
    s.seek(0)
    s.play(True)
    assert s.playing is not None and s.playing.began is not None
    s.playing.began = time.monotonic() - 0.25  # 10 frames a second: the third frame
    s.tick()
    assert float(s.look.factors.expression[0, jaw]) == pytest.approx(2 / 3)
    s.play(False)
    assert s.playing.at == 2 and s.playing.began is None
    with pytest.raises(CopoError, match="open_head"):
        s.load(DrivingClip(("exp_00",), np.zeros((2, 1)), 24))


def test_fewer_rays_only_where_whole_pictures_take_too_long() -> None:
    s = studio()
    assert s.quick_rays(0.1) == s.rays == 8
    s._seconds = {8: 0.05}
    assert s.quick_rays(0.1) == 8
    big = studio()
    big.base = Portrait.random("portrait_256")
    big._seconds = {64: 0.5}
    assert big.quick_rays(0.1) == 32
    big._seconds = {64: 0.5, 32: 0.2}
    assert big.quick_rays(0.1) == 16


def test_a_turntable_goes_around_once_with_the_clip() -> None:
    s = studio()
    s.load(clip())
    frames = list(s.turntable(model().default_camera, 0.4, 10))
    assert len(frames) == 4 and frames[0].shape == (32, 32, 3)
    assert not np.array_equal(frames[0], frames[1])
    assert s.version == 0


def test_every_unit_has_one_slider() -> None:
    spec = model().spec
    folders = regions(spec)
    units = [i for _, some in folders for i in some]
    assert sorted(units) == list(range(spec.expression))
    assert "Others" not in dict(folders)
    names = {title: [spec.expression_names[i] for i in some] for title, some in folders}
    assert "tongueOut" in names["Jaw and tongue"] and "eyeBlinkLeft" in names["Eyes"]
