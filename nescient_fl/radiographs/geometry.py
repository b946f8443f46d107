"""From an image file of any size and mode to the one frame that the network takes: 320 rows, 390 columns."""

import errno
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from nescient_fl.errors import UserError

Geometry = Literal["paper", "upright"]
GEOMETRIES: Final[tuple[Geometry, ...]] = ("paper", "upright")
FRAME: Final = (320, 390)

Pixels = npt.NDArray[np.uint8]

LARGEST_FILE: Final = 512 * 2**20
"""Bytes. A radiograph of 4,000 x 4,000 pixels in 16 bits, uncompressed, is 32 MB."""
LARGEST_IMAGE: Final = 80_000_000
"""Pixels, about five times the largest detector, and below the size at which Pillow itself objects."""

# The formats radiographs come in. Pillow would also hand EPS to Ghostscript, which nobody's scan should do.
_FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
_WIDE_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class BadRadiograph(Exception):
    """A file that cannot be used: ``path``, and ``reason``, a phrase for the user."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadRadiograph"], tuple[Path, str]]:
        """Pickle by constructor arguments, so that it can cross a process boundary."""
        return (type(self), (self.path, self.reason))


@dataclass(frozen=True)
class Framed:
    """A radiograph in the frame, uint8 [320, 390]; what lies outside ``rows`` and ``columns`` is padding."""

    pixels: Pixels
    rows: slice
    columns: slice

    @property
    def area(self) -> Pixels:
        """The part of ``pixels`` that holds the radiograph, uint8."""
        return self.pixels[self.rows, self.columns]


def checked_geometry(name: str) -> Geometry:
    """Return ``name`` as a geometry, or raise ``UserError`` when it is none."""
    for geometry in GEOMETRIES:
        if name == geometry:
            return geometry
    raise UserError(f"--geometry {name} is unknown; choose {' or '.join(GEOMETRIES)}")


def read_radiograph(path: Path) -> Pixels:
    """Read one image file as grey pixels, uint8 [H, W].

    Any mode comes in: colour is turned to luminance, transparency ignored, and images of more than 8 bits are
    scaled linearly from their own smallest and largest value to 0..255. Orientation said in EXIF is applied,
    as every viewer does. Of several frames the first is read.

    Raises ``BadRadiograph`` for a file that is missing, unreadable, empty, not an image, truncated, larger
    than ``LARGEST_FILE`` or ``LARGEST_IMAGE``, or that has the same value everywhere.
    """
    return decode_radiograph(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a whole image file; raises ``BadRadiograph`` for one that is missing, unreadable or too large."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise BadRadiograph(path, f"the file has {size / 2**20:,.0f} MB, too much for a radiograph")
        return path.read_bytes()
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        if isinstance(error, FileNotFoundError):
            raise BadRadiograph(path, "no such file") from error
        raise BadRadiograph(path, f"cannot be read ({(error.strerror or 'unknown reason').lower()})") from error


def decode_radiograph(data: bytes, path: Path) -> Pixels:
    """Decode the bytes of one image file; ``path`` only names it in errors. See ``read_radiograph``."""
    if not data:
        raise BadRadiograph(path, "empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise BadRadiograph(path, "not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadRadiograph(path, "too many pixels for a radiograph") from error
    except Exception as error:  # A decoder may raise nearly anything on bytes nobody wrote on purpose.
        raise BadRadiograph(path, _decoding_reason(error)) from error
    width, height = image.size
    if width * height > LARGEST_IMAGE:
        raise BadRadiograph(path, f"{width} x {height} pixels, too many for a radiograph")
    try:
        pixels = _grey(_oriented(image))
    except Exception as error:
        raise BadRadiograph(path, _decoding_reason(error)) from error
    if pixels is None:
        raise BadRadiograph(path, "has values that are not finite")
    if pixels.size == 0 or (pixels == pixels.flat[0]).all():
        raise BadRadiograph(path, "all pixels have one value")
    return pixels


def _oriented(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, MemoryError):
        raise  # The pixels themselves are truncated or too many.
    except Exception:  # A malformed EXIF block says nothing about the pixels.
        return image


def _grey(image: Image.Image) -> Pixels | None:
    """Return uint8 [H, W], or None where a float image has values that are not finite."""
    if image.mode not in _WIDE_MODES:
        return np.array(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)
    wide = np.asarray(image).astype(np.float64)
    if not np.isfinite(wide).all():
        return None
    low, high = float(wide.min()), float(wide.max())
    if low == high:
        return np.zeros(wide.shape, dtype=np.uint8)
    return np.round((wide - low) / (high - low) * 255.0).astype(np.uint8)


def _decoding_reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    if isinstance(error, MemoryError):
        return "too large to decode in memory"
    return f"cannot be decoded ({text or type(error).__name__})"


def to_frame(pixels: Pixels, geometry: Geometry) -> Pixels:
    """Bring grey pixels, uint8 [H, W] of any size, into the frame, uint8 [320, 390]. See ``place``."""
    return place(pixels, geometry).pixels


def place(pixels: Pixels, geometry: Geometry) -> Framed:
    """Bring grey pixels, uint8 [H, W] of any size, into the frame, and say which part of it is not padding.

    ``paper``: a taller-than-wide image is transposed; the short side, now the rows, is brought to 320 with
    the aspect kept (CheXpert-v1.0-small has it already); columns beyond 390 are cut off evenly at both
    sides, since squeezing would distort and the write-up's own images fit; fewer are filled up evenly by
    repeating the edge. ``upright``: the aspect is kept, the image resized to the largest size that fits,
    and padded evenly with its mean grey. An odd column of padding goes to the right, an odd row to the
    bottom.

    An image that needs no resizing keeps its pixel values, and a row of it (``paper``: a column, where it was
    transposed) stays one row. Raises ``ValueError`` for anything but a non-empty two-dimensional uint8 array.
    """
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise ValueError(f"expected grey uint8 pixels [H, W], got {pixels.dtype} {pixels.shape}")
    return _paper(pixels) if geometry == "paper" else _upright(pixels)


def _paper(pixels: Pixels) -> Framed:
    rows, columns = FRAME
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.T
    height, width = pixels.shape
    # Cut before resizing: a strip a thousand times as wide as high never becomes an image of that width.
    widest = columns * height / rows
    excess = max(0.0, width - widest)
    if height == rows:
        start = int(excess) // 2
        fitted = pixels[:, start : start + columns]
    else:
        box = (excess / 2, 0.0, width - excess / 2, float(height))
        wanted = min(columns, max(1, round((width - excess) * rows / height)))
        fitted = _resize(pixels, rows, wanted, box)
    left, right = _halves(columns - fitted.shape[1])
    return Framed(np.pad(fitted, ((0, 0), (left, right)), mode="edge"), slice(0, rows), slice(left, columns - right))


def _upright(pixels: Pixels) -> Framed:
    rows, columns = FRAME
    height, width = pixels.shape
    scale = min(rows / height, columns / width)
    fitted_size = (min(rows, max(1, round(height * scale))), min(columns, max(1, round(width * scale))))
    fitted = pixels if fitted_size == pixels.shape else _resize(pixels, *fitted_size, None)
    top, bottom = _halves(rows - fitted.shape[0])
    left, right = _halves(columns - fitted.shape[1])
    grey = round(float(fitted.mean(dtype=np.float64)))
    framed = np.pad(fitted, ((top, bottom), (left, right)), constant_values=grey)
    return Framed(framed, slice(top, rows - bottom), slice(left, columns - right))


def _resize(pixels: Pixels, rows: int, columns: int, box: tuple[float, float, float, float] | None) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    # Bilinear in Pillow widens its filter when it shrinks, so nothing aliases.
    resized = image.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    return np.array(resized, dtype=np.uint8)


def _halves(padding: int) -> tuple[int, int]:
    return padding // 2, padding - padding // 2
