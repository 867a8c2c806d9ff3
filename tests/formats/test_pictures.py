"""Pictures: what is written comes back, with its mark; odd inputs are read as people expect."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from copo.errors import CopoError
from copo.formats import pictures
from copo.formats.provenance import Provenance

RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 48 x 64, flat tiles
URI = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 4), (".jpeg", 4), (".webp", 10)])
def test_a_picture_comes_back_with_its_mark_and_metadata(tmp_path: Path, suffix: str, tolerance: int) -> None:
    path = tmp_path / f"p{suffix}"
    metadata = {"seed": 7, "expression": [0.25, -1e-7], "text": '<ö & ü> ]]> "q"\nnew line'}
    row, column = np.mgrid[:48, :64] * 4
    picture = np.stack([row, column % 256, 255 - row], axis=-1).astype(np.uint8)
    pictures.save_image(path, picture, Provenance("compositeSynthetic", metadata))
    assert np.abs(pictures.load_image(path).astype(int) - picture).max() <= tolerance
    assert pictures.read_metadata(path) == Provenance("compositeSynthetic", metadata)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_other_programs_find_the_mark(tmp_path: Path, suffix: str) -> None:
    """The packet is found by searching the file's bytes, as the XMP standard allows for unknown formats."""
    path = tmp_path / f"p.{suffix}"
    pictures.save_image(path, PICTURE)
    data = path.read_bytes()
    packet = data[data.index(b"<?xpacket begin=") : data.index(b'<?xpacket end="w"?>')]
    assert f"<Iptc4xmpExt:DigitalSourceType>{URI}trainedAlgorithmicMedia</".encode() in packet
    with Image.open(path) as image:
        said = image.info["Description"] if suffix == "png" else image.getexif()[0x010E]
    assert "AI-generated" in said


@pytest.mark.parametrize(
    "entry",
    [
        f'Iptc4xmpExt:DigitalSourceType="{URI}digitalCapture" other="1"/',
        "Iptc4xmpExt:DigitalSourceType = 'https://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture' other='1'/",
        f"><Iptc4xmpExt:DigitalSourceType>\n {URI}digitalCapture\n</Iptc4xmpExt:DigitalSourceType",
        "><Iptc4xmpExt:DigitalSourceType>digitalCapture</Iptc4xmpExt:DigitalSourceType",
    ],
)
def test_the_mark_of_another_program_is_read(tmp_path: Path, entry: str) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "p.webp", xmp=f"<rdf:Description {entry}>".encode())
    assert pictures.read_metadata(tmp_path / "p.webp") == Provenance("digitalCapture", {})


def test_a_photograph_has_no_mark(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "p.jpg")
    assert pictures.read_metadata(tmp_path / "p.jpg") == Provenance(None, {})


