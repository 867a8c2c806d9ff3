from __future__ import annotations

import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.app.samples import model

from copo.app.page import PAPER, Film, Uploads, camera_of_client, check_port, in_window
from copo.app.viewer import SUFFIXES, ViewerConfig, check_picture, fitted, open_person
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.factor_files import save_factors
from copo.formats.portrait_file import PortraitFile, save_portrait_file
from copo.head.open_head import OpenHead


@given(st.floats(-1.2, 1.2), st.floats(-0.8, 0.8), st.floats(0.6, 2), st.floats(0.1, 1.5))
def test_the_browser_s_camera_is_ours(yaw: float, pitch: float, radius: float, fov: float) -> None:
    ours = Camera.from_pitch_yaw(math.pi / 2 - pitch, math.pi / 2 - yaw, fov, radius)
    m = ours.cam2world[0, :3, :3].double().numpy()
    w = math.sqrt(max(1 + np.trace(m), 0)) / 2
    if w < 0.1:
        return
    wxyz = np.array([w, *(np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / (4 * w))])
    theirs = camera_of_client(wxyz * 3, ours.position[0].numpy(), fov)
    assert torch.allclose(theirs.cam2world, ours.cam2world, atol=1e-4)
    assert torch.allclose(theirs.intrinsics, ours.intrinsics, atol=1e-4)


def test_a_camera_that_is_none_is_refused() -> None:
    for wxyz, fov in (((0, 0, 0, 0), 0.2), ((1, 0, 0, 0), 0.0), ((1, 0, 0, math.nan), 0.2)):
        with pytest.raises(CopoError, match="camera"):
            camera_of_client(np.array(wxyz, float), np.zeros(3), fov)


def test_a_square_picture_in_wide_and_narrow_windows() -> None:
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2)
    wide = in_window(picture, 2.0)
    assert wide.shape == (4, 8, 3) and np.array_equal(wide[:, 2:6], picture) and (wide[:, :2] == PAPER).all()
    assert np.array_equal(in_window(picture, 0.5), picture[:, 1:3])
    assert np.array_equal(in_window(picture, 1.0), picture)


def test_a_port_in_use_and_impossible_addresses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CopoError, match=f"cannot listen on 127.0.0.1:{port}.*in use.*--port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", 0)
    with pytest.raises(CopoError, match="--port 70000"):
        check_port("127.0.0.1", 70000)
    with pytest.raises(CopoError, match=r"cannot listen on 203.0.113.7"):
        check_port("203.0.113.7", 0)


def test_uploads_are_checked_by_name_and_size() -> None:
    uploads = Uploads(1.0, SUFFIXES)
    uploads.check("Photograph", "A.JPG", 1 << 20)
    for label, name, size, message in (
        ("Photograph", "a.exe", 10, "ends in .bmp"),
        ("Driving clip", "a.jpg", 10, "ends in .avi, .csv"),
        ("Photograph", "a.jpg", (1 << 20) + 1, "up to 1 MiB"),
        ("Photograph", "a.jpg", 0, "0.0 MiB"),
    ):
        with pytest.raises(CopoError, match=message):
            uploads.check(label, name, size)
    with pytest.raises(CopoError, match="--upload-mb"):
        ViewerConfig(upload_mb=0)


def test_pictures_are_looked_at_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("L", (9000, 6000)).save(tmp_path / "large.png")
    with pytest.raises(CopoError, match="54 million pixels"):
        check_picture("large.png", (tmp_path / "large.png").read_bytes())
    with pytest.raises(CopoError, match="not a picture"):
        check_picture("a.png", b"no picture")


def test_a_film_shows_at_each_moment_what_was_shown() -> None:
    film = Film(8)
    with pytest.raises(CopoError, match="nothing was recorded"):
        next(film.frames(10))
    for now, grey in ((5.0, 0), (5.1, 100), (5.35, 200)):
        film.add(np.full((4, 4, 3), grey, np.uint8), now)
    frames = list(film.frames(10, end=5.5))
    assert [round(float(f.mean()) / 100) * 100 for f in frames] == [0, 100, 100, 100, 200, 200]
    assert frames[0].shape == (8, 8, 3) and not film.full


def test_people_from_files(tmp_path: Path) -> None:
    person = model().sample(seed=2)
    save_factors(tmp_path / "f.json", person)
    shown, factors, file = open_person(model(), tmp_path / "f.json")
    assert shown is model() and file is None and torch.allclose(factors.shape, person.shape)
    save_portrait_file(tmp_path / "p.safetensors", PortraitFile(person, model().default_camera, model().fingerprint))
    shown, factors, file = open_person(model(), tmp_path / "p.safetensors")
    assert shown is not model() and file is not None and torch.equal(factors.noise, person.noise)
    save_portrait_file(tmp_path / "q.safetensors", PortraitFile(person, model().default_camera, "0" * 64))
    with pytest.raises(CopoError, match="belongs to another model"):
        open_person(model(), tmp_path / "q.safetensors")
    save_factors(tmp_path / "two.json", model().sample(seeds=[1, 2]))
    with pytest.raises(CopoError, match="2 portraits"):
        open_person(model(), tmp_path / "two.json")


def test_factors_without_a_noise_code_fit_every_model_of_the_head() -> None:
    head = OpenHead.load().spec
    analysed = Factors.neutral(head)
    assert len(fitted(analysed, model())) == 1
    with pytest.raises(CopoError, match="noise code of 128"):
        fitted(Factors.random(head, 1), model())
