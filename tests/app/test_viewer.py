"""The page in a real browser: what it shows, what its controls do, what it takes and gives."""

from __future__ import annotations

import io
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.app.samples import clip, model
from tests.preparation.samples import needs_models, rendered, save

from copo.animation.clip import save_clip
from copo.app.panel import breakable
from copo.app.viewer import Viewer, ViewerConfig, start_viewer
from copo.cli.main import main
from copo.formats.factor_files import load_factors, save_factors
from copo.formats.video import read_video_metadata, video_info

CHROMIUM = os.environ.get("COPO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("viser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 150.0
FREE = (slice(230, 480), slice(320, 650))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    started = start_viewer(
        model(), ViewerConfig(port=0, upload_mb=1.0, turntable_seconds=0.4, invert_seconds=0.5), seed=1
    )
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def page(browser: Any, viewer: Viewer) -> Any:
    opened = browser.new_page(viewport={"width": 1100, "height": 500}, accept_downloads=True)
    opened.set_default_timeout(PATIENCE * 1000)
    opened.goto(viewer.url)
    opened.get_by_role("tab", name="Person").wait_for()
    until(opened, lambda: shown_is(opened, viewer))
    return opened


def until(page: Any, met: Callable[[], bool]) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(100)


def portrait_on(page: Any) -> np.ndarray:
    """The part of the portrait in the window that no control and no notification lies over."""
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    return shot[FREE]


def shown_is(page: Any, viewer: Viewer) -> bool:
    """Whether the window shows what the studio draws for the browser's camera."""
    (client,) = viewer.server.get_clients().values()
    if not client.camera.fov:
        return False
    picture = Image.fromarray(viewer.studio.draw(viewer._camera(client))).resize((500, 500), Image.Resampling.BICUBIC)
    expected = np.zeros((500, 1100, 3), np.uint8)
    expected[:, 300:800] = np.asarray(picture)
    return float(np.abs(portrait_on(page).astype(float) - expected[FREE]).mean()) < 5


def type_into(page: Any, label: str, value: str) -> None:
    """The number field of a slider."""
    row = page.get_by_text(label, exact=True).locator("xpath=ancestor::*[.//input][1]")
    field = row.locator("input[type=text], input:not([type])").last
    field.fill(value)
    field.press("Enter")


def test_the_page_shows_the_seed_and_follows_sliders(page: Any, viewer: Viewer) -> None:
    studio = viewer.studio
    (client,) = viewer.server.get_clients().values()
    ours = model().default_camera
    assert np.allclose(client.camera.position, ours.position[0].numpy(), atol=0.02)
    before = portrait_on(page)
    type_into(page, "shape 1", "3")
    until(page, lambda: abs(float(studio.look.factors.shape[0, 0]) - 3) < 1e-6)
    until(page, lambda: shown_is(page, viewer))
    page.get_by_role("tab", name="Face").click()
    assert page.get_by_text(breakable("mouthSmileLeft"), exact=True).is_visible()
    type_into(page, breakable("mouthSmileLeft"), "1")
    unit = model().spec.expression_names.index("mouthSmileLeft")
    until(page, lambda: float(studio.look.factors.expression[0, unit]) == 1)
    page.get_by_role("tab", name="Light").click()
    light = studio.look.factors.illumination.clone()
    type_into(page, "Around", "90")
    until(page, lambda: not bool((studio.look.factors.illumination == light).all()))
    until(page, lambda: shown_is(page, viewer))
    page.get_by_role("tab", name="Person").click()
    page.get_by_role("button", name="Next seed").click()
    until(page, lambda: studio.look.seed == 2)
    until(page, lambda: shown_is(page, viewer))
    assert not np.array_equal(portrait_on(page), before)


def test_the_mouse_orbits(page: Any, viewer: Viewer) -> None:
    (client,) = viewer.server.get_clients().values()
    before = np.array(client.camera.position)
    page.mouse.move(400, 350)
    page.mouse.down()
    page.mouse.move(480, 350, steps=6)
    page.mouse.up()
    until(page, lambda: float(np.abs(client.camera.position - before).max()) > 0.1)
    assert np.linalg.norm(client.camera.position) == pytest.approx(np.linalg.norm(before), abs=0.02)
    until(page, lambda: shown_is(page, viewer))


def upload(page: Any, button: str, path: Path) -> None:
    page.get_by_role("tab", name="Files").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button).click()
    chooser.value.set_files(str(path))


