"""`copo animate`: a portrait that moves as a driving file says."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro
from torch import Tensor

from copo.animation.clip import DrivingClip, save_clip
from copo.animation.follow import follow_face
from copo.animation.paths import camera_path
from copo.animation.retarget import retarget
from copo.animation.sources import read_clip
from copo.animation.talk import BUILT_IN, talk_clip
from copo.camera import Camera
from copo.cli.subject import Person, Subject
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, Factors
from copo.field.blending import Blend
from copo.field.sampling import SamplingConfig
from copo.formats.factor_files import load_factors
from copo.formats.pictures import save_image
from copo.formats.provenance import Provenance
from copo.formats.video import FASTEST, SLOWEST, VIDEO_SUFFIXES, Picture, check_video_path, frames_done, write_video
from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.portrait import PortraitPicture
from copo.vision.analyser import Analyser
from copo.work.crew import counted

USUAL_RATE = 30.0
"""Most frames a second unless --fps says otherwise."""
PUBLISHED_PSI = 0.7
PUBLISHED_FAR = 1.15
"""The published program's videos: truncation, and the far end of rays with twice the samples (METHOD, section 3)."""


@dataclass
class Command:
    """Let a portrait move: expressions and poses of a file or a video of a face, before a moving camera.

    Example: copo animate --seed 41 --drive talk --blend both --camera ellipse --out clip.mp4

    --drive takes a LiveLink Face recording (.csv), a video of a face, a folder of the method's .mat files, a factor
    file of many frames, or talk, a short clip in the box (docs/animate.md).
    """

    out: Path = Path("clip.mp4")
    """File to write: .mp4 (H.264), .webm, .gif, .webp; a name without an ending is a folder of PNG frames, which goes
    on where it stopped."""
    drive: str | None = None
    """Driving file, or talk. Without it the face rests while the camera moves."""
    camera: Literal["fixed", "ellipse", "orbit", "sway", "drive"] = "fixed"
    """ellipse: the method's path (yaw +-23, pitch +-11 degrees); orbit: once around; sway: from side to side; drive: as
    the head in the driving file turns."""
    blend: str | None = None
    """What is held still: none, background, hair, both (these two), still (clothes and ears too), or class names with
    commas. Without it still, and with --published both."""
    edges: Literal["soft", "hard"] = "soft"
    """How what is held still meets what moves."""
    reference: str = "neutral"
    """The frame that still parts are taken from: neutral (no expression), first, a frame's number, or a factor file."""
    fps: float | None = None
    """Frames a second; by default the driving file's, at most 30."""
    seconds: float | None = None
    """Only the beginning of the driving file; without one, the length of the film (4)."""
    smooth: float | None = None
    """Against trembling estimates: 0 none, 1 the usual for videos, more is calmer. By default only videos."""
    strength: float = 1.0
    """Multiplies expressions."""
    head: float = 1.0
    """Multiplies the head's turns with --camera drive; negative turns the other way."""
    calibrate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take each unit's lowest values for its rest."""
    drive_rate: float | None = None
    """Frames a second of the driving file where it does not say (.mat: 24, factors: 30), or of a video to look at."""
    save_drive: Path | None = None
    """Also write what drives as .npz, which --drive reads: a video need not be looked at again."""
    analyser: Path | None = None
    """Another analyser.safetensors than the one in the package, for videos."""
    round_seconds: float | None = None
    """Seconds of one round of ellipse, orbit and sway; by default the whole film."""
    yaw: float = 0.0
    """Camera at rest to the right of the face, degrees."""
    pitch: float = 0.0
    """Camera at rest above the face, degrees."""
    psi: float | None = None
    """Truncation of the generator, 1 by default: below 1 more average, and less controlled."""
    size: int | None = None
    """Side in pixels; the model's own by default."""
    rays: int | None = None
    """Rays per side instead of the model's own: fewer for a quick look."""
    fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Half the importance samples: quicker on a CPU, hardly different."""
    quality: int = 90
    """Of mp4, webm and webp, 1 to 100."""
    sound: bool = True
    """Keep the sound of a driving video (mp4 and webm)."""
    published: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """As the published program does: the first frame as reference, its blending, psi 0.7, rays that end later with
    twice the samples."""
    who: Annotated[Subject, tyro.conf.arg(name="")] = field(default_factory=Subject)
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        suffix = check_video_path(self.out)
        self._check()
        person = self.who.load()
        clip = self._clip(person)
        drive, cameras, rate = self._motion(person, clip)
        film = self._film(person, clip, drive, cameras, rate)
        frames = len(cameras)
        start = time.perf_counter()
        first = 0 if suffix else frames_done(self.out, film)
        with counted("frames") as advance:
            advance(first, frames)
            shown = self._frames(person, drive, cameras, first, advance)
            made = self._write(shown, first, film, rate, clip, suffix) if first < frames else 0
        self._tell(made, first, rate, time.perf_counter() - start, suffix, clip)

    # --- what is asked for ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for name, low, high in (
            ("fps", SLOWEST, FASTEST), ("drive_rate", SLOWEST, 1000.0), ("seconds", 1e-3, 36_000.0),
            ("round_seconds", 0.1, 36_000.0), ("smooth", 0.0, 100.0), ("strength", 0.0, 10.0), ("head", -10.0, 10.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise CopoError(f"--{name.replace('_', '-')} {value:g}: choose {low:g} to {high:g}")
        if not 1 <= self.quality <= 100:
            raise CopoError(f"--quality {self.quality}: choose 1 to 100")
        self._blend()

    def _blend(self) -> Blend:
        return Blend.published(self._held) if self.published else Blend.of(self._held, self.edges)

    @property
    def _held(self) -> str:
        return self.blend or ("both" if self.published else "still")

    def _clip(self, person: Person) -> DrivingClip | None:
        """What drives, at its own rate, in the units of the model's head."""
        if self.drive is None:
            if self.camera == "drive":
                raise CopoError("--camera drive needs a driving file: give --drive")
            return None
        smooth = self.smooth
        if self.drive in BUILT_IN:
            clip = talk_clip(self.fps or USUAL_RATE)
        elif Path(self.drive).suffix.lower() in VIDEO_SUFFIXES:
            analyser = Analyser.load(self.analyser, device=person.model.device)
            with counted("frames looked at") as advance:
                clip = follow_face(self.drive, analyser, self.drive_rate, self.seconds, advance)
            smooth = 1.0 if smooth is None else smooth
        else:
            clip = read_clip(self.drive, self.drive_rate)
        clip = clip.first(self.seconds).smoothed(smooth or 0.0)
        if self.calibrate:
            clip = clip.calibrated()
        if self.save_drive is not None:
            save_clip(self.save_drive, clip)
        return self._translated(clip.scaled(self.strength, self.head), person)

    def _translated(self, clip: DrivingClip, person: Person) -> DrivingClip:
        spec = person.model.spec
        if self.who.bfm is None or set(clip.names) & set(spec.expression_names):
            return clip  # in its own units, or `for_spec` says what is missing
        basel = cast(HeadModel, BaselFaceModel.load(self.who.bfm))
        own = cast(HeadModel, OpenHead.load())
        return retarget(clip, own, basel) if set(clip.names) <= set(ARKIT_NAMES) else retarget(clip, basel, own)

    def _motion(self, person: Person, clip: DrivingClip | None) -> tuple[Tensor | None, Camera, float]:
        """(T, expression) or None, T cameras, frames a second."""
        rest = person.model.camera(self.yaw, self.pitch)
        rate = self.fps or (24.0 if clip is None else min(clip.rate, USUAL_RATE))
        turn = None if self.round_seconds is None else max(round(self.round_seconds * rate), 1)
        if clip is None:
            count = max(round((self.seconds or 4.0) * rate), 1)
            return None, camera_path(self.camera, rest, count, period=turn), rate
        paced = clip.at_rate(rate)
        drive = paced.for_spec(person.model.spec)
        return drive, camera_path(self.camera, rest, len(paced), period=turn, pose=paced.pose), rate

    def _sampling(self, person: Person) -> SamplingConfig | None:
        own = person.model.field.sampling
        if self.published:
            own = replace(own, far=PUBLISHED_FAR, coarse=2 * own.coarse, fine=2 * own.fine)
        return own.fast() if self.fast else own if self.published else None

    def _reference(self, person: Person, drive: Tensor | None) -> Factors:
        name = "first" if self.published and self.reference == "neutral" else self.reference
        factors = person.factors
        if name == "neutral":
            return factors.replace(expression=factors.expression * 0)
        if name == "first" or name.isdigit():
            frame = 0 if name == "first" else int(name)
            if drive is None:
                return factors
            if frame >= len(drive):
                raise CopoError(f"--reference {frame}: the film has frames 0 to {len(drive) - 1}")
            return factors.replace(expression=drive[frame])
        if not Path(name).is_file():
            raise CopoError(f"--reference {name!r}: give neutral, first, a frame's number, or a factor file")
        found = load_factors(name, person.model.spec).factors
        if len(found) != 1:
            raise CopoError(f"--reference {name} holds {len(found)} portraits: give one")
        return found

    # --- the film ---------------------------------------------------------------------------------------------------

    def _frames(
        self,
        person: Person,
        drive: Tensor | None,
        cameras: Camera,
        first: int,
        advance: Callable[[int, int], None],
    ) -> Iterator[PortraitPicture]:
        frames = len(cameras)
        shown = person.model.fast().animate(
            person.factors,
            None if drive is None else drive[first:],
            cameras[first:],
            blend=self._blend(),
            reference=self._reference(person, drive),
            psi=self._psi,
            size=self.size,
            rays=self.rays,
            sampling=self._sampling(person),
        )
        for i, picture in enumerate(shown):
            yield picture
            advance(first + i + 1, frames)

    @property
    def _psi(self) -> float:
        return self.psi if self.psi is not None else PUBLISHED_PSI if self.published else 1.0

    def _film(
        self, person: Person, clip: DrivingClip | None, drive: Tensor | None, cameras: Camera, rate: float
    ) -> Provenance:
        """The mark of the film; what the frames have in common, and a digest of all that changes from one to another.

        Paths of the user's machine stay out of it.
        """
        digest = hashlib.sha256()
        still = self._reference(person, drive).to_vector()
        for value in (drive, cameras.cam2world, cameras.intrinsics, person.factors.to_vector(), still):
            if value is not None:
                digest.update(value.float().contiguous().numpy().tobytes())
        asked: dict[str, Any] = {"psi": self._psi, "blend": self._held, "edges": self.edges, "size": self.size}
        asked |= {"reference": Path(self.reference).name, "rays": self.rays, "fast": self.fast}
        film = {
            "frames": len(cameras),
            "fps": rate,
            "drive": None if clip is None else clip.source,
            "camera": self.camera,
            "published": self.published,
            "motion": digest.hexdigest(),
            "model": person.model.name,
            "fingerprint": person.model.fingerprint,
            "seed": person.seed,
            **asked,
        }
        return Provenance("trainedAlgorithmicMedia", {"command": "animate", "film": film})

    def _write(
        self,
        shown: Iterator[PortraitPicture],
        first: int,
        film: Provenance,
        rate: float,
        clip: DrivingClip | None,
        suffix: str,
    ) -> int:
        if not suffix:
            count = 0
            for picture in shown:
                mark = _with_recipe(film, picture)
                save_image(self.out / f"{first + count:06d}.png", picture.to_uint8()[0], mark)
                count += 1
            return count
        head = next(shown)
        pictures: Iterator[Picture] = (p.to_uint8()[0] for p in itertools.chain([head], shown))
        track = clip.sound if clip is not None and self.sound else None
        return write_video(self.out, pictures, rate, _with_recipe(film, head), track, self.quality)

    def _tell(self, made: int, kept: int, rate: float, took: float, suffix: str, clip: DrivingClip | None) -> None:
        pace = made / took if made else 0.0
        sound = suffix in (".mp4", ".webm") and clip is not None and clip.sound is not None and self.sound
        if self.json:
            body = {
                "written": [str(self.out)],
                "frames": made + kept,
                "kept": kept,
                "fps": rate,
                "seconds": round(took, 3),
                "per_second": round(pace, 3),
                "sound": sound,
            }
            print(json.dumps(body, indent=2))
            return
        if kept:
            print(f"{kept} frames were there before")
        if made:
            print(f"{made} frames in {took:.1f} s: {pace:.2f} a second")
        print(f"wrote {self.out} ({made + kept} frames, {(made + kept) / rate:.1f} s)")


def _with_recipe(film: Provenance, picture: PortraitPicture) -> Provenance:
    """The film's mark with the recipe of one frame: of a file's first frame, of each PNG."""
    return Provenance(film.source_type, {**picture.provenance().metadata, **film.metadata})
