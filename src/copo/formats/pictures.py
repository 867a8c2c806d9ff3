"""Pictures on disk: PNG, JPEG and WebP that say that they are synthetic, 16-bit depth, contact sheets.

At this edge pictures are (H, W, 3) uint8 sRGB arrays; `to_uint8` and `from_uint8` lead to and from the tensors of
networks.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, PngImagePlugin
from torch import Tensor

from copo.errors import CopoError
from copo.formats.atomic import atomic_write
from copo.formats.provenance import SOFTWARE, Provenance

Picture = NDArray[np.uint8]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_JPEG_XMP_LIMIT = 65_502
"""Bytes of XMP that fit into one JPEG segment (XMP specification, part 3)."""
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131


# --- arrays and tensors -----------------------------------------------------------------------------------------


def to_uint8(images: Tensor) -> Picture:
    """Network pictures (B, 3, H, W) or (3, H, W), RGB in [-1, 1], to (B, H, W, 3) or (H, W, 3) uint8."""
    scaled = ((images.detach().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def from_uint8(images: Picture) -> Tensor:
    """The inverse of `to_uint8`: (..., H, W, 3) uint8 to (..., 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float() / 127.5 - 1


# --- reading ----------------------------------------------------------------------------------------------------


def load_image(
    path: str | os.PathLike[str] | bytes,
    keep_alpha: bool = False,
    background: tuple[int, int, int] = (255, 255, 255),
    name: str | None = None,
) -> Picture:
    """Read a picture of any common kind as sRGB, upright.

    The EXIF rotation is applied; 16-bit, grey, palette and CMYK pictures are converted; an embedded colour profile is
    followed; only the first frame of an animation is read.

    Args:
        path: The file, or its content as bytes.
        keep_alpha: Return transparency as a fourth channel instead of putting the picture on `background`.
        background: Colour behind transparent parts.
        name: What to call it in errors; by default the path.

    Returns:
        (H, W, 3) uint8, or (H, W, 4) with `keep_alpha` (opaque where the file has no transparency).

    Raises:
        CopoError: The file is missing, no picture, truncated, or too large to be one.
    """
    title = name or ("in memory" if isinstance(path, bytes) else path)
    with _open(io.BytesIO(path) if isinstance(path, bytes) else path, title) as opened:
        image = _to_eight_bits(title, _srgb(ImageOps.exif_transpose(opened)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if not keep_alpha:
            canvas = Image.new("RGBA", image.size, (*background, 255))
            image = Image.alpha_composite(canvas, image)
    return np.array(image.convert("RGBA" if keep_alpha else "RGB"))


def read_metadata(path: str | os.PathLike[str]) -> Provenance:
    """Read the mark and the metadata of a picture.

    Returns:
        Provenance: `source_type` is None and `metadata` empty where the file has none.

    Raises:
        CopoError: The file is missing or no picture.
    """
    with _open(path) as image:
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return Provenance.from_xmp(packet.encode() if isinstance(packet, str) else packet)


def load_depth(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read what `save_depth` wrote.

    Returns:
        (H, W) float32 metres, 0 where there is no surface.

    Raises:
        CopoError: The file is no 16-bit picture with a depth scale in its metadata.
    """
    scale: Any = read_metadata(path).metadata.get("depth")
    with _open(path) as image:
        values = np.array(image, dtype=np.float64)
    try:
        offset, step = float(scale["offset"]), float(scale["step"])
    except (TypeError, KeyError, ValueError):
        raise CopoError(f"{path} has no depth scale in its metadata: only depth pictures of CoPo have one") from None
    if values.ndim != 2:
        raise CopoError(f"{path} is not a one-channel depth picture")
    return np.where(values > 0, offset + step * values, 0).astype(np.float32)


# --- writing ----------------------------------------------------------------------------------------------------


def save_image(
    path: str | os.PathLike[str], image: Picture, provenance: Provenance | None = None, quality: int = 95
) -> None:
    """Write a picture with its mark; the suffix chooses the format.

    The mark (IPTC DigitalSourceType) and the metadata stand in the file's XMP packet; a sentence for people and the
    program's name stand in PNG text or EXIF.

    Args:
        path: .png, .jpg, .jpeg or .webp, made atomically.
        image: (H, W, 3) or (H, W, 4) RGB(A) or (H, W) grey, uint8; 4 channels not for JPEG.
        provenance: Kind of origin and metadata; by default a generated picture without metadata.
        quality: Of JPEG and WebP, 1 to 100; WebP at 100 is lossless.

    Raises:
        CopoError: Unknown suffix, empty picture, wrong shape or type, metadata too large for JPEG, or the file cannot
            be written.
    """
    target, kind = _target(path)
    _write(target, encode_image(image, kind, provenance, quality, target.name))


def encode_image(
    image: Picture, kind: str, provenance: Provenance | None = None, quality: int = 95, name: str = "picture"
) -> bytes:
    """The content of the file that `save_image` writes.

    Args:
        image: (H, W, 3) or (H, W, 4) RGB(A) or (H, W) grey, uint8.
        kind: PNG, JPEG or WEBP.
        provenance: Kind of origin and metadata.
        quality: Of JPEG and WebP.
        name: What to call it in errors.

    Raises:
        CopoError: Empty picture, wrong shape or type, metadata too large for JPEG.
    """
    image = np.asarray(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise CopoError(
            f"cannot write a picture of shape {image.shape} and type {image.dtype}: give (H, W, 3) uint8, not empty"
        )
    if kind == "JPEG" and channels == 4:
        raise CopoError(f"{name}: JPEG has no transparency; end the name in .png or .webp")
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and channels == 1 else image)
    return _encoded(name, kind, picture, provenance or Provenance(), quality)


def save_depth(
    path: str | os.PathLike[str],
    depth: NDArray[np.floating[Any]],
    provenance: Provenance | None = None,
) -> None:
    """Write depth as a 16-bit grey PNG: metres = offset + step x value, with both in the metadata under "depth".

    Args:
        path: A .png file, made atomically.
        depth: (H, W) metres; values that are not finite or not above 0 mean no surface and are stored as 0.
        provenance: The mark; the scale is added to its metadata.

    Raises:
        CopoError: Wrong shape or suffix, or the file cannot be written.
    """
    target, kind = _target(path)
    if kind != "PNG":
        raise CopoError(f"cannot write depth as {target.name!r}: 16 bits need a name that ends in .png")
    _write(target, encode_depth(depth, provenance, target.name))


def encode_depth(depth: NDArray[np.floating[Any]], provenance: Provenance | None = None, name: str = "depth") -> bytes:
    """The content of the PNG that `save_depth` writes.

    Args:
        depth: (H, W) metres.
        provenance: The mark.
        name: What to call it in errors.

    Raises:
        CopoError: Wrong shape.
    """
    depth = np.asarray(depth, dtype=np.float64)
    if depth.ndim != 2 or not depth.size:
        raise CopoError(f"cannot write depth of shape {depth.shape}: expected (H, W)")
    surface = np.isfinite(depth) & (depth > 0)
    near, far = (depth[surface].min(), depth[surface].max()) if surface.any() else (0.0, 1.0)
    step = max(far - near, 1e-6) / 65534
    offset = near - step
    values = np.where(surface, np.rint((np.where(surface, depth, near) - offset) / step), 0).astype(np.uint16)
    scale = {"unit": "metre", "offset": float(offset), "step": float(step)}
    mark = provenance or Provenance()
    mark = replace(mark, metadata={**mark.metadata, "depth": scale})
    return _encoded(name, "PNG", Image.fromarray(values), mark, quality=95)


# --- pictures of other quantities -------------------------------------------------------------------------------

LABEL_COLORS: NDArray[np.uint8] = np.array(
    [
        (255, 255, 255), (232, 190, 160), (120, 72, 40), (150, 96, 56), (60, 130, 200), (40, 90, 160), (90, 90, 90),
        (240, 150, 120), (220, 130, 100), (250, 210, 60), (220, 160, 130), (110, 30, 40), (200, 60, 80),
        (230, 90, 110), (200, 170, 140), (160, 200, 60), (100, 150, 110), (60, 40, 30), (150, 90, 180),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""A colour for each of the 19 parser classes."""


def label_picture(labels: NDArray[np.integer[Any]]) -> Picture:
    """(..., H, W) class numbers 0..18 to (..., H, W, 3) colours; other numbers are black."""
    palette = np.concatenate([LABEL_COLORS, np.zeros((1, 3), np.uint8)])
    known = (labels >= 0) & (labels < len(LABEL_COLORS))
    return palette[np.where(known, labels, len(LABEL_COLORS))]


def normal_picture(normals: NDArray[np.floating[Any]], mask: NDArray[Any] | None = None) -> Picture:
    """(H, W, 3) unit normals to the usual colours: -1..1 becomes 0..255; white outside of `mask` (H, W)."""
    colors = np.rint((np.nan_to_num(normals).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return colors if mask is None else np.where(np.asarray(mask)[..., None] > 0.5, colors, np.uint8(255))


def depth_picture(depth: NDArray[np.floating[Any]]) -> Picture:
    """(H, W) depth to (H, W, 3) grey for people: near is bright, far is dark, no surface (0, NaN) is black."""
    surface = np.isfinite(depth) & (depth > 0)
    if not surface.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = float(depth[surface].min()), float(depth[surface].max())
    share = (far - np.where(surface, depth, far)) / max(far - near, 1e-9)
    grey = np.where(surface, np.rint(40 + 215 * share), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def contact_sheet(
    images: Sequence[Picture],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    gap: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Picture:
    """Many pictures in a grid, row by row, each centred in its cell.

    Args:
        images: (H, W, 3) uint8 each; sizes may differ, the largest sets the cell.
        columns: Number of columns; by default about as many as rows.
        captions: One line under each picture; lines that do not fit are cut.
        gap: Pixels between cells and around the sheet.
        background: Colour of the sheet.

    Returns:
        (H', W', 3) uint8.

    Raises:
        CopoError: There are no pictures, or captions and pictures differ in number.
    """
    if not len(images):
        raise CopoError("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(images):
        raise CopoError(f"{len(captions)} captions for {len(images)} pictures: give one for each")
    columns = columns or math.ceil(math.sqrt(len(images)))
    columns = min(columns, len(images))
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    font = ImageFont.load_default(size=float(min(18, max(10, width // 14))))
    strip = 0 if captions is None else int(font.getbbox("Ag")[3]) + 4
    rows = math.ceil(len(images) / columns)
    size = (gap + columns * (width + gap), gap + rows * (height + strip + gap))
    sheet = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(sheet)
    ink = (0, 0, 0) if sum(background) > 382 else (255, 255, 255)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (height + strip + gap)
        picture = Image.fromarray(np.asarray(image)).convert("RGB")
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        if captions is not None:
            text = _fitting(captions[number], width, font)
            draw.text((left + (width - font.getlength(text)) / 2, top + height + 1), text, fill=ink, font=font)
    return np.array(sheet)


# --- inside -----------------------------------------------------------------------------------------------------


def _open(file: str | os.PathLike[str] | io.BytesIO, title: str | os.PathLike[str] | None = None) -> Image.Image:
    """Open and decode a picture; everything that can be wrong with the file becomes one line."""
    path = file if title is None else title
    try:
        image = Image.open(file)
        image.load()
        return image
    except FileNotFoundError:
        raise CopoError(f"picture {path} does not exist") from None
    except IsADirectoryError:
        raise CopoError(f"picture {path} is a folder: give a file") from None
    except Image.UnidentifiedImageError:
        raise CopoError(f"{path} is not a picture that can be read: convert it to PNG, JPEG or WebP") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CopoError(f"picture {path} cannot be read: {reason}; is it damaged?") from error


def _srgb(image: Image.Image) -> Image.Image:
    """Follow an embedded colour profile; pictures without one count as sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile: the plain conversion is the best guess
        return image
    return converted if converted is not None else image


def _to_eight_bits(path: str | os.PathLike[str], image: Image.Image) -> Image.Image:
    """Bring one-channel pictures of 16 bits to 8; Pillow itself would cut them off at 255."""
    if image.mode == "F":
        raise CopoError(f"picture {path} holds floating-point values of unknown range: save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.rint(np.array(image).clip(0, 65535) / 257).astype(np.uint8))


def _target(path: str | os.PathLike[str]) -> tuple[Path, str]:
    target = Path(path)
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise CopoError(f"cannot write a picture as {target.name!r}: end the name in .png, .jpg or .webp")
    return target, kind


def _write(target: Path, data: bytes) -> None:
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)


def _encoded(name: str, kind: str, picture: Image.Image, mark: Provenance, quality: int) -> bytes:
    xmp = mark.xmp()
    options: Mapping[str, Any]
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", SOFTWARE)
        text.add_text("Description", mark.description)
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": text}
    else:
        if kind == "JPEG" and len(xmp) > _JPEG_XMP_LIMIT:
            raise CopoError(f"{name}: {len(xmp)} bytes of metadata do not fit into a JPEG; use .png or .webp")
        exif = Image.Exif()
        exif[_EXIF_DESCRIPTION], exif[_EXIF_SOFTWARE] = mark.description, SOFTWARE
        options = {"exif": exif.tobytes(), "xmp": xmp, "quality": quality}
        options |= {"subsampling": 0} if kind == "JPEG" else {"lossless": quality >= 100, "exact": True}
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
