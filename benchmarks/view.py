"""Pictures a second that `copo view` delivers to a browser: orbiting, a moving slider, a playing clip.

    python3 benchmarks/view.py --device cuda --seconds 4 --json view.json

The real server runs in this process. Another one plays the browser over a real websocket, since a browser takes no
time from the server's Python: it sends cameras, or values of a slider, `--rate` times a second, and notes when pictures
come. No acknowledgement is due. (Viser's page itself sends at most 50 cameras and 20 slider values a second.)

Every picture that arrives is matched by its JPEG to the drawing that it came from, which tells its rays and the camera
or value that it shows. Latency is the time from sending that camera or value to the arrival of its picture. Drawn
pictures that a newer one overtakes in the server's queue (it sends every 1/60 s) count as drawn, not as delivered. "At
rest" is the time from the end of a motion to the picture with all rays that stays.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec.msgpack
import numpy as np
import torch
import viser
import zstandard
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from copo.animation.talk import talk_clip
from copo.app.page import enlarged
from copo.app.studio import Look, Picture, Studio
from copo.app.viewer import Viewer, ViewerConfig
from copo.bench.timing import machine
from copo.camera import Camera, turn_cameras
from copo.errors import CopoError
from copo.portrait import Portrait

WINDOW = (1280, 720)
"""Width and height of the browser's window, pixels."""
UNIT = "jawOpen"
"""The expression unit whose slider moves; the first one of a head that lacks it."""
YAW, PITCH, ROUND, UP_DOWN, SLIDE = 0.6, 0.15, 4.237, 2.718, 1.618
"""The orbit's reach (radians) and the seconds of its sweeps and of the slider's; no value comes twice."""
WARM_UP, PATIENCE, LISTEN = 1.0, 300.0, 0.1
"""Seconds of each motion that do not count; after which a picture is given up; between looks at what arrived."""
ALIKE, FLAT = 6.0, 12.0
"""Of 255: largest mean difference between what arrived and what is drawn; least standard deviation of a portrait."""


