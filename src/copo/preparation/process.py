"""One unit of work: photographs in, rows of a data set and rejections out."""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.dataset import Portrait
from copo.formats.mat import save_coefficients
from copo.formats.pictures import load_image
from copo.head.renderer import RasterConfig, render_mesh
from copo.preparation import alignment, quality
from copo.preparation.config import PrepareConfig
from copo.preparation.labels import HAIR, LabelConfig, label_map, skin_model, to_lab
from copo.preparation.models import Fitted, Models
from copo.preparation.quality import Measures, number
from copo.preparation.sources import Source, read_bytes
from copo.preparation.units import Accepted, Rejected, Unit, UnitResult
from copo.preparation.video import video_frames
from copo.vision.protocols import Landmarks

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]

THUMBNAIL = 128
"""Longer side of the small pictures of rejected photographs."""
_MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Photo:
    """A photograph in work.

    Attributes:
        name: Source, with the time for a frame.
        source: Where it comes from.
        picture: (H, W, 3) uint8 upright sRGB.
        checksum: SHA-256 of the file; for a frame, of its pixels.
        time: Seconds, for a frame.
        marks: Landmarks in photograph pixels; None where no face was found.
        other: Size of the largest other face as a share of this one's.
        others: Boxes (N, 4) of the other faces.
        group: Who it shows, among the people of the unit.
    """

    name: str
    source: Source
    picture: Picture
    checksum: str
    time: float | None = None
    marks: Landmarks | None = None
    others: NDArray[np.float32] | None = None
    group: int = 0


@dataclass(frozen=True)
class Aligned:
    """A photograph brought to its place.

    Attributes:
        photo: What it was.
        matrix: (2, 3) from photograph to aligned pixels.
        picture: (S, S, 3) uint8.
        points478: (478, 2) in aligned pixels, or None.
        points68: (68, 2).
        hair: (S, S) probability, or None without masks.
        person: (S, S), or None.
    """

    photo: Photo
    matrix: Array
    picture: Picture
    points478: NDArray[np.float32] | None
    points68: NDArray[np.float32]
    hair: NDArray[np.float32] | None
    person: NDArray[np.float32] | None


