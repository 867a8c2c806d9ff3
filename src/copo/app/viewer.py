"""The server: one page for each browser, one thread that draws: the one that made the model, if it may. In another one
torch took half as long again on two cores.

While something moves, pictures that would take long are drawn with fewer rays; when it rests, whole ones follow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from copo.animation.clip import DrivingClip
from copo.animation.follow import follow_face
from copo.animation.sources import read_clip
from copo.app.page import Film, Uploads, camera_of_client, check_port, enlarged, guard_uploads, in_window
from copo.app.panel import Panel, person_of
from copo.app.studio import Look, Studio
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.factor_files import load_factors, save_factors
from copo.formats.pictures import save_image
from copo.formats.portrait_file import PortraitFile, is_portrait_file, load_portrait_file
from copo.formats.provenance import Provenance
from copo.formats.video import VIDEO_SUFFIXES, write_video
from copo.inversion.service import invert_photographs
from copo.networks.personal import personal
from copo.portrait import Portrait
from copo.vision.analyser import Analyser

PHOTOGRAPH, OPEN, CLIP = "Photograph", "Open factors or portrait", "Driving clip"
SUFFIXES = {
    PHOTOGRAPH: frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}),
    OPEN: frozenset({".json", ".npz", ".safetensors"}),
    CLIP: frozenset({".csv", ".npz", ".json", ".safetensors"}) | VIDEO_SUFFIXES,
}
VIDEO_SECONDS, VIDEO_RATE = 30.0, 15.0
"""Of a driving video: how much of its beginning is looked at, and at how many frames a second."""
LARGEST_PIXELS = 50_000_000
"""Of an uploaded photograph."""
CLOSEST, FARTHEST = 0.5, 4.0
"""Metres between camera and head."""


@dataclass(frozen=True)
class ViewerConfig:
    """How the viewer serves and draws.

    Attributes:
        host: Address to listen on; the loopback is seen by this machine alone.
        port: 0 takes any free one.
        upload_mb: Largest file that may be uploaded, MiB.
        identity_sliders: Components of shape and of albedo with a slider each.
        moving: Longest time for a picture while something moves, seconds.
        settle: Rest after which a whole picture is drawn, seconds.
        film_rate: Frames a second of recordings.
        turntable_seconds: Length of a turntable film.
        invert_seconds: Time for the optimisation of a photograph, instead of the device's own.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    upload_mb: float = 32.0
    identity_sliders: int = 12
    moving: float = 0.15
    settle: float = 0.25
    film_rate: float = 25.0
    turntable_seconds: float = 4.0
    invert_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.upload_mb <= 1024:
            raise CopoError(f"--upload-mb {self.upload_mb:g}: choose above 0, to 1024")
        if self.identity_sliders < 0:
            raise CopoError(f"--identity-sliders {self.identity_sliders}: 0 or more")


@dataclass
class _Window:
    """What a browser was shown last."""

    key: tuple[Any, ...] = ()
    whole: bool = False
    changed: float = 0.0
    picture: NDArray[np.uint8] | None = None


