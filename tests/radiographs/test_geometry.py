"""Reading any file, and the two ways into the frame."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from radiograph_samples import noise

from nescient_fl.errors import UserError
from nescient_fl.radiographs.geometry import (
    FRAME,
    GEOMETRIES,
    BadRadiograph,
    Geometry,
    checked_geometry,
    decode_radiograph,
    place,
    read_radiograph,
    to_frame,
)

ROWS, COLUMNS = FRAME

# Pillow remarks on the damaged files that are made here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# --- the frame


@settings(max_examples=80, deadline=None)
@given(st.integers(ROWS, 460), st.booleans(), st.integers(0, 9))
def test_paper_keeps_every_row_a_row(long: int, portrait: bool, seed: int) -> None:
    """Short side 320, as in CheXpert-v1.0-small: no pixel leaves its row (portrait: its column)."""
    pixels = noise(ROWS, long, seed)
    framed = place(pixels.T if portrait and long > ROWS else pixels, "paper")
    assert framed.pixels.shape == FRAME
    assert (framed.rows.start, framed.rows.stop) == (0, ROWS)
    cut = max(0, long - COLUMNS) // 2
    assert np.array_equal(framed.area, pixels[:, cut : cut + COLUMNS])
    left, right = framed.columns.start, framed.columns.stop
    assert (framed.pixels[:, :left] == pixels[:, :1]).all()
    assert (framed.pixels[:, right:] == pixels[:, -1:]).all()
    assert 0 <= (COLUMNS - right) - left <= 1


@settings(max_examples=80, deadline=None)
@given(st.integers(ROWS, 460), st.booleans())
def test_paper_rows_that_say_their_number(long: int, portrait: bool) -> None:
    """Each source row holds its own number: after the frame every row must still be constant and in place."""
    numbers = (np.arange(ROWS) % 251).astype(np.uint8)
    pixels = np.repeat(numbers[:, None], long, axis=1)
    frame = to_frame(pixels.T if portrait and long > ROWS else pixels, "paper")
    assert (frame == numbers[:, None]).all()


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(st.tuples(st.just(ROWS), st.integers(1, COLUMNS)), st.tuples(st.integers(1, ROWS), st.just(COLUMNS))),
    st.integers(0, 9),
)
def test_upright_leaves_a_fitting_image_as_it_is(shape: tuple[int, int], seed: int) -> None:
    pixels = noise(*shape, seed)
    framed = place(pixels, "upright")
    assert np.array_equal(framed.area, pixels)
    padding = np.ones(FRAME, dtype=bool)
    padding[framed.rows, framed.columns] = False
    assert (framed.pixels[padding] == round(float(pixels.mean()))).all()
    for used, whole in ((framed.rows, ROWS), (framed.columns, COLUMNS)):
        assert 0 <= (whole - used.stop) - used.start <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from(GEOMETRIES), st.integers(0, 9))
def test_any_size_fits(height: int, width: int, geometry: Geometry, seed: int) -> None:
    pixels = noise(height, width, seed)
    framed = place(pixels, geometry)
    assert framed.pixels.shape == FRAME
    assert framed.pixels.dtype == np.uint8
    assert framed.area.size > 0
    assert framed.pixels.min() >= pixels.min()
    assert framed.pixels.max() <= pixels.max()
    if geometry == "upright":
        # The aspect is kept to within a pixel, and one side touches.
        rows, columns = framed.area.shape
        assert rows == ROWS or columns == COLUMNS
        scale = min(ROWS / height, COLUMNS / width)
        assert abs(rows - height * scale) <= 1
        assert abs(columns - width * scale) <= 1


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_extreme_strips_take_no_memory(shape: tuple[int, int], geometry: Geometry) -> None:
    assert to_frame(noise(*shape), geometry).shape == FRAME


def test_portrait_is_transposed_in_paper_and_upright_in_upright() -> None:
    pixels = np.zeros((390, ROWS), dtype=np.uint8)
    pixels[:195] = 200  # The upper half is bright.
    paper, upright = to_frame(pixels, "paper"), place(pixels, "upright")
    assert (paper[:, :195] == 200).all()
    assert (paper[:, 195:] == 0).all()
    assert upright.area.shape == (ROWS, 263)
    assert (upright.area[:150] == 200).all()
    assert (upright.area[170:] == 0).all()


def test_square_is_not_transposed() -> None:
    pixels = noise(ROWS, ROWS)
    assert np.array_equal(place(pixels, "paper").area, pixels)
    assert np.array_equal(place(pixels, "upright").area, pixels)


def test_only_grey_bytes_go_in() -> None:
    for wrong in (np.zeros((3, 4)), np.zeros((3, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected grey uint8"):
            to_frame(wrong, "paper")
    with pytest.raises(UserError, match="--geometry sideways is unknown; choose paper or upright"):
        checked_geometry("sideways")


# --- files


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_reads_as_the_same_picture(tmp_path: Path, mode: str) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 20, axis=0)
    grey = Image.fromarray(ramp)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(ramp.astype(kind) * kind(7) + kind(1000))
        assert image.mode == mode
    else:
        image = grey.convert(mode)
    suffix = "tif" if mode in ("F", "I", "CMYK", "YCbCr") else "png"
    pixels = read_radiograph(saved(tmp_path / f"x.{suffix}", image))
    assert pixels.shape == (20, 256)
    assert pixels.dtype == np.uint8
    if mode == "1":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        assert np.abs(pixels.astype(int) - ramp).max() <= 1


def test_sixteen_bits_use_their_own_range(tmp_path: Path) -> None:
    wide = np.linspace(3000, 5000, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name in ("x.png", "x.tif"):
        pixels = read_radiograph(saved(tmp_path / name, Image.fromarray(wide)))
        assert (pixels.min(), pixels.max()) == (0, 255)
        assert (np.diff(pixels.ravel().astype(int)) >= 0).all()


def test_orientation_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    pixels = noise(30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn a quarter clockwise to see it upright.
    turned = read_radiograph(saved(tmp_path / "x.png", Image.fromarray(pixels), exif=exif))
    assert np.array_equal(turned, np.rot90(pixels, -1))
    broken = read_radiograph(saved(tmp_path / "y.png", Image.fromarray(pixels), exif=b"Exif\x00\x00MM\x00*junk"))
    assert np.array_equal(broken, pixels)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def nan_tiff() -> bytes:
    values = np.ones((8, 8), dtype=np.float32)
    values[3, 3] = np.nan
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"Path,Sex,Age\n", "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
    "jpeg head": (jpeg(noise(64, 64))[:300], "truncated"),
    "jpeg half": (jpeg(noise(64, 64))[: len(jpeg(noise(64, 64))) // 2], "truncated"),
    "jpeg tail": (jpeg(noise(64, 64))[:-60], "truncated"),
    "png half": (png(noise(64, 64))[:2000], "truncated"),
    "flat jpeg": (jpeg(np.full((64, 64), 90, np.uint8)), "all pixels have one value"),
    "flat wide": (png(np.full((64, 64), 900, np.uint16)), "all pixels have one value"),
    "nan": (nan_tiff(), "not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = BAD[name]
    path = tmp_path / "view1_frontal.jpg"
    path.write_bytes(data)
    with pytest.raises(BadRadiograph, match=reason) as raised:
        read_radiograph(path)
    assert raised.value.path == path
    assert str(path) in str(raised.value)
    assert pickle.loads(pickle.dumps(raised.value)).reason == raised.value.reason


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_decompression_bomb_is_not_unpacked(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path = tmp_path / "bomb.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(BadRadiograph, match="too many"):
        read_radiograph(path)


def test_missing_folder_and_forbidden_files(tmp_path: Path) -> None:
    with pytest.raises(BadRadiograph, match="no such file"):
        read_radiograph(tmp_path / "absent.jpg")
    with pytest.raises(BadRadiograph, match=r"cannot be read .is a directory"):
        read_radiograph(tmp_path)
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.raises(BadRadiograph, match="cannot be read"):
        read_radiograph(tmp_path / "loop.jpg")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_escape(data: st.DataObject) -> None:
    """Whatever happens to a file, it reads or it is a BadRadiograph."""
    good = bytearray(data.draw(st.sampled_from([jpeg(noise(24, 24)), png(noise(24, 24)), nan_tiff()])))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = Path("damaged")
    try:
        pixels = decode_radiograph(bytes(good), path)
    except BadRadiograph:
        return
    assert pixels.ndim == 2
    assert pixels.dtype == np.uint8