class Preparer:
    """Works on units. Its models are read once."""

    def __init__(self, config: PrepareConfig) -> None:
        """Read the models.

        Args:
            config: What to do.

        Raises:
            CopoError: A model is not on this machine.
        """
        self.config = config
        self.models = Models(config)
        self.labels = LabelConfig()

    def run(self, unit: Unit) -> UnitResult:
        """All photographs of a unit. A photograph that cannot be used becomes a `Rejected`; nothing is raised."""
        rejected: list[Rejected] = []
        photos = self._looked_at(self._loaded(unit, rejected), rejected)
        done: dict[str, Accepted] = {}
        try:
            for name, outcome in self._fitted(unit, photos):
                if isinstance(outcome, Rejected):
                    rejected.append(outcome)
                else:
                    done[name] = outcome
        except Exception as error:  # a fit of several photographs failed as a whole
            known = {r.name for r in rejected} | set(done)
            rejected += [_failed(photo.name, error, photo.picture) for photo in photos if photo.name not in known]
        order = {photo.name: i for i, photo in enumerate(photos)}
        return UnitResult(
            unit.id,
            tuple(done[name] for name in sorted(done, key=lambda n: order[n])),
            tuple(rejected),
        )

    # --- reading ------------------------------------------------------------------------------------------------

    def _loaded(self, unit: Unit, rejected: list[Rejected]) -> list[Photo]:
        if unit.times:
            return self._frames(unit, rejected)
        photos = []
        for source in unit.sources:
            try:
                data = read_bytes(source)
                photos.append(Photo(source.name, source, decode(data, source), hashlib.sha256(data).hexdigest()))
            except CopoError as error:
                reason = str(error).removeprefix(f"{source.name}: ")
                rejected.append(Rejected(source.name, (("unreadable", reason),)))
            except Exception as error:  # decoders of rare formats raise whatever they like
                rejected.append(_failed(source.name, error, None))
        return photos

    def _frames(self, unit: Unit, rejected: list[Rejected]) -> list[Photo]:
        (source,) = unit.sources
        photos: list[Photo] = []
        try:
            for time, picture in video_frames(source, unit.times):
                checksum = hashlib.sha256(picture.tobytes()).hexdigest()
                photos.append(Photo(frame_name(source, time), source, picture, checksum, time))
        except CopoError as error:
            reason = str(error).removeprefix(f"{source.name}: ")
            names = [frame_name(source, time) for time in unit.times[len(photos) :]]
            rejected += [Rejected(name, (("unreadable", reason),)) for name in names]
            return photos
        taken = {photo.time for photo in photos}
        missing = ("unreadable", "the video ends or is damaged before this frame")
        rejected += [Rejected(frame_name(source, time), (missing,)) for time in unit.times if time not in taken]
        return photos

    # --- looking ------------------------------------------------------------------------------------------------

    def _looked_at(self, photos: list[Photo], rejected: list[Rejected]) -> list[Photo]:
        """Photographs with landmarks; those without stay where a known view and another photograph may do."""
        out = []
        for photo in photos:
            try:
                marks, others = self.models.landmarks(photo.picture, photo.source.info.get("face_box"))
            except Exception as error:
                rejected.append(_failed(photo.name, error, photo.picture))
                continue
            out.append(replace(photo, marks=marks, others=others))
        if len(out) > 1 and not out[0].source.is_video and self.config.verify_person:
            groups = self.models.people([(photo.picture, photo.marks) for photo in out])
            out = [replace(photo, group=group) for photo, group in zip(out, groups, strict=True)]
        known = {photo.group for photo in out if photo.marks is not None}
        kept = []
        for photo in out:
            if photo.marks is None and not (self.models.fits_profiles and photo.group in known and _view(photo)):
                reason = "no face was found"
                rejected.append(Rejected(photo.name, (("no face", reason),), thumbnail(photo.picture)))
            else:
                kept.append(photo)
        return kept

    # --- aligning, fitting, labelling -----------------------------------------------------------------------------

    def _fitted(self, unit: Unit, photos: list[Photo]) -> list[tuple[str, Accepted | Rejected]]:
        outcomes: list[tuple[str, Accepted | Rejected]] = []
        ready: list[tuple[Photo, Aligned | None, Measures]] = []
        for photo in photos:
            if photo.marks is None:
                ready.append((photo, None, Measures()))
                continue
            try:
                aligned, measures = self._first_alignment(photo, photo.marks.points68)
            except CopoError as error:
                outcomes.append(
                    (photo.name, Rejected(photo.name, (("alignment", str(error)),), thumbnail(photo.picture)))
                )
                continue
            reasons = quality.verdict(measures, self.config.quality)
            if reasons:
                outcomes.append((photo.name, Rejected(photo.name, tuple(reasons), thumbnail(aligned.picture))))
            else:
                ready.append((photo, aligned, measures))
        with_marks = {photo.group for photo, aligned, _ in ready if aligned is not None}
        lonely = [photo for photo, aligned, _ in ready if aligned is None and photo.group not in with_marks]
        for photo in lonely:
            reason = "no face was found, and no other photograph of the person is good enough to fit this one"
            outcomes.append((photo.name, Rejected(photo.name, (("no face", reason),), thumbnail(photo.picture))))
        ready = [entry for entry in ready if entry[1] is not None or entry[0].group in with_marks]
        if not ready:
            return outcomes
        fits = self.models.fit(
            [(photo, aligned) for photo, aligned, _ in ready], unit.id, share=self.config.share_identity
        )
        for (photo, first, measures), fit in zip(ready, fits, strict=True):
            try:
                outcomes.append((photo.name, self._finished(unit, photo, first, measures, fit)))
            except Exception as error:
                outcomes.append((photo.name, _failed(photo.name, error, photo.picture)))
        return outcomes

    def _first_alignment(self, photo: Photo, points68: NDArray[np.float32]) -> tuple[Aligned, Measures]:
        """FFHQ's square (or the picture as it is), with masks, and the measures that need no fit."""
        size = self.config.size
        height, width = photo.picture.shape[:2]
        if self.config.align == "none":
            if abs(width - height) > 1:
                raise CopoError(f"--align none expects square pictures; this one has {width} x {height} pixels")
            matrix = alignment.square_matrix(np.array([width / 2, height / 2]), width, 0.0, size)
        else:
            matrix = alignment.ffhq_matrix(points68, size)
        return self._aligned(photo, matrix, points68)

    def _aligned(self, photo: Photo, matrix: Array, points68: NDArray[np.float32]) -> tuple[Aligned, Measures]:
        size = self.config.size
        height, width = photo.picture.shape[:2]
        face = alignment.ffhq_square(points68)[1] / 4
        measures = Measures(
            face=face,
            enlargement=alignment.scale_of(matrix),
            other_face=_other_face(photo, matrix, size),
            outside=alignment.outside_share(matrix, width, height, size),
        )
        if measures.outside > 0.75 or measures.enlargement > 64:
            raise CopoError("the face lies outside of the photograph, or is a few pixels large")
        picture = alignment.warp(photo.picture, matrix, size)
        masks = self.models.masks(picture)
        placed = alignment.apply(matrix, points68)
        inside = quality.face_mask(placed, size)
        if masks is not None:
            inside &= masks.person >= self.labels.person
        chroma, exposure, clipped = quality.colours(picture, inside)
        measures = replace(
            measures,
            sharpness=quality.sharpness(picture, inside),
            colour=chroma,
            exposure=exposure,
            clipped=clipped,
        )
        marks = photo.marks
        dense = marks.points if marks is not None and len(marks.points) == 478 else None
        return Aligned(
            photo,
            matrix,
            picture,
            None if dense is None else alignment.apply(matrix, dense),
            placed,
            None if masks is None else masks.hair,
            None if masks is None else masks.person,
        ), measures

    def _finished(
        self, unit: Unit, photo: Photo, aligned: Aligned | None, measures: Measures, fit: Fitted
    ) -> Accepted | Rejected:
        """Second alignment where the fit decides it, label map, last checks, encoding."""
        config, size = self.config, self.config.size
        vertices = self.models.vertices(fit.factors)
        points68 = aligned.photo.marks.points68 if aligned is not None and aligned.photo.marks is not None else None
        camera: Camera | None = None
        if aligned is None:
            if vertices is None:
                raise CopoError("a photograph without landmarks needs a head model")
            height, width = photo.picture.shape[:2]
            projected = fit.photo_camera.project(vertices[:, self.models.topology.landmarks68])[0][0]
            points68 = (projected.numpy() * [width, height]).astype(np.float32)
            aligned, measures = self._first_alignment(photo, points68)
        assert points68 is not None
        first = fit.camera_of(photo.picture.shape, aligned.matrix, size)
        if config.align == "copo" or config.mat_files:
            if vertices is None:
                raise CopoError("the method's alignment needs the mesh: add --bfm DIR")
            matrix, target = alignment.copo_matrix(
                points68, self.models.topology.landmarks68, vertices, fit.photo_camera, size
            )
            mat_picture = alignment.warp(photo.picture, matrix, size)
            if config.align == "copo":
                aligned, measures = self._aligned(photo, matrix, points68)
                camera = target
        camera = first if camera is None else camera
        labels, covered = self._label(aligned, camera, vertices)
        yaw, pitch, roll = camera_angles(camera)
        measures = replace(measures, yaw=yaw, pitch=pitch, roll=roll, residual=fit.residual, occlusion=covered)
        reasons = quality.verdict(measures, config.quality)
        if reasons:
            return Rejected(photo.name, tuple(reasons), thumbnail(aligned.picture))
        portrait = Portrait(
            picture=encode(aligned.picture, config.format),
            suffix=f".{config.format}",
            camera=camera.to_eg3d()[0].numpy(),
            factors=fit.factors,
            labels=None if labels is None else encode(labels, "png"),
            points478=aligned.points478,
            points68=aligned.points68,
            manifest=self._row(unit, photo, measures, fit),
        )
        if not config.mat_files:
            return Accepted(photo.name, portrait)
        return Accepted(photo.name, portrait, mat_of(fit.factors, target), encode(mat_picture, "png"))

    def _label(
        self, aligned: Aligned, camera: Camera, vertices: torch.Tensor | None
    ) -> tuple[NDArray[np.uint8] | None, float]:
        """The label map, and the covered share of the face (NaN where it cannot be told)."""
        size = self.config.size
        if self.config.parser == "none":
            return None, math.nan
        if self.config.parser == "bisenet":
            return self.models.parse(aligned.picture), math.nan
        assert vertices is not None and aligned.hair is not None and aligned.person is not None
        topology = self.models.topology
        with torch.no_grad():
            render = render_mesh(
                vertices, topology.faces, camera, size, labels=topology.labels, config=RasterConfig(validate=False)
            )
        assert render.labels is not None
        mesh = render.labels[0].numpy()
        lab = to_lab(aligned.picture)
        hair = aligned.hair >= self.labels.hair
        seed = np.isin(mesh, (1, 10)) & ~hair & quality.face_mask(aligned.points68, size)
        skin = skin_model(lab, seed, self.labels)
        labels = label_map(lab, aligned.hair, aligned.person, mesh, aligned.points68, skin, self.labels)
        unlike = np.zeros_like(hair) if skin is None else skin.distance(lab) > quality.UNLIKE_SKIN
        inside = np.where(quality.face_mask(aligned.points68, size), mesh, 0)
        return labels, quality.occlusion(inside, labels == HAIR, unlike, float(aligned.points68[17:27, 1].mean()))

    def _row(self, unit: Unit, photo: Photo, measures: Measures, fit: Fitted) -> dict[str, str]:
        """The manifest's row."""
        height, width = photo.picture.shape[:2]
        row = {"source": photo.name, "sha256": photo.checksum, "width": str(width), "height": str(height)}
        row |= {k: v for k, v in photo.source.info.items() if k not in ("name", "source", "width", "height")}
        if photo.source.is_video:
            row |= {"sequence": row.get("sequence", photo.source.name), "time": f"{photo.time or 0:.3f}"}
        row["identity"] = f"{unit.id}/{photo.group}" if self.config.share_identity else f"{unit.id}/{photo.name}"
        row["landmarks"] = "found" if photo.marks is not None else "fitted"
        return {**row, **measures.to_row(), "photometric_residual": number(fit.photometric)}


