"""What of the page needs no model: cameras of the browser, pictures in its window, uploads that are let in, films."""

from __future__ import annotations

import io
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from copo.camera import Camera
from copo.errors import CopoError

Picture = NDArray[np.uint8]
PAPER = 236
"""Grey of the page beside the portrait."""


def camera_of_client(wxyz: NDArray[np.floating], position: NDArray[np.floating], fov: float) -> Camera:
    """The browser's camera.

    Args:
        wxyz: (4,) quaternion from camera (x right, y down, z forward) to world.
        position: (3,) metres.
        fov: Across the height of the window, radians.

    Raises:
        CopoError: The numbers are no camera.
    """
    numbers = np.concatenate([np.asarray(wxyz, float), np.asarray(position, float), [fov]])
    norm = float(np.linalg.norm(numbers[:4]))
    if not np.isfinite(numbers).all() or norm < 1e-6 or not 0 < fov < math.pi:
        raise CopoError("the browser's camera is none")
    w, x, y, z = numbers[:4] / norm
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    cam2world = torch.eye(4)[None]
    cam2world[0, :3, :3] = torch.tensor(rotation)
    cam2world[0, :3, 3] = torch.tensor(numbers[4:7])
    focal = 0.5 / math.tan(fov / 2)
    return Camera(cam2world, torch.tensor([[[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1.0]]]))


SENT = 512
"""Smallest side of a picture that is sent; smaller ones are enlarged smoothly, which JPEG and browsers do not do."""


def enlarged(picture: Picture) -> Picture:
    """(S, S, 3) -> at least `SENT` pixels wide."""
    if picture.shape[0] >= SENT:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SENT, SENT), Image.Resampling.BICUBIC))


def in_window(picture: Picture, aspect: float) -> Picture:
    """A square picture as high as a window, with paper beside it, or cut where the window is narrower.

    Args:
        picture: (S, S, 3) uint8.
        aspect: Width of the window divided by its height.
    """
    side = picture.shape[0]
    width = max(round(side * min(max(aspect, 0.2), 5.0)), 1)
    if width <= side:
        left = (side - width) // 2
        return picture[:, left : left + width]
    out = np.full((side, width, 3), PAPER, np.uint8)
    left = (width - side) // 2
    out[:, left : left + side] = picture
    return out


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        CopoError: It is in use or not allowed, the number is none, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise CopoError(f"--port {port}: choose 0 to 65535; 0 takes any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "choose another with --port, or 0 for any free one" if port else "give an address of this machine"
        raise CopoError(f"cannot listen on {host}:{port}: {reason}; {hint}") from error


@dataclass(frozen=True)
class Uploads:
    """What may be uploaded.

    Attributes:
        megabytes: Largest file, MiB.
        suffixes: Endings of names, by the label of the button.
    """

    megabytes: float
    suffixes: dict[str, frozenset[str]]

    def check(self, label: str, name: str, size: int) -> None:
        """Refuse a file.

        Raises:
            CopoError: Unknown ending, empty, or too large.
        """
        allowed = self.suffixes[label]
        if PurePath(name).suffix.lower() not in allowed:
            raise CopoError(f"{PurePath(name).name}: give a file that ends in {', '.join(sorted(allowed))}")
        if not 0 < size <= self.megabytes * 2**20:
            raise CopoError(
                f"{PurePath(name).name}: {size / 2**20:.1f} MiB; files up to {self.megabytes:g} MiB are taken"
            )


def guard_uploads(server: Any, labels: dict[str, str], uploads: Uploads, say: Callable[[int, str], None]) -> None:
    """Let the server refuse uploads when they are announced, before their content is sent and kept.

    Args:
        server: viser's.
        labels: Label of each upload button, by its identifier.
        uploads: What is let in.
        say: Tells a client (by number) what is wrong.
    """
    from viser import _messages as messages

    gui, link = server.gui, server._websock_server
    begin, go_on = gui._handle_file_transfer_start, gui._handle_file_transfer_part

    def start(client: int, message: Any) -> None:
        label = labels.get(message.source_component_uuid)
        if label is None:
            return
        try:
            uploads.check(label, message.filename, message.size_bytes)
        except CopoError as error:
            say(client, str(error))
            refuse(message.source_component_uuid, message.transfer_uuid, message.size_bytes)
            return
        begin(client, message)

    def part(client: int, message: Any) -> None:
        state = gui._current_file_upload_states.get(message.transfer_uuid)
        if state is None:
            return
        if state["transferred_bytes"] + len(message.content) > state["total_bytes"]:
            gui._current_file_upload_states.pop(message.transfer_uuid, None)  # more than was announced
            return
        go_on(client, message)

    def refuse(source: str, transfer: str, size: int) -> None:
        """Tell the browser that it is done, so that its progress bar goes away."""
        link.queue_message(messages.FileTransferPartAck(source, transfer, size, size))

    link.unregister_handler(messages.FileTransferStartUpload, begin)
    link.unregister_handler(messages.FileTransferPart, go_on)
    link.register_handler(messages.FileTransferStartUpload, start)
    link.register_handler(messages.FileTransferPart, part)


LONGEST_FILM = 180.0
"""Seconds after which a recording ends by itself."""


@dataclass
class Film:
    """A recording of what was shown.

    Attributes:
        side: Of its pictures, pixels.
        shots: Clock and JPEG of each picture.
    """

    side: int
    shots: list[tuple[float, bytes]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, picture: Picture, now: float | None = None) -> None:
        """Take a picture; quick looks are enlarged."""
        image = Image.fromarray(picture)
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=95, subsampling=0)
        with self._lock:
            self.shots.append((time.monotonic() if now is None else now, out.getvalue()))

    @property
    def full(self) -> bool:
        """Whether it is as long as it may be."""
        return bool(self.shots) and self.shots[-1][0] - self.shots[0][0] > LONGEST_FILM

    def frames(self, rate: float, end: float | None = None) -> Iterator[Picture]:
        """Pictures at a constant rate: at each moment the one that was shown.

        Args:
            rate: Frames a second.
            end: Clock at which the recording stopped.

        Raises:
            CopoError: Nothing was shown.
        """
        if not self.shots:
            raise CopoError("nothing was recorded: move something between start and stop")
        start = self.shots[0][0]
        last = max(self.shots[-1][0], self.shots[-1][0] if end is None else end)
        at, shown = 0, -1
        picture: Picture | None = None
        for i in range(max(int((last - start) * rate) + 1, 1)):
            while at + 1 < len(self.shots) and self.shots[at + 1][0] - start <= i / rate + 1e-9:
                at += 1
            if at != shown or picture is None:
                picture, shown = np.asarray(Image.open(io.BytesIO(self.shots[at][1]))), at
            yield picture