# --- the browser ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What the browser does next.

    Attributes:
        messages: What it sends, packed.
        rate: How many a second.
        seconds: How long it goes on, at least.
    """

    messages: Sequence[bytes] = ()
    rate: float = 1.0
    seconds: float = LISTEN


@dataclass(frozen=True)
class Arrived:
    """A picture that came.

    Attributes:
        time: Monotonic clock, which all processes of the machine share.
        mark: Of its bytes.
        size: Bytes.
    """

    time: float
    mark: bytes
    size: int


@dataclass
class Answer:
    """What happened since the last order.

    Attributes:
        sent: Clock at which each message left.
        pictures: That came.
        last: The last of them, a JPEG; empty if none came.
    """

    sent: list[float] = field(default_factory=list)
    pictures: list[Arrived] = field(default_factory=list)
    last: bytes = b""


def mark_of(jpeg: bytes) -> bytes:
    """Tells pictures apart."""
    return hashlib.blake2b(jpeg, digest_size=12).digest()


def pictures_in(frame: bytes, zstd: zstandard.ZstdDecompressor) -> list[bytes]:
    """The background pictures of one frame of viser: 16 bytes of sizes, packed messages, arrays."""
    size = int.from_bytes(frame[8:16], "little")
    content = msgspec.msgpack.decode(zstd.decompress(frame[16 : 16 + size]))
    found = [m for m in content["messages"] if m["type"] == "BackgroundImageMessage"]
    return [m["rgb_data"] for m in found if m["rgb_data"] is not None]


def browser(orders: Connection) -> None:
    """The other process: connects to the port it is told, then follows orders until there is None."""
    port = orders.recv()
    answer, lock = Answer(), threading.Lock()

    def listen(page: ClientConnection) -> None:
        zstd = zstandard.ZstdDecompressor()
        while True:
            try:
                frame = page.recv()
            except ConnectionClosed:
                return
            now = time.monotonic()
            assert isinstance(frame, bytes)
            for jpeg in pictures_in(frame, zstd):
                with lock:
                    answer.pictures.append(Arrived(now, mark_of(jpeg), len(jpeg)))
                    answer.last = jpeg

    link = socket.create_connection(("127.0.0.1", port), timeout=30)  # its own socket: no proxy
    version = Subprotocol(f"viser-v{viser.__version__}")
    uri = f"ws://127.0.0.1:{port}"
    with connect(uri, sock=link, subprotocols=[version], compression=None, max_size=None) as page:
        listener = threading.Thread(target=listen, args=(page,), daemon=True)
        listener.start()
        while (order := orders.recv()) is not None:
            sent, start = [], time.monotonic()
            for i, message in enumerate(order.messages):
                wait_until(start + i / order.rate)
                sent.append(time.monotonic())
                page.send(message)
            wait_until(start + max(order.seconds, len(order.messages) / order.rate))
            with lock:
                full, answer = answer, Answer()
            full.sent = sent
            orders.send(full)


def wait_until(when: float) -> None:
    """Sleep."""
    left = when - time.monotonic()
    if left > 0:
        time.sleep(left)


# --- the server, watched ----------------------------------------------------------------------------------------------


@dataclass
class Drawn:
    """A picture that the studio drew.

    Attributes:
        look: What it shows.
        position: Of its camera.
        rays: Per side.
        began: Clock.
        ended: Clock.
        queued: Clock at which the server had it as a JPEG to send.
    """

    look: Look
    position: tuple[float, ...]
    rays: int
    began: float
    ended: float
    queued: float = math.nan


class WatchedStudio(Studio):
    """Remembers what it drew."""

    def __init__(self, model: Portrait, look: Look) -> None:
        super().__init__(model, look)
        self.drawn: list[Drawn] = []

    def draw(self, camera: Camera, rays: int | None = None, look: Look | None = None) -> Picture:
        what, began = look or self.look, time.monotonic()
        picture = super().draw(camera, rays, what)
        self.drawn.append(Drawn(what, position_of(camera), rays or self.rays, began, time.monotonic()))
        return picture


class WatchedViewer(Viewer):
    """Remembers which drawing each JPEG came from."""

    studio: WatchedStudio

    def __init__(self, studio: WatchedStudio, config: ViewerConfig) -> None:
        self.sources: dict[bytes, Drawn] = {}
        super().__init__(studio, config)

    def _came(self, client: Any) -> None:
        link = client.scene._websock_interface
        queue: Callable[[Any], None] = link.queue_message

        def watched(message: Any) -> None:
            if type(message).__name__ == "BackgroundImageMessage" and message.rgb_data is not None:
                drawn = self.studio.drawn[-1]  # by the thread that is here now
                drawn.queued = time.monotonic()
                self.sources[mark_of(message.rgb_data)] = drawn
            queue(message)

        link.queue_message = watched
        super()._came(client)


def position_of(camera: Camera) -> tuple[float, ...]:
    """Tells cameras of the orbit apart."""
    return tuple(camera.position[0].tolist())


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Motion:
    """Figures of one kind of motion; milliseconds are medians.

    Attributes:
        motion: What moved.
        asked: Changes a second.
        median: Pictures a second that arrived, of all spans of one second.
        worst: Of the poorest span.
        mean: Over the whole time.
        drawn: Pictures a second that were drawn.
        full_rays: Share of the pictures that arrived that had all rays.
        rays: How many arrived, by rays per side.
        draw_ms: To draw one.
        encode_ms: From drawn to a JPEG in the queue.
        latency_ms: From a change to its picture.
        latency_95_ms: 95 of 100 came sooner.
        rest_ms: From the end of the motion to the whole picture that stays.
        kilobytes: Of a picture.
    """

    motion: str
    asked: float
    median: float
    worst: float
    mean: float
    drawn: float
    full_rays: float
    rays: dict[int, int]
    draw_ms: float
    encode_ms: float
    latency_ms: float | None
    latency_95_ms: float | None
    rest_ms: float
    kilobytes: float


@dataclass(frozen=True)
class Figures:
    """Everything.

    Attributes:
        machine: What it was measured on.
        seconds: That count, of each motion.
        model: Name.
        drawn_size: Side of a picture of the model, pixels.
        rays: Per side of a whole one.
        picture: Width and height of the last picture that arrived, pixels.
        deviation: Standard deviation of its portrait, of 255.
        difference: Mean difference between its portrait and what the studio draws, of 255.
        first_ms: From the browser's first camera to its first picture.
        first_draws_ms: Time of the first drawings, in their order.
        motions: By kind.
    """

    machine: dict[str, object]
    seconds: float
    model: str
    drawn_size: int
    rays: int
    picture: tuple[int, int]
    deviation: float
    difference: float
    first_ms: float
    first_draws_ms: list[float]
    motions: list[Motion]


class Session:
    """A server with one browser.

    Args:
        viewer: The server.
        orders: The browser's.
        rate: Changes a second.
        seconds: That count, of each motion.
    """

    def __init__(self, viewer: WatchedViewer, orders: Connection, rate: float, seconds: float) -> None:
        self.viewer, self.studio, self.orders = viewer, viewer.studio, orders
        self.rate, self.seconds = rate, seconds
        self.arrived: list[Arrived] = []
        self.last = b""
        self.camera = self.studio.base.default_camera.to("cpu")
        orders.send(viewer.server.get_port())

    def follow(self, order: Order) -> list[float]:
        """Have the browser do something; returns when it sent its messages."""
        self.orders.send(order)
        answer: Answer = self.orders.recv()
        self.arrived += answer.pictures
        self.last = answer.last or self.last
        return answer.sent

    def rest(self) -> Arrived:
        """Wait for a whole picture of what is shown, and until nothing follows it; returns the first such."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            before = len(self.arrived)
            self.follow(Order())
            if len(self.arrived) == before and self.arrived and self._stays(self.arrived[-1]):
                return next(a for a in self.arrived if self._stays(a))
        raise CopoError(f"no whole picture came within {PATIENCE:g} s")

    def _stays(self, arrived: Arrived) -> bool:
        drawn = self.viewer.sources[arrived.mark]
        now = drawn.look is self.studio.look and drawn.position == position_of(self.camera)
        return now and drawn.rays == self.studio.rays

    def open(self) -> float:
        """Look at the portrait; returns the milliseconds to the first picture."""
        (sent,) = self.follow(Order([camera_message(self.camera)]))
        self.rest()
        return (self.arrived[0].time - sent) * 1e3

    def orbit(self) -> Motion:
        """The camera moves."""
        at = self._times()
        yaw, pitch = YAW * torch.sin(2 * math.pi / ROUND * at), PITCH * torch.sin(2 * math.pi / UP_DOWN * at)
        cameras = turn_cameras(self.camera.expand(len(at)), yaw, pitch)
        positions = [position_of(cameras[i]) for i in range(len(at))]
        messages = [camera_message(cameras[i]) for i in range(len(at))]
        self.camera = cameras[len(at) - 1]
        return self._moved("orbit", messages, positions, lambda drawn: drawn.position)

    def slide(self) -> Motion:
        """A slider moves: every picture needs new planes."""
        names = self.studio.base.spec.expression_names
        unit = names.index(UNIT) if UNIT in names else 0
        slider = dict(self.viewer.panel.sliders["expression"])[unit]
        swing = 0.5 - 0.5 * torch.cos(2 * math.pi / SLIDE * self._times())
        values = (slider.min + (slider.max - slider.min) * swing).tolist()
        messages = [slider_message(slider._impl.uuid, value) for value in values]
        return self._moved("slider", messages, values, lambda drawn: float(drawn.look.factors.expression[0, unit]))

    def clip(self) -> Motion:
        """A clip plays."""
        self.studio.load(talk_clip(self.rate))
        start = time.monotonic()
        self.studio.play(True)
        self.follow(Order(seconds=WARM_UP + self.seconds))
        end = time.monotonic()
        self.studio.play(False)
        return self._figures("clip", start + WARM_UP, end, {}, lambda drawn: None)

    def _times(self) -> torch.Tensor:
        """Seconds at which something changes, after the first moment, at which it is where it was."""
        return torch.arange(1, round((WARM_UP + self.seconds) * self.rate) + 1, dtype=torch.float32) / self.rate

    def _moved(
        self, motion: str, messages: list[bytes], shows: Sequence[object], shown: Callable[[Drawn], object]
    ) -> Motion:
        """Have the browser send messages, each of which leads to pictures that show something of its own."""
        sent = self.follow(Order(messages, self.rate))
        left = dict(zip(shows, sent, strict=True))
        return self._figures(motion, sent[0] + WARM_UP, sent[-1], left, shown)

    def _figures(
        self, motion: str, start: float, end: float, left: dict[Any, float], shown: Callable[[Drawn], object]
    ) -> Motion:
        whole = self.rest()
        counted = [a for a in self.arrived if start <= a.time < end]
        if not counted:
            raise CopoError(f"{motion}: no picture came in {end - start:.1f} s; give more --seconds")
        sources = [self.viewer.sources[a.mark] for a in counted]
        drawn = [d for d in self.studio.drawn if start <= d.ended < end]
        spans = pictures_a_second([a.time for a in counted], start, end)
        known = [(a, shown(d)) for a, d in zip(counted, sources, strict=True)]
        latency = [(a.time - left[what]) * 1e3 for a, what in known if what in left]
        return Motion(
            motion=motion,
            asked=self.rate,
            median=statistics.median(spans),
            worst=min(spans),
            mean=len(counted) / (end - start),
            drawn=len(drawn) / (end - start),
            full_rays=sum(d.rays == self.studio.rays for d in sources) / len(sources),
            rays=dict(sorted(Counter(d.rays for d in sources).items())),
            draw_ms=statistics.median((d.ended - d.began) * 1e3 for d in sources),
            encode_ms=statistics.median((d.queued - d.ended) * 1e3 for d in sources),
            latency_ms=statistics.median(latency) if latency else None,
            latency_95_ms=float(np.percentile(latency, 95)) if latency else None,
            rest_ms=max((whole.time - end) * 1e3, 0.0),
            kilobytes=statistics.median(a.size / 1e3 for a in counted),
        )

    def check(self) -> tuple[tuple[int, int], float, float]:
        """That what arrived last is the portrait that the studio draws; returns its size, deviation, difference.

        Raises:
            CopoError: It is something else.
        """
        image = Image.open(io.BytesIO(self.last)).convert("RGB")
        got = middle(np.asarray(image)).astype(np.float64)
        wanted = enlarged(self.studio.draw(self.camera)).astype(np.float64)
        if got.shape != wanted.shape:
            raise CopoError(f"a picture of {image.width} x {image.height} px arrived, of a portrait {wanted.shape}")
        deviation, difference = float(got.std()), float(np.abs(got - wanted).mean())
        if deviation < FLAT or difference > ALIKE:
            raise CopoError(f"no portrait arrived: deviation {deviation:.1f}, difference {difference:.1f} of 255")
        return image.size, deviation, difference


def middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The portrait in a wide window."""
    height, width = picture.shape[:2]
    left = (width - height) // 2
    return picture[:, left : left + height]


def pictures_a_second(times: Sequence[float], start: float, end: float) -> list[float]:
    """Pictures in every span of a second, a tenth of a second apart."""
    at = np.asarray(times)
    starts = np.arange(start, max(end - 1.0, start) + 1e-6, 0.1)
    return [float(((at >= s) & (at < s + 1.0)).sum()) for s in starts]


def camera_message(camera: Camera) -> bytes:
    """What the page sends when the camera moved."""
    x, y, z, w = Rotation.from_matrix(camera.cam2world[0, :3, :3].double().numpy()).as_quat().tolist()
    position = camera.position[0]
    return msgspec.msgpack.encode(
        {
            "type": "ViewerCameraMessage",
            "wxyz": (w, x, y, z),
            "position": position_of(camera),
            "fov": float(camera.fov[0]),
            "near": 0.01,
            "far": 1000.0,
            "image_width": WINDOW[0],
            "image_height": WINDOW[1],
            "look_at": (position + camera.forward[0] * position.norm()).tolist(),
            "up_direction": (0.0, 1.0, 0.0),
        }
    )


def slider_message(slider: str, value: float) -> bytes:
    """What the page sends when a slider moved."""
    return msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": slider, "updates": {"value": value}})


def look_on(session: Session) -> tuple[float, list[Motion], tuple[tuple[int, int], float, float]]:
    """All that the browser does: milliseconds to the first picture, the motions, and the check."""
    return session.open(), [session.orbit(), session.slide(), session.clip()], session.check()


def measure(device: str, seconds: float, rate: float, seed: int, source: str | None) -> Figures:
    """Serve, look, and count.

    Args:
        device: auto, cpu, cuda or cuda:N.
        seconds: That count, of each motion.
        rate: Changes a second.
        seed: Who is shown.
        source: Of the model; by default the packaged one.

    Raises:
        CopoError: No pictures came, or other ones.
    """
    if seconds < 1 or not 1 <= rate <= 1000:
        raise CopoError("give --seconds of at least 1, and a --rate of 1 to 1000")
    processes = multiprocessing.get_context("spawn")
    orders, theirs = processes.Pipe()
    other = processes.Process(target=browser, args=(theirs,), daemon=True)
    other.start()
    theirs.close()
    try:
        model = Portrait.from_pretrained(source, device=device)
        studio = WatchedStudio(model, Look(model.sample(seed=seed), seed=seed))
        viewer = WatchedViewer(studio, ViewerConfig(port=0))
        session = Session(viewer, orders, rate, seconds)
        with ThreadPoolExecutor(1) as beside:
            looked = beside.submit(look_on, session)
            looked.add_done_callback(lambda _: viewer.stop())
            viewer.wait()  # draws here, as copo view does
        first, motions, (picture, deviation, difference) = looked.result()
        orders.send(None)
        other.join(timeout=10)
    finally:
        other.kill()
    draws = [round((d.ended - d.began) * 1e3, 2) for d in studio.drawn[:8]]
    where = {**machine(model.device), "viser": viser.__version__}
    return Figures(where, seconds, model.name, model.size, studio.rays, picture, deviation, difference,
                   first, draws, motions)  # fmt: skip


def report(figures: Figures) -> str:
    """The figures as text."""
    where, (width, height) = figures.machine, figures.picture
    draws = ", ".join(f"{ms:.0f}" for ms in figures.first_draws_ms)
    lines = [
        f"{figures.model} on {where['device']}, torch {where['torch']}, {where['threads']} threads, "
        f"viser {where['viser']}",
        f"drawn {figures.drawn_size} px with {figures.rays} x {figures.rays} rays; received {width} x {height} px, "
        f"a portrait: deviation {figures.deviation:.0f}, {figures.difference:.1f} of 255 from what is drawn",
        f"first picture after {figures.first_ms:.0f} ms; the first drawings took {draws} ms",
        "",
        f"{'':<8}{'asked':>7}{'median':>8}{'worst':>7}{'mean':>7}{'drawn':>7}{'all rays':>10}{'draw':>8}{'encode':>8}"
        f"{'latency':>9}{'95 %':>8}{'at rest':>9}{'kB':>6}  rays",
        f"{'':<8}{'/s':>7}{'/s':>8}{'/s':>7}{'/s':>7}{'/s':>7}{'%':>10}{'ms':>8}{'ms':>8}{'ms':>9}{'ms':>8}{'ms':>9}",
    ]
    for m in figures.motions:
        latency, slow = ("-" if ms is None else f"{ms:.0f}" for ms in (m.latency_ms, m.latency_95_ms))
        rays = ", ".join(f"{count} of {rays}" for rays, count in m.rays.items())
        lines.append(
            f"{m.motion:<8}{m.asked:>7g}{m.median:>8.1f}{m.worst:>7.0f}{m.mean:>7.1f}{m.drawn:>7.1f}"
            f"{100 * m.full_rays:>10.0f}{m.draw_ms:>8.1f}{m.encode_ms:>8.1f}{latency:>9}{slow:>8}{m.rest_ms:>9.0f}"
            f"{m.kilobytes:>6.0f}  {rays}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="that count, of each motion")
    parser.add_argument("--rate", type=float, default=60.0, help="cameras, slider values, clip frames a second")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--model", default=None, help="by default the packaged one")
    parser.add_argument("--seed", type=int, default=41, help="who is shown")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    figures = measure(options.device, options.seconds, options.rate, options.seed, options.model)
    print(report(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