# --- small things -----------------------------------------------------------------------------------------------


def decode(data: bytes, source: Source) -> Picture:
    """A picture file of any common kind, upright, sRGB.

    Raises:
        CopoError: It is no picture, damaged, or too large.
    """
    picture = load_image(data, name=source.name)
    if picture.shape[0] * picture.shape[1] > _MAX_PIXELS:
        raise CopoError(f"{source.name}: {picture.shape[1]} x {picture.shape[0]} pixels are too many")
    if min(picture.shape[:2]) < 16:
        raise CopoError(f"{source.name}: {picture.shape[1]} x {picture.shape[0]} pixels are too few")
    return picture


def encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    """PNG or JPEG (quality 95, full colour resolution) without metadata."""
    out = io.BytesIO()
    image = Image.fromarray(picture)
    if kind == "png":
        image.save(out, "PNG", compress_level=6)
    else:
        image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def thumbnail(picture: Picture) -> bytes:
    """A small JPEG."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def frame_name(source: Source, time: float) -> str:
    """`clip.mp4#t=1.200`, as media fragments are written."""
    return f"{source.name}#t={time:.3f}"


def camera_angles(camera: Camera) -> tuple[float, float, float]:
    """Yaw, pitch and roll of one camera in degrees.

    Yaw is positive where the camera stands at the right of the frontal picture, pitch where it stands above, roll where
    its right side points up.
    """
    x, y, z = camera.position[0].tolist()
    right, up = camera.cam2world[0, :3, 0], -camera.cam2world[0, :3, 1]
    roll = math.atan2(float(right[1]), float(up[1]))
    return math.degrees(math.atan2(x, z)), math.degrees(math.atan2(y, math.hypot(x, z))), math.degrees(roll)


def mat_of(factors: Factors, camera: Camera) -> bytes:
    """The method's .mat: id, exp, tex, angle, gamma, trans. With the open head its sizes are 80, 52, 50, 3, 27, 3."""
    pose = camera.to_deep3d()
    values = {
        "id": factors.shape,
        "exp": factors.expression,
        "tex": factors.albedo,
        "angle": pose.angles,
        "gamma": factors.illumination,
        "trans": pose.translation,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coefficients.mat"
        save_coefficients(path, {name: value.float().numpy() for name, value in values.items()})
        return path.read_bytes()


def _failed(name: str, error: Exception, picture: Picture | None) -> Rejected:
    """A rejection for something that nobody foresaw; the run goes on."""
    first = (str(error).splitlines() or [""])[0]
    reason = first if isinstance(error, CopoError) else f"{type(error).__name__}: {first}"
    return Rejected(name, (("failed", reason),), None if picture is None else thumbnail(picture))


def _view(photo: Photo) -> str | None:
    return photo.source.info.get("view") or None


def _other_face(photo: Photo, matrix: Array, size: int) -> float:
    """Size of the largest other face of which a quarter is in the aligned picture, as a share of this one's; or 0."""
    if photo.marks is None or photo.others is None or not len(photo.others):
        return 0.0
    shares = [0.0]
    for box in photo.others:
        grid = np.stack(np.meshgrid(*np.linspace(box[:2], box[2:], 9).T), axis=-1).reshape(-1, 2)
        placed = alignment.apply(matrix, grid)
        if ((placed >= 0) & (placed <= size)).all(1).mean() >= 0.25:
            shares.append(math.sqrt(max(float((box[2:] - box[:2]).prod()), 0) / max(photo.marks.area, 1e-6)))
    return max(shares)
