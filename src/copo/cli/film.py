"""Options of commands that write a film or a strip of pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from copo.errors import CopoError
from copo.field.sampling import SamplingConfig
from copo.formats.pictures import Picture, save_image
from copo.formats.provenance import Provenance
from copo.formats.video import FASTEST, SLOWEST, VIDEO_FORMATS, check_video_path, write_video
from copo.portrait import Portrait, PortraitPicture
from copo.work.crew import progress

STRIPS = (".png", ".jpg", ".jpeg")
_MOST = 100_000


@dataclass
class Film:
    """How it is drawn and written."""

    fps: float = 24.0
    """Frames a second."""
    steps: int | None = None
    """For a strip of pictures (.png, .jpg): how many."""
    yaw: float = 0.0
    """Camera to the right of the face, degrees."""
    pitch: float = 0.0
    """Camera above the face, degrees."""
    psi: float = 1.0
    """Truncation of the generator: below 1 more average, and less controlled."""
    size: int | None = None
    """Side in pixels; the model's own by default."""
    rays: int | None = None
    """Rays per side instead of the model's own: fewer for a quick look."""
    fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Half the importance samples: quicker on a CPU, hardly different."""
    quality: int = 90
    """Of mp4, webm, webp and jpg, 1 to 100."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def check(self, out: Path) -> bool:
        """Refuse what cannot be written, before anything is loaded.

        Returns:
            Whether a strip of pictures is asked for instead of a film.

        Raises:
            CopoError: An unknown ending or a number out of range.
        """
        strip = out.suffix.lower() in STRIPS
        if not strip and out.suffix and out.suffix.lower() not in VIDEO_FORMATS:
            known = ", ".join((*STRIPS, *VIDEO_FORMATS))
            raise CopoError(f"--out {out}: unknown ending; choose one of {known}, or none for a folder of PNG frames")
        if not strip:
            check_video_path(out)
            if self.steps is not None:
                raise CopoError(
                    f"--steps counts the pictures of a strip, {out.name} is a film: give --seconds and --fps"
                )
        if self.steps is not None and not 1 <= self.steps <= 64:
            raise CopoError(f"--steps {self.steps}: choose 1 to 64")
        if not SLOWEST <= self.fps <= FASTEST:
            raise CopoError(f"--fps {self.fps:g}: choose {SLOWEST:g} to {FASTEST:g}")
        if not 1 <= self.quality <= 100:
            raise CopoError(f"--quality {self.quality}: choose 1 to 100")
        if not -180 <= self.yaw <= 180 or not -89 <= self.pitch <= 89:
            raise CopoError(
                f"camera at yaw {self.yaw:g}, pitch {self.pitch:g}: choose -180 to 180 and -89 to 89 degrees"
            )
        return strip

    def frames(self, option: str, seconds: float) -> int:
        """Frames of so many seconds.

        Raises:
            CopoError: None, or too many.
        """
        if not 0 < seconds * self.fps <= _MOST:
            raise CopoError(f"{option} {seconds:g}: choose above 0, and at most {_MOST} frames")
        return max(round(seconds * self.fps), 1)

    def sampling(self, model: Portrait) -> SamplingConfig | None:
        """The sampling that was asked for, None for the model's own."""
        return model.field.sampling.fast() if self.fast else None

    def write(
        self, out: Path, frames: Iterator[PortraitPicture], count: int, metadata: dict[str, Any], strip: bool
    ) -> None:
        """Draw and write, and tell what was written.

        Args:
            out: File or folder.
            frames: Batches of one picture.
            count: How many.
            metadata: Stands beside the mark; the recipe of the first frame joins it.
            strip: Whether the pictures become one.
        """
        start = time.perf_counter()
        with progress(count, "frames") as advance:
            first = next(frames)
            mark = Provenance(metadata={**first.provenance().metadata, **metadata})

            def shown() -> Iterator[Picture]:
                yield first.to_uint8()[0]
                advance(1)
                for picture in frames:
                    yield picture.to_uint8()[0]
                    advance(1)

            if strip:
                save_image(out, np.concatenate(list(shown()), axis=1), mark, self.quality)
            else:
                write_video(out, shown(), self.fps, mark, quality=self.quality)
        seconds = time.perf_counter() - start
        if self.json:
            body = {"written": [str(out)], "frames": count, "seconds": round(seconds, 3),
                    "per_second": round(count / seconds, 3)}  # fmt: skip
            print(json.dumps(body | ({} if strip else {"fps": self.fps}), indent=2))
            return
        what = "picture" if count == 1 else "pictures" if strip else "frames"
        print(f"{count} {what} in {seconds:.1f} s: {count / seconds:.2f} a second")
        print(f"wrote {out}")
