"""Every choice of a preparation. The same choices, program and photographs give the same data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import tyro

from copo.errors import CopoError

Align = Literal["ffhq", "copo", "none"]
Preset = Literal["none", "ffhq", "ravdess"]
Parser = Literal["masks", "bisenet", "none"]
Reconstructor = Literal["open_head", "deep3d"]


@dataclass(frozen=True)
class QualityConfig:
    """A photograph is left out when a measure is beyond its threshold. 0 switches a check off."""

    min_face: float = 24.0
    """A quarter of the side of FFHQ's square in the photograph, about the distance between the eyes, pixels."""
    max_enlargement: float = 2.5
    """Aligned pixels for each pixel of the photograph."""
    min_sharpness: float = 0.17
    """Fine detail in the face as a share of its contrast: sharp faces have 0.3 to 0.45, faces that were enlarged four
    times about 0.2; see copo.preparation.quality.sharpness."""
    other_face: float = 0.35
    """Size of a second face as a share of the first's, where it reaches into the aligned picture."""
    min_colour: float = 3.0
    """Mean chroma in the face (CIELAB). Grey pictures have below 1."""
    max_occlusion: float = 0.4
    """Share of the face below the brows that does not look like the rest of its skin, or is hair."""
    max_yaw: float = 110.0
    """Degrees from the front."""
    max_pitch: float = 40.0
    """Degrees from the level."""
    max_outside: float = 0.35
    """Share of the aligned picture that lies outside of the photograph and is filled up."""
    max_residual: float = 5.0
    """Fit: mean distance of the landmarks (of a profile: the outline), percent of the distance between the eyes' outer
    corners. In 1,951 portraits fits to landmarks had at most 2.4; profiles above 5 were visibly wrong."""
    min_exposure: float = 0.08
    """Mean brightness of the face, 0 to 1."""
    max_clipped: float = 0.25
    """Share of the face that is burnt out or black."""


@dataclass(frozen=True)
class PrepareConfig:
    """What is done to each photograph."""

    size: int = 512
    """Side of the aligned pictures in pixels: 256 or 512 for training, at least 64."""
    align: Align = "ffhq"
    """ffhq: the square of the FFHQ data set. copo: the method's five-point convention, whose cameras are on the unit
    sphere. none: the pictures are square and aligned already (FFHQ itself); they are only resized."""
    format: Literal["png", "jpg"] = "png"
    """Of the aligned pictures; jpg has quality 95."""
    preset: Preset = "none"
    """A known data set's layout: ffhq (images1024x1024, or in-the-wild with its json) or ravdess (video names)."""
    share_identity: bool = True
    """Photographs of one person (column `person` of the manifest) get one shape and albedo."""
    verify_person: bool = True
    """Photographs of one person are first compared by face descriptor, where that is installed; those that show
    somebody else form a person of their own."""
    group_limit: int = 24
    """Most photographs that are fitted together."""
    frames_per_second: float = 5.0
    """Frames that are taken from videos."""
    max_frames: int = 0
    """Most frames from one video, spread evenly; 0 takes all."""
    chunk_seconds: float = 10.0
    """Videos are cut into pieces of this length, which are worked on separately."""
    reconstructor: Reconstructor = "open_head"
    """open_head: fitted head, in the box. deep3d: Deep3DFaceRecon's Basel Face Model coefficients (your files)."""
    parser: Parser = "masks"
    """Label maps from masks, the fitted head and a skin model; or from BiSeNet (your file); or none."""
    bfm: str = ""
    """Folder with your Basel Face Model; deep3d needs it for labels from masks, --align copo and --mat."""
    mat_files: Annotated[bool, tyro.conf.Suppress] = False
    """Also make the method's per-image .mat and aligned picture; set by the command where it gets a folder for them."""
    fit_quality: Literal["fast", "high"] = "fast"
    """high refines each fit on the pixels, which is much slower."""
    quality: QualityConfig = field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        if not 64 <= self.size <= 2048:
            raise CopoError(f"--size {self.size}: choose 64 to 2048 pixels; training uses 256 or 512")
        if self.group_limit < 1:
            raise CopoError(f"--group-limit {self.group_limit}: at least 1")
        if not 0 < self.frames_per_second <= 240:
            raise CopoError(f"--frames-per-second {self.frames_per_second:g}: choose above 0, to 240")
        if not self.chunk_seconds >= 1 or self.max_frames < 0:
            raise CopoError("--chunk-seconds must be at least 1 and --max-frames not negative")
        if self.reconstructor == "deep3d" and not self.bfm:
            if self.parser == "masks":
                raise CopoError("--reconstructor deep3d: labels need the mesh: add --bfm DIR or --parser bisenet")
            if self.align == "copo" or self.mat_files:
                raise CopoError("--reconstructor deep3d: the method's alignment needs its mesh: add --bfm DIR")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PrepareConfig:
        """The inverse of `to_dict`.

        Raises:
            CopoError: The data come from another version of the program.
        """
        try:
            return cls(**{**data, "quality": QualityConfig(**data["quality"])})
        except (TypeError, KeyError) as error:
            raise CopoError(
                f"the choices of this work folder are of another version ({error}): use a new --out"
            ) from error
