"""`copo analyze`: factors, camera, landmarks and labels of photographs and videos, by our own network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from copo.cli.options import parse_device
from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.pictures import label_picture, load_image, save_image
from copo.formats.provenance import Provenance
from copo.formats.video import write_video
from copo.head.protocol import PARSER_CLASSES
from copo.preparation.sources import Source, find_sources, read_bytes
from copo.preparation.video import video_frames, video_length
from copo.vision.analyser import Analyser, Analysis, whole_labels
from copo.vision.protocols import Picture

_UNCERTAIN = ("shape", "albedo", "expression", "illumination", "translation")
_TINT = 0.35
_LARGEST_OVERLAY = 1280
_MARK = Provenance("compositeSynthetic", {"command": "analyze"})


@dataclass
class Command:
    """Look at photographs and videos: factors, camera, landmarks, labels, with uncertainties (docs/analyser.md).

    Example: copo analyze photo.jpg --out seen

    Writes NAME.json and NAME_overlay.png for each photograph, and NAME_overlay.mp4 for each video. Nothing has to be
    downloaded for it.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures, videos, folders or zips."""
    out: Path
    """Folder to write to."""
    weights: Path | None = None
    """Another analyser.safetensors than the one in the package."""
    frames_per_second: float = 10.0
    """Frames that are looked at in videos; each second of the overlay has as many."""
    max_faces: int = 1
    """Most faces of a photograph, the largest first. Videos follow one."""
    overlay: bool = True
    """Also draw what was found."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the summary as JSON."""

    def run(self) -> None:
        if not self.images:
            raise CopoError("name at least one picture, video or folder")
        if not 0 < self.frames_per_second <= 240:
            raise CopoError(f"--frames-per-second {self.frames_per_second:g}: choose above 0, to 240")
        if self.max_faces < 1:
            raise CopoError(f"--max-faces {self.max_faces}: at least 1")
        analyser = Analyser.load(self.weights, device=parse_device(self.device))
        found = find_sources(self.images)
        problems = [{"name": p.name, "reason": p.reason} for p in found.problems]
        written: list[dict[str, Any]] = []
        several = len(found.sources) > 1
        for source in found.sources:
            stem = self.out / (_stem(source.name) if several else PurePosixPath(source.name).stem)
            try:
                look = self._video if source.is_video else self._photograph
                written.append({"name": source.name, **look(analyser, source, stem)})
            except CopoError as error:
                problems.append({"name": source.name, "reason": str(error).removeprefix(f"{source.name}: ")})
        if not written:
            raise CopoError(f"{problems[0]['name']}: {problems[0]['reason']}" if problems else "nothing to look at")
        self._tell(written, problems)

    def _photograph(self, analyser: Analyser, source: Source, stem: Path) -> dict[str, Any]:
        picture = load_image(read_bytes(source), name=source.name)
        faces = analyser.analyse(picture)[: self.max_faces]
        if not faces:
            raise CopoError("no face was found")
        body = {"source": source.name, **_size(picture), "faces": [described(face) for face in faces]}
        path = stem.with_name(f"{stem.name}.json")
        write_bytes(path, _encoded(body))
        if self.overlay:
            save_image(stem.with_name(f"{stem.name}_overlay.png"), overlaid(picture, faces), _MARK)
        return {"faces": len(faces), "file": str(path)}

    def _video(self, analyser: Analyser, source: Source, stem: Path) -> dict[str, Any]:
        count = max(math.ceil(video_length(source) * self.frames_per_second - 1e-6), 1)
        times = [i / self.frames_per_second for i in range(count)]
        frames: list[dict[str, Any]] = []
        face: Analysis | None = None
        seen = 0
        size: dict[str, int] = {}

        def look() -> Iterator[Picture]:
            nonlocal face, seen, size
            for time, picture in video_frames(source, times):
                size = _size(picture)
                face = None if face is None else analyser.follow(picture, face)
                if face is None:
                    faces = analyser.analyse(picture)
                    face = faces[0] if faces else None
                frames.append({"time": round(time, 4), "face": None if face is None else described(face)})
                seen += face is not None
                if self.overlay:
                    yield overlaid(picture, [face] if face is not None else [])

        path = stem.with_name(f"{stem.name}.json")
        if self.overlay:
            write_video(stem.with_name(f"{stem.name}_overlay.mp4"), look(), self.frames_per_second, _MARK)
        else:
            for _ in look():
                pass
        if not seen:
            stem.with_name(f"{stem.name}_overlay.mp4").unlink(missing_ok=True)
            raise CopoError("no face was found in any frame")
        body = {"source": source.name, **size, "frames_per_second": self.frames_per_second, "frames": frames}
        write_bytes(path, _encoded(body))
        return {"frames": len(frames), "with_face": seen, "file": str(path)}

    def _tell(self, written: list[dict[str, Any]], problems: list[dict[str, str]]) -> None:
        if self.json:
            print(json.dumps({"written": written, "rejected": problems}, indent=2))
            return
        for row in written:
            what = f"{row['faces']} faces" if "faces" in row else f"{row['with_face']} of {row['frames']} frames"
            print(f"{row['name']}: {what}, {row['file']}")
        for problem in problems:
            print(f"{problem['name']}: left out: {problem['reason']}")