def test_what_is_uploaded_is_checked_and_used(page: Any, viewer: Viewer, tmp_path: Path) -> None:
    studio, person = viewer.studio, model().sample(seed=7)
    save_factors(tmp_path / "someone.json", person)
    upload(page, "Open factors or portrait", tmp_path / "someone.json")
    until(page, lambda: bool((studio.look.factors.noise == person.noise).all()))
    assert studio.look.seed is None
    until(page, lambda: shown_is(page, viewer))
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (3 << 20))
    upload(page, "Open factors or portrait", large)
    page.get_by_text("large.json: 3.0 MiB; files up to 1 MiB are taken").wait_for()
    (tmp_path / "evil.exe").write_bytes(b"MZ")
    upload(page, "Photograph", tmp_path / "evil.exe")
    page.get_by_text("evil.exe: give a file that ends in").wait_for()
    (tmp_path / "empty.csv").write_text("Timecode,BlendShapeCount\n")
    upload(page, "Driving clip", tmp_path / "empty.csv")
    page.get_by_text("empty.csv lacks the columns").wait_for()
    assert bool((studio.look.factors.noise == person.noise).all())


def test_a_clip_plays_and_is_recorded(page: Any, viewer: Viewer, tmp_path: Path) -> None:
    studio = viewer.studio
    save_clip(tmp_path / "talk.npz", clip(40, rate=20.0))
    page.get_by_role("tab", name="Files").click()
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Stop and save").wait_for()
    upload(page, "Driving clip", tmp_path / "talk.npz")
    jaw = model().spec.expression_names.index("jawOpen")
    seen: set[float] = set()
    until(page, lambda: seen.add(float(studio.look.factors.expression[0, jaw])) or len(seen) > 3)  # type: ignore[func-returns-value]
    page.get_by_text("Play the clip", exact=True).locator("xpath=ancestor::*[.//input][1]").locator("input").click()
    until(page, lambda: studio.playing is not None and studio.playing.began is None)
    with page.expect_download() as download:
        page.get_by_role("button", name="Stop and save").click()
    film = tmp_path / "film.mp4"
    download.value.save_as(film)
    assert video_info(film).width == 32
    assert read_video_metadata(film).source_type == "trainedAlgorithmicMedia"


def test_factors_and_pictures_are_saved(page: Any, viewer: Viewer, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Files").click()
    for button, name in (
        ("Save factors", "factors.json"),
        ("Save picture", "portrait.png"),
        ("Turntable", "turntable.mp4"),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    saved = load_factors(tmp_path / "factors.json", model().spec)
    assert bool((saved.factors.shape == viewer.studio.look.factors.shape).all()) and saved.camera is not None
    assert Image.open(tmp_path / "portrait.png").size == (32, 32)
    assert video_info(tmp_path / "turntable.mp4").width == 32


@needs_models
def test_a_photograph_is_found(
    page: Any, viewer: Viewer, tmp_path: Path, models_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPO_MODELS_DIR", str(models_folder))
    upload(page, "Photograph", save(tmp_path / "empty.png", np.full((64, 64, 3), 120, np.uint8)))
    page.get_by_text("empty.png: no face was found").wait_for()
    assert viewer.studio.person is None
    upload(page, "Photograph", save(tmp_path / "me.png", rendered(4)))
    until(page, lambda: viewer.studio.person is not None)
    assert viewer.studio.model is not viewer.studio.base
    until(page, lambda: shown_is(page, viewer))
    page.get_by_text("a photograph, inverted").wait_for()


def test_a_port_in_use_is_one_line(viewer: Viewer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model().save_pretrained(tmp_path / "model")
    port = viewer.server.get_port()
    with pytest.raises(SystemExit) as stopped:
        main(["view", "--model", str(tmp_path / "model"), "--port", str(port), "--device", "cpu"])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "\n" not in said and f"127.0.0.1:{port}" in said and "in use" in said


def test_only_the_loopback_is_listened_to_unless_told_otherwise(viewer: Viewer) -> None:
    port = viewer.server.get_port()
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError):  # another address of this machine: who listens on all would answer
        socket.create_connection(("127.0.0.2", port), timeout=5)