class Viewer:
    """Serves a studio until it is stopped. `wait` draws in the caller's thread, `start` in one of its own.

    Args:
        studio: What is shown.
        config: How.

    Raises:
        CopoError: viser is not installed, or the port cannot be listened on.
    """

    def __init__(self, studio: Studio, config: ViewerConfig) -> None:
        try:
            import viser
        except ImportError:
            raise CopoError("copo view needs the package viser: pip install 'copo[view]'") from None
        check_port(config.host, config.port)
        self.studio, self.config = studio, config
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # browsers open connections they do not use
        with redirect_stdout(io.StringIO()):  # viser prints a banner of its own
            self.server = viser.ViserServer(host=config.host, port=config.port, label="CoPo", verbose=False)
        if config.port and self.server.get_port() != config.port:
            self.server.stop()
            raise CopoError(f"cannot listen on {config.host}:{config.port}: in use; choose another with --port")
        self._stop, self._wake = threading.Event(), threading.Event()
        self._windows: dict[int, _Window] = {}
        self._film: Film | None = None
        self._busy = threading.Lock()
        self._page()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        host = "localhost" if self.config.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else self.config.host
        return f"http://{host}:{self.server.get_port()}"

    def start(self) -> None:
        """Draw beside what the caller does, until `stop`."""
        self._thread = threading.Thread(target=self._draw_for_ever, name="copo-view", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Draw until `stop` is called from another thread."""
        self._draw_for_ever()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        with redirect_stdout(io.StringIO()):
            self.server.stop()

    # --- the page ---------------------------------------------------------------------------------------------------

    def _page(self) -> None:
        server, gui = self.server, self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        server.scene.set_up_direction("+y")
        camera = self.studio.base.default_camera
        start = server.initial_camera
        where, forward = camera.position[0].cpu(), camera.cam2world[0, :3, 2].cpu()
        start.position = where.numpy().astype(float)
        start.look_at = (where + forward * float(where.norm())).numpy().astype(float)
        start.up = np.array([0.0, 1.0, 0.0])
        start.fov = self._fov()
        self.panel = Panel(gui, self.studio, self.config.identity_sliders)
        with self.panel.files:
            self._files()
        server.on_client_connect(self._came)
        server.on_client_disconnect(self._went)
        labels = {button._impl.uuid: label for label, button in self.uploads.items()}
        guard_uploads(server, labels, Uploads(self.config.upload_mb, SUFFIXES), self._say_to)

    def _fov(self) -> float:
        return 2 * math.atan(0.5 / float(self.studio.base.default_camera.intrinsics[0, 1, 1]))

    def _files(self) -> None:
        gui = self.server.gui
        self.face = gui.add_number("Face, from the left", 0, min=0, max=20, step=1, hint="0: the only one")
        self.uploads = {
            PHOTOGRAPH: gui.add_upload_button("Photograph ...", mime_type="image/*", hint="Find this person"),
            OPEN: gui.add_upload_button("Open factors or portrait ...", mime_type=".json,.npz,.safetensors"),
            CLIP: gui.add_upload_button("Driving clip ...", mime_type=".csv,.npz,.json,.safetensors"),
        }
        self.progress: Any = gui.add_progress_bar(0.0, visible=False, animated=True)
        self.uploads[PHOTOGRAPH].on_upload(self._safely(self._photograph))
        self.uploads[OPEN].on_upload(self._safely(self._open))
        self.uploads[CLIP].on_upload(self._safely(self._clip))
        self.play: Any = gui.add_checkbox("Play the clip", False, disabled=self.studio.playing is None)
        self.play.on_update(self._safely(lambda _: self._play(bool(self.play.value))))
        self.record = gui.add_button("Record")
        self.record.on_click(self._safely(self._record))
        table = gui.add_button("Turntable video")
        table.on_click(self._safely(self._turntable))
        picture = gui.add_button("Save picture")
        picture.on_click(self._safely(self._save_picture))
        factors = gui.add_button("Save factors")
        factors.on_click(self._safely(self._save_factors))

    def _came(self, client: Any) -> None:
        client.camera.min_orbit_distance, client.camera.max_orbit_distance = CLOSEST, FARTHEST
        client.camera.on_update(lambda _: self._wake.set())
        self._windows[client.client_id] = _Window()
        self._wake.set()

    def _went(self, client: Any) -> None:
        self._windows.pop(client.client_id, None)

    def _say_to(self, client: int | None, text: str, title: str = "That did not work") -> None:
        clients = self.server.get_clients()
        chosen = clients.values() if client is None else [c for c in (clients.get(client),) if c is not None]
        for one in chosen:
            one.add_notification(title, text, auto_close_seconds=12.0, color="red")

    def _safely(self, act: Callable[[Any], None]) -> Callable[[Any], None]:
        """Only what a person did; what is wrong is told on the page, and on the terminal where nobody foresaw it."""

        def handle(event: Any) -> None:
            if event.client_id is None:
                return
            try:
                act(event)
            except CopoError as error:
                self._say_to(event.client_id, str(error))
            except Exception as error:  # the page must go on
                self._say_to(event.client_id, f"{type(error).__name__}: {error}")
                raise
            finally:
                self._wake.set()

        return handle

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _draw_for_ever(self) -> None:
        while not self._stop.is_set():
            self.studio.tick()
            try:
                pending = [self._serve(client) for client in self.server.get_clients().values()]
            except Exception:  # one bad picture must not end the page
                traceback.print_exc()
                pending = [False]
            playing = self.studio.playing is not None and self.studio.playing.began is not None
            if True in pending:
                continue
            rest = 0.005 if playing or self._film is not None else 0.05 if None in pending else 0.2
            self._wake.wait(rest)
            self._wake.clear()

    def _serve(self, client: Any) -> bool | None:
        """Draw for one browser if there is something new.

        Returns:
            True if something was drawn, None if a whole picture is due soon, else False.
        """
        window = self._windows.get(client.client_id)
        view = client.camera
        if window is None or not view.fov:
            return False
        now = time.monotonic()
        key = (self.studio.version, view.update_timestamp)
        if key == window.key and window.whole:
            return False
        rays = self.studio.quick_rays(self.config.moving)
        if key == window.key:
            if now - window.changed < self.config.settle:
                return None
            rays = self.studio.rays
        else:
            window.key, window.changed = key, now
        try:
            camera = camera_of_client(view.wxyz, view.position, view.fov)
            picture = self.studio.draw(camera, rays)
        except CopoError:
            window.whole = True  # nothing to be seen from there
            return False
        window.picture, window.whole = picture, rays == self.studio.rays
        try:
            shown = in_window(enlarged(picture), view.aspect)
            client.scene.set_background_image(shown, format="jpeg", jpeg_quality=90)
        except Exception:  # the browser went away meanwhile
            return False
        film = self._film
        if film is not None and not film.full:
            film.add(picture)
        return True

    def _camera(self, client: Any) -> Camera:
        return camera_of_client(client.camera.wxyz, client.camera.position, client.camera.fov or self._fov())

    # --- files ------------------------------------------------------------------------------------------------------

    def _received(self, label: str) -> tuple[str, bytes]:
        """Name and content of an upload, checked once more."""
        given = self.uploads[label].value
        name = PurePath(given.name).name
        Uploads(self.config.upload_mb, SUFFIXES).check(label, name, len(given.content))
        return name, given.content

    def _photograph(self, event: Any) -> None:
        name, content = self._received(PHOTOGRAPH)
        check_picture(name, content)
        with self._working():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"photograph{PurePath(name).suffix.lower()}"
                path.write_bytes(content)
                try:
                    done = invert_photographs(
                        self.studio.base, [path], face=int(self.face.value) or None,
                        seconds=self.config.invert_seconds, progress=self._show_progress,
                    )  # fmt: skip
                except CopoError as error:
                    raise CopoError(str(error).replace(str(path), name).replace("--face", "Face")) from None
            self.studio.take(done.model, done.factors, done.inversion.portrait)
            self.panel.refresh()
            reached = done.inversion.stages[-1].errors[0]
            event.client.add_notification(
                "Found",
                f"Mean difference {reached.difference:.1f} of 255, {done.seconds:.0f} s",
                auto_close_seconds=12.0,
            )

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """One upload that takes long at a time, with the bar shown."""
        if not self._busy.acquire(blocking=False):
            raise CopoError("a photograph or a video is being worked on: wait until it is done")
        try:
            self.progress.visible = True
            yield
        finally:
            self.progress.visible = False
            self._busy.release()

    def _show_progress(self, stage: str, share: float) -> None:
        parts = ("analysis", "start", "code", "latents", "tuning")
        self.progress.value = 100 * (parts.index(stage) + min(share, 1.0)) / len(parts)

    def _show_frames(self, done: int, total: int) -> None:
        self.progress.value = 100 * done / max(total, 1)

    def _open(self, event: Any) -> None:
        name, content = self._received(OPEN)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"given{PurePath(name).suffix.lower()}"
            path.write_bytes(content)
            try:
                model, factors, person = open_person(self.studio.base, path)
            except CopoError as error:
                raise CopoError(str(error).replace(str(path), name)) from None
        self.studio.take(model, factors, person)
        self.panel.refresh()

    def _clip(self, event: Any) -> None:
        name, content = self._received(CLIP)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{PurePath(name).suffix.lower()}"
            path.write_bytes(content)
            try:
                with self._working() if path.suffix in VIDEO_SUFFIXES else contextlib.nullcontext():
                    self.studio.load(open_clip(path, self.studio.base, self._show_frames))
            except CopoError as error:
                raise CopoError(str(error).replace(str(path), name).replace(path.name, name)) from None
        self.play.disabled = False
        self.play.value = True
        self._play(True)

    def _play(self, on: bool) -> None:
        self.studio.play(on)
        if not on:
            self.panel.refresh()

    def _record(self, event: Any) -> None:
        if self._film is None:
            self._film = Film(self.studio.base.size)
            self.record.label = "Stop and save"
            window = self._windows.get(event.client_id)
            if window is not None and window.picture is not None:
                self._film.add(window.picture)
            return
        film, self._film = self._film, None
        self.record.label = "Record"
        self._send_film(event.client, "recording.mp4", film.frames(self.config.film_rate, time.monotonic()))

    def _turntable(self, event: Any) -> None:
        note = event.client.add_notification("Turntable", "Drawing ...", loading=True, with_close_button=False)
        try:
            frames = self.studio.turntable(
                self._camera(event.client), self.config.turntable_seconds, self.config.film_rate
            )
            self._send_film(event.client, "turntable.mp4", frames)
        finally:
            note.remove()

    def _send_film(self, client: Any, name: str, frames: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write_video(path, frames, self.config.film_rate, self._mark())
            client.send_file_download(name, path.read_bytes(), save_immediately=True)

    def _save_picture(self, event: Any) -> None:
        picture = self.studio.model.render(
            self.studio.look.factors, self._camera(event.client), psi=self.studio.look.psi, blend=self.studio.look.blend
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "portrait.png"
            mark = picture.provenance()
            save_image(path, picture.to_uint8()[0], Provenance(self._mark().source_type, mark.metadata))
            event.client.send_file_download(path.name, path.read_bytes(), save_immediately=True)

    def _save_factors(self, event: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "factors.json"
            save_factors(path, self.studio.look.factors, self._camera(event.client))
            event.client.send_file_download(path.name, path.read_bytes(), save_immediately=True)

    def _mark(self) -> Provenance:
        """Photographs that were inverted are edited, other people are invented."""
        edited = self.studio.person is not None
        return Provenance("compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia")


def check_picture(name: str, content: bytes) -> None:
    """Refuse what is no picture, or one that would fill the memory, before it is decoded.

    Raises:
        CopoError: See above.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise CopoError(f"{name} is not a picture that can be read: give a .jpg or .png") from None
    if pixels > LARGEST_PIXELS:
        raise CopoError(f"{name}: {pixels / 1e6:.0f} million pixels; give one with at most {LARGEST_PIXELS // 10**6}")


def open_person(model: Portrait, path: Path) -> tuple[Portrait, Factors, PortraitFile | None]:
    """A portrait file or a factor file: whom it shows, and by which model.

    Args:
        model: The viewer's.
        path: The file.

    Raises:
        CopoError: It is damaged, of another head or model, or holds several portraits.
    """
    if is_portrait_file(path):
        file = load_portrait_file(path)
        return model.with_generator(personal(model.generator, file, f"portrait file {path}")), file.person, file
    factors = load_factors(path).factors
    return model, person_of(fitted(factors, model)), None


def fitted(factors: Factors, model: Portrait) -> Factors:
    """Factors with the model's own length of the noise code, where theirs is all zero anyway.

    Raises:
        CopoError: They are another head's.
    """
    spec, given = model.spec, factors.spec
    if given.head != spec.head or {**given.sizes, "noise": spec.noise} != spec.sizes:
        raise CopoError(f"these factors are of head {given.head!r}, the model reads {spec.head!r}: give others")
    if given.noise != spec.noise and bool(factors.noise.any()):
        raise CopoError(f"these factors have a noise code of {given.noise} numbers, the model reads {spec.noise}")
    noise = factors.noise if given.noise == spec.noise else torch.zeros(len(factors), spec.noise)
    parts = {name: getattr(factors, name) for name in ("shape", "albedo", "expression", "illumination")}
    return Factors(spec=spec, noise=noise, **parts)


def open_clip(
    path: Path, model: Portrait, progress: Callable[[int, int], None] = lambda done, total: None
) -> DrivingClip:
    """A driving clip from its file, or from the beginning of a video of a face, smoothed.

    Args:
        path: The file, or a folder of the method's .mat.
        model: Whose device looks at videos.
        progress: Told how many frames of how many were looked at.

    Raises:
        CopoError: The file cannot be used, or the video shows no face.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return read_clip(path)
    analyser = Analyser.load(device=model.device)
    return follow_face(path, analyser, VIDEO_RATE, VIDEO_SECONDS, progress).smoothed(1.0)


def start_viewer(
    model: Portrait, config: ViewerConfig, seed: int = 0, person: Path | None = None, clip: Path | None = None,
    psi: float = 1.0, blend: str = "none",
) -> Viewer:  # fmt: skip
    """A viewer that serves; `wait` or `start` makes it draw.

    Args:
        model: Whose portraits are shown.
        config: How.
        seed: Who is shown first.
        person: A portrait or factor file, instead.
        clip: A driving clip to have at hand.
        psi: Truncation.
        blend: What is held still.

    Raises:
        CopoError: A file cannot be used, or the port cannot be listened on.
    """
    if not 0 <= psi <= 1:
        raise CopoError(f"--psi {psi:g}: choose 0 to 1")
    studio = Studio(model, Look(model.sample(seed=seed), psi, blend, seed))
    if person is not None:
        studio.take(*open_person(model, person))
    if clip is not None:
        studio.load(open_clip(clip, model))
    return Viewer(studio, config)