def test_webp_at_full_quality_is_lossless(tmp_path: Path) -> None:
    pictures.save_image(tmp_path / "p.webp", PICTURE, quality=100)
    np.testing.assert_array_equal(pictures.load_image(tmp_path / "p.webp"), PICTURE)


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pictures.save_image(tmp_path / f"{name}.png", PICTURE, Provenance(metadata={"seed": 1}))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_transparency_is_kept_or_put_on_a_background(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = (255, 0, 0, 255)
    image[0, 1] = (0, 0, 255, 51)  # one fifth blue
    pictures.save_image(tmp_path / "p.png", image)
    np.testing.assert_array_equal(pictures.load_image(tmp_path / "p.png", keep_alpha=True), image)
    flat = pictures.load_image(tmp_path / "p.png", background=(0, 255, 0))
    assert flat[0, 0].tolist() == [255, 0, 0] and flat[1, 1].tolist() == [0, 255, 0]
    assert flat[0, 1].tolist() == [0, 204, 51]
    with pytest.raises(CopoError, match="JPEG has no transparency"):
        pictures.save_image(tmp_path / "p.jpg", image)


def test_palette_transparency_is_seen(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    assert pictures.load_image(tmp_path / "p.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 128, 65535]], np.uint16)).save(tmp_path / "p.png")
    assert pictures.load_image(tmp_path / "p.png")[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "p.jpg")  # no cyan: red
    red, green, blue = pictures.load_image(tmp_path / "p.jpg")[8, 8].tolist()
    assert red > 200 and green < 60 and blue < 60


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    """Orientation 6: the first row of the file is the right-hand side of the picture."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8] = (250, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "p.png", exif=exif)
    upright = pictures.load_image(tmp_path / "p.png")
    assert upright.shape == (32, 16, 3)
    assert upright[0, 15].tolist() == [250, 0, 0] and upright[0, 0].tolist() == [0, 0, 0]


def test_an_embedded_colour_profile_is_followed(tmp_path: Path) -> None:
    """An sRGB profile whose red and blue primaries are exchanged describes the picture with red and blue exchanged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.fromarray(PICTURE).save(tmp_path / "same.png", icc_profile=srgb)
    assert np.abs(pictures.load_image(tmp_path / "same.png").astype(int) - PICTURE).max() <= 1
    Image.fromarray(PICTURE).save(tmp_path / "other.png", icc_profile=exchanged)
    assert np.abs(pictures.load_image(tmp_path / "other.png").astype(int) - PICTURE[..., ::-1]).max() <= 1
    Image.fromarray(PICTURE).save(tmp_path / "broken.png", icc_profile=b"not a profile")
    np.testing.assert_array_equal(pictures.load_image(tmp_path / "broken.png"), PICTURE)


def test_damaged_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    pictures.save_image(tmp_path / "whole.png", RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-3000])
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tiff")
    for name, message in (
        ("cut.png", "cannot be read"),
        ("text.png", "not a picture"),
        ("none.png", "does not exist"),
        ("", "is a folder"),
        ("float.tiff", "unknown range"),
    ):
        with pytest.raises(CopoError, match=message) as caught:
            pictures.load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_what_is_no_picture_is_not_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(CopoError, match="cannot write a picture of shape"):
        pictures.save_image(tmp_path / "p.png", image)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    mark = Provenance(metadata={"long": "x" * 70_000})
    with pytest.raises(CopoError, match=r"do not fit into a JPEG; use \.png"):
        pictures.save_image(tmp_path / "p.jpg", PICTURE, mark)
    with pytest.raises(CopoError, match="cannot be written as JSON"):
        pictures.save_image(tmp_path / "p.png", PICTURE, Provenance(metadata={"bad": float("nan")}))
    with pytest.raises(CopoError, match="did you mean 'compositeSynthetic'"):
        pictures.save_image(tmp_path / "p.png", PICTURE, Provenance("compositSynthetic"))
    with pytest.raises(CopoError, match="end the name in"):
        pictures.save_image(tmp_path / "p.bmp", PICTURE)
    assert list(tmp_path.iterdir()) == []


@given(near=st.floats(0.1, 5), span=st.floats(0, 3))
def test_depth_comes_back_within_a_step(tmp_path_factory: pytest.TempPathFactory, near: float, span: float) -> None:
    path = tmp_path_factory.mktemp("depth") / "d.png"
    depth = near + span * RNG.random((5, 7))
    depth[0, :3] = (np.nan, np.inf, 0)
    pictures.save_depth(path, depth, Provenance(metadata={"seed": 1}))
    back = pictures.load_depth(path)
    assert back[0, :3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(back.ravel()[3:], depth.ravel()[3:], atol=max(span, 1e-6) / 65534 + 1e-6)
    assert pictures.read_metadata(path).metadata["seed"] == 1
    with Image.open(path) as image:
        assert image.mode == "I;16"


def test_depth_without_any_surface_and_pictures_that_are_no_depth(tmp_path: Path) -> None:
    pictures.save_depth(tmp_path / "d.png", np.zeros((2, 3)))
    assert not pictures.load_depth(tmp_path / "d.png").any()
    pictures.save_image(tmp_path / "p.png", PICTURE)
    with pytest.raises(CopoError, match="no depth scale"):
        pictures.load_depth(tmp_path / "p.png")
    with pytest.raises(CopoError, match=r"ends in \.png"):
        pictures.save_depth(tmp_path / "d.jpg", np.zeros((2, 3)))


@given(st.lists(st.integers(0, 255), min_size=3, max_size=30))
def test_tensors_and_bytes_round_trip(values: list[int]) -> None:
    image = np.array(values[: len(values) // 3 * 3], np.uint8).reshape(1, 1, -1, 3)
    tensor = pictures.from_uint8(image)
    assert tensor.shape == (1, 3, 1, image.shape[2]) and float(tensor.abs().max()) <= 1
    np.testing.assert_array_equal(pictures.to_uint8(tensor), image)


def test_network_values_beyond_the_range_are_clamped() -> None:
    column = torch.tensor([-2.0, -1, 0, 1, 3]).reshape(1, 5, 1).expand(3, 5, 1)
    assert pictures.to_uint8(column)[:, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_contact_sheet_puts_pictures_in_order() -> None:
    tiles = [np.full((10, 20, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = pictures.contact_sheet(tiles, columns=2, gap=3)
    assert sheet.shape == (3 + 2 * 13, 3 + 2 * 23, 3)
    assert sheet[3, 3, 0] == 10 and sheet[3, 26, 0] == 20 and sheet[16, 3, 0] == 30
    assert sheet[16, 26, 0] == 255  # the empty cell


def test_captions_need_room_and_leave_ink() -> None:
    tiles = [np.full((20, 60, 3), 255, np.uint8)] * 2
    plain = pictures.contact_sheet(tiles, columns=2)
    sheet = pictures.contact_sheet(tiles, columns=2, captions=["jawOpen", "a very long caption that cannot fit"])
    assert sheet.shape[0] > plain.shape[0] and sheet.shape[1] == plain.shape[1]
    strip = sheet[24:]
    assert (strip < 128).any()
    assert (strip[:, -4:] == 255).all()  # the long one stays inside
    with pytest.raises(CopoError, match="1 captions for 2 pictures"):
        pictures.contact_sheet(tiles, captions=["a"])
    with pytest.raises(CopoError, match="at least one"):
        pictures.contact_sheet([])


def test_pictures_of_labels_normals_and_depth() -> None:
    labels = pictures.label_picture(np.array([[0, 17, 18, 19, -1]]))
    assert labels[0, 3:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert len(np.unique(pictures.LABEL_COLORS, axis=0)) == 19
    normals = pictures.normal_picture(np.array([[[0, 0, 1.0], [-1, 0, 0]]]), np.array([[1, 0]]))
    assert normals[0].tolist() == [[128, 128, 255], [255, 255, 255]]
    depth = pictures.depth_picture(np.array([[0.9, 1.1, 0, np.nan]]))
    assert depth[0, :, 0].tolist() == [255, 40, 0, 0]


def test_a_decompression_bomb_in_a_text_chunk_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", "x" * 80_000_000, zip=True)
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG", pnginfo=info)
    (tmp_path / "bomb.png").write_bytes(stream.getvalue())
    with pytest.raises(CopoError, match="cannot be read"):
        pictures.read_metadata(tmp_path / "bomb.png")