def described(face: Analysis) -> dict[str, Any]:
    """One face as plain data. Angles are degrees; points are pixels of the picture; the camera is OpenCV, metres."""
    factors, camera = face.factors, face.camera
    x, y, z = camera.position[0].tolist()
    right, up = camera.cam2world[0, :3, 0], -camera.cam2world[0, :3, 1]
    names = factors.spec.expression_names
    units = dict(zip(names, _rounded(factors.expression[0].numpy()), strict=True))
    areas = face.labels.argmax(0)
    return {
        "score": round(face.score, 4),
        "pose": {
            "yaw": round(math.degrees(math.atan2(x, z)), 2),
            "pitch": round(math.degrees(math.atan2(y, math.hypot(x, z))), 2),
            "roll": round(math.degrees(math.atan2(float(right[1]), float(up[1]))), 2),
            "sigma": _rounded(np.degrees(face.sigma["rotation"]), 2),
        },
        "camera": {
            "cam2world": _rounded(camera.cam2world[0].numpy(), 6),
            "intrinsics": _rounded(camera.intrinsics[0].numpy(), 6),
        },
        "head": factors.spec.head,
        "expression": units,
        **{name: _rounded(getattr(factors, name)[0].numpy()) for name in ("shape", "albedo", "illumination")},
        "sigma": {name: _rounded(face.sigma[name]) for name in _UNCERTAIN},
        "landmarks68": _rounded(face.points68, 2),
        "landmarks68_sigma": _rounded(face.sigma68, 2),
        "landmarks478": _rounded(face.points478, 2),
        "landmarks478_sigma": _rounded(face.sigma478, 2),
        "portrait": {
            "matrix": _rounded(face.matrix, 6),
            "area": {name: round(float((areas == i).mean()), 4) for i, name in enumerate(PARSER_CLASSES)},
        },
    }


def overlaid(picture: Picture, faces: list[Analysis]) -> Picture:
    """The picture with tinted labels, the portrait's square, and the points: larger where they are less certain."""
    height, width = picture.shape[:2]
    scale = min(1.0, _LARGEST_OVERLAY / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).astype(np.float32)
    for face in faces:
        labels = whole_labels(face, width, height).argmax(0).astype(np.uint8)
        shown = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        tint = (shown > 0)[..., None] * _TINT
        small = small * (1 - tint) + label_picture(shown) * tint
    image = Image.fromarray(small.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for face in faces:
        side = 256.0
        back = np.linalg.inv(np.concatenate([face.matrix, [[0, 0, 1]]]))[:2]
        corners = np.array([[0, 0, 1], [side, 0, 1], [side, side, 1], [0, side, 1]]) @ back.T * scale
        draw.polygon([(float(x), float(y)) for x, y in corners], outline=(255, 255, 255))
        for points, sigma, colour in (
            (face.points478, face.sigma478, (60, 255, 60)), (face.points68, face.sigma68, (255, 70, 70)),
        ):  # fmt: skip
            for (x, y), spread in zip(points * scale, sigma * scale, strict=True):
                r = float(np.clip(spread, 0.7, 4.0))
                draw.ellipse((float(x) - r, float(y) - r, float(x) + r, float(y) + r), outline=colour)
    return np.asarray(image)


def _stem(name: str) -> str:
    """A name without folders that stays different for different sources."""
    path = PurePosixPath(name)
    return "_".join([*path.parts[:-1], path.stem + path.suffix.replace(".", "_")])


def _size(picture: Picture) -> dict[str, int]:
    return {"width": picture.shape[1], "height": picture.shape[0]}


def _rounded(values: NDArray[np.floating], digits: int = 4) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()


def _encoded(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
