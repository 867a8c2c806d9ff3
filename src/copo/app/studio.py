"""What the viewer shows, without the page: a person, a model, a clip, and pictures of them.

Anybody may change it from any thread; pictures are drawn by one thread at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copo.animation.clip import DrivingClip
from copo.animation.paths import camera_path
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.blending import Blend
from copo.field.portrait_field import PortraitPlanes, Reference
from copo.formats.portrait_file import PortraitFile
from copo.portrait import Portrait, neutral

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """What is shown.

    Attributes:
        factors: (1).
        psi: Truncation.
        blend: none, background, hair or both.
        seed: That the factors began with; None for a file or a photograph.
    """

    factors: Factors
    psi: float = 1.0
    blend: str = "none"
    seed: int | None = None


@dataclass
class Playing:
    """A clip that drives the face.

    Attributes:
        clip: The motion.
        expression: (N, units) of the model's head.
        began: Clock at its first frame; None while it stands.
        at: Frame at which it stands.
    """

    clip: DrivingClip
    expression: torch.Tensor
    began: float | None = None
    at: int = 0

    def frame(self, now: float) -> int:
        """The frame that is shown at a time."""
        if self.began is None:
            return self.at
        return int((now - self.began) * self.clip.rate) % len(self.clip)


class Studio:
    """The state of a viewer.

    Args:
        model: Whose portraits are shown.
        look: What is shown first.
    """

    def __init__(self, model: Portrait, look: Look) -> None:
        self.base = model
        self.model = model
        self.person: PortraitFile | None = None
        self.version = 0
        self.playing: Playing | None = None
        self._look = look
        self._lock = threading.RLock()
        self._drawing = threading.Lock()
        self._planes: tuple[tuple[Any, ...], PortraitPlanes] | None = None
        self._reference: tuple[tuple[Any, ...], Reference] | None = None
        self._seconds: dict[int, float] = {}

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def look(self) -> Look:
        """What is shown."""
        return self._look

    def change(self, **changes: Any) -> None:
        """Change parts of the look."""
        with self._lock:
            self._look = replace(self._look, **changes)
            self.version += 1

    def edit(self, change: Callable[[Factors], Factors]) -> None:
        """Change the factors that are shown by then: two sliders that move at once both count."""
        with self._lock:
            self.change(factors=change(self._look.factors))

    def sow(self, seed: int) -> None:
        """Show the person of a seed, of the model itself."""
        if seed < 0:
            raise CopoError(f"seed {seed} is negative: give 0 or more")
        with self._lock:
            self.model, self.person = self.base, None
            self.change(factors=self.base.sample(seed=seed), seed=seed)

    def take(self, model: Portrait, factors: Factors, person: PortraitFile | None) -> None:
        """Show somebody else: of a portrait file, or of factors with the model itself."""
        with self._lock:
            self.model, self.person = model, person
            self.change(factors=factors[0].to("cpu"), seed=None)

    def load(self, clip: DrivingClip) -> None:
        """Have a clip at hand; it stands at its first frame.

        Raises:
            CopoError: It moves another head.
        """
        expression = clip.for_spec(self.base.spec)
        with self._lock:
            self.playing = Playing(clip, expression)

    def play(self, on: bool) -> None:
        """Let the clip run, or hold it."""
        with self._lock:
            if self.playing is None:
                raise CopoError("no driving clip is loaded: open one first")
            now = time.monotonic()
            at = self.playing.frame(now)
            began = now - at / self.playing.clip.rate if on else None
            self.playing = replace(self.playing, began=began, at=at)

    def seek(self, frame: int) -> None:
        """Show one frame of the clip."""
        with self._lock:
            if self.playing is not None:
                at = frame % len(self.playing.clip)
                self.playing = replace(self.playing, began=None, at=at)
                self._follow(at)

    def tick(self) -> None:
        """Let a running clip move the face to where it is now."""
        with self._lock:
            if self.playing is not None and self.playing.began is not None:
                at = self.playing.frame(time.monotonic())
                if at != self.playing.at:
                    self.playing = replace(self.playing, at=at)
                    self._follow(at)

    def _follow(self, frame: int) -> None:
        assert self.playing is not None
        self.change(factors=self._look.factors.replace(expression=self.playing.expression[frame]))

    # --- pictures ---------------------------------------------------------------------------------------------------

    @property
    def rays(self) -> int:
        """Rays per side of a whole picture."""
        return self.base.generator.config.raw_resolution

    def draw(self, camera: Camera, rays: int | None = None, look: Look | None = None) -> Picture:
        """One picture, (H, W, 3) uint8.

        Args:
            camera: One.
            rays: Rays per side, fewer for a quick look; the model's own by default.
            look: Instead of what is shown.

        Raises:
            CopoError: The camera sees nothing.
        """
        with self._lock:
            model, what = self.model, look or self._look
        with self._drawing:
            began = time.perf_counter()
            planes = self._made(model, what)
            still = self._still(model, what)
            blend = Blend.of(what.blend)
            count = rays if rays is not None and rays != self.rays else None
            picture = model.render(planes, camera, blend=blend, reference=still, rays=count).to_uint8()[0]
            took = time.perf_counter() - began
        key = count or self.rays
        known = self._seconds.get(key, math.inf)
        self._seconds[key] = min(took, 0.7 * known + 0.3 * took)  # a first drawing, which compiles, is soon forgotten
        return picture

    def quick_rays(self, seconds: float) -> int:
        """Rays per side that are drawn within a time, by what pictures took: all, a half or a quarter."""
        whole = self.rays
        known = self._seconds.get(whole)
        if known is None or known <= seconds:
            return whole
        half = max(whole // 2, 8)
        return half if self._seconds.get(half, 0.0) <= seconds else max(whole // 4, 8)

    def turntable(self, camera: Camera, seconds: float, rate: float) -> Iterator[Picture]:
        """Whole pictures of a camera that goes around once, with the clip where there is one.

        Args:
            camera: In the middle.
            seconds: Length.
            rate: Frames a second.
        """
        look, playing = self.look, self.playing
        cameras = camera_path("ellipse", camera, max(round(seconds * rate), 1))
        for i in range(len(cameras)):
            shown = look
            if playing is not None:
                frame = int(i / rate * playing.clip.rate) % len(playing.clip)
                shown = replace(look, factors=look.factors.replace(expression=playing.expression[frame]))
            yield self.draw(cameras[i], look=shown)

    def _made(self, model: Portrait, look: Look) -> PortraitPlanes:
        key = (id(model), id(look.factors), look.psi)
        if self._planes is None or self._planes[0] != key:
            self._planes = (key, model.planes(look.factors, look.psi))
            self._held = look.factors  # keeps its id from being given to another
        return self._planes[1]

    def _still(self, model: Portrait, look: Look) -> Reference | None:
        """The same person without expression, for blending."""
        if look.blend == "none":
            return None
        rest = neutral(look.factors)
        key = (id(model), look.psi, rest.to_vector().numpy().tobytes())
        if self._reference is None or self._reference[0] != key:
            self._reference = (key, model.reference(rest, look.psi))
        return self._reference[1]
