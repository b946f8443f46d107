"""How an image was taken: framing, posture, exposure, noise, equalisation, markers.

The three settings differ as they do in a hospital: intensive care images are portable, shallow of breath,
turned, blurred and noisy; outpatients stand with raised arms before a still detector.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from nescient_fl.radiographs.phantom.anatomy import Posture
from nescient_fl.radiographs.phantom.canvas import Float, Surface

SHORT_SIDE = 320
_BLEED = 20  # pixels drawn beyond the frame on every side, so that turning it shows no corner


@dataclass(frozen=True)
class Profile:
    """One setting's habits; pairs are mean and standard deviation."""

    portrait: float
    zoom: tuple[float, float]
    lean: tuple[float, float]  # degrees in the plane of the picture
    turn: float
    breath: tuple[float, float]
    arms: tuple[float, float]
    lift: tuple[float, float]
    magnification: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    equalised: tuple[float, float]
    scatter: tuple[float, float]  # veil of scattered rays that flattens contrast


PROFILES = {
    "icu": Profile(
        portrait=0.14, zoom=(0.97, 0.05), lean=(0, 2.6), turn=0.25, breath=(-0.06, 0.06), arms=(0.05, 0.1),
        lift=(0.05, 0.05), magnification=(1.12, 0.06), blur=(0.75, 0.15), noise=(0.016, 0.005),
        equalised=(0.62, 0.14), scatter=(0.24, 0.07),
    ),
    "ward": Profile(
        portrait=0.15, zoom=(0.98, 0.045), lean=(0, 2.0), turn=0.2, breath=(-0.02, 0.05), arms=(0.2, 0.2),
        lift=(0.03, 0.05), magnification=(1.08, 0.05), blur=(0.62, 0.12), noise=(0.013, 0.004),
        equalised=(0.66, 0.13), scatter=(0.18, 0.06),
    ),
    "outpatient": Profile(
        portrait=0.18, zoom=(1.0, 0.04), lean=(0, 1.2), turn=0.12, breath=(0.04, 0.04), arms=(0.85, 0.15),
        lift=(-0.03, 0.04), magnification=(1.0, 0.04), blur=(0.50, 0.08), noise=(0.010, 0.003),
        equalised=(0.70, 0.12), scatter=(0.10, 0.05),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Acquisition:
    """Everything about one exposure that is not the patient."""

    setting: str
    rows: int
    columns: int
    surface: Surface
    posture: Posture
    lean: float
    blur: float
    noise: float
    equalised: float
    scatter: float
    gamma: float
    collimated: tuple[int, int, int, int]  # pixels left, top, right, bottom outside the beam


def draw_acquisition(
    rng: np.random.Generator, setting: str, effusion: bool, edema: bool, cardiomegaly: bool
) -> Acquisition:
    """Draw the framing, posture and exposure of one image."""
    profile = PROFILES[setting]
    rows, columns = SHORT_SIDE, int(np.clip(rng.normal(389, 4), 368, 402))
    if rng.random() < profile.portrait:
        rows, columns = int(np.clip(rng.normal(378, 16), 336, 402)), SHORT_SIDE
    # The chest fills most of the shorter of what the width and the height allow.
    fitting = min(columns / 2.42, rows / 1.96)
    scale = float(fitting * np.clip(rng.normal(*profile.zoom), 0.74, 1.2))
    surface = Surface(
        rows=rows + 2 * _BLEED,
        columns=columns + 2 * _BLEED,
        origin_x=float(_BLEED + columns * 0.5 + rng.normal(0, 6)),
        origin_y=float(_BLEED + rows * 0.52 + rng.normal(0, 7)),
        scale=scale,
    )
    side = -1 if rng.random() < 0.5 else 1
    posture = Posture(
        inspiration=float(np.clip(rng.normal(*profile.breath), -0.28, 0.18)),
        turn=float(np.clip(rng.normal(0, profile.turn), -0.9, 0.9)),
        arms=float(np.clip(rng.normal(*profile.arms), 0, 1)),
        magnification=float(rng.normal(*profile.magnification) * (1.22 if cardiomegaly else 1.0)),
        clavicle_lift=float(rng.normal(*profile.lift)),
        effusion=float(side * np.clip(rng.gamma(2.0, 0.09), 0.03, 0.5)) if effusion else 0.0,
        haze=float(rng.uniform(0.12, 0.38)) if edema else float(np.clip(rng.normal(0.03, 0.03), 0, 0.1)),
    )
    edges = [int(rng.integers(2, 14)) if rng.random() < 0.18 else 0 for _ in range(4)]
    return Acquisition(
        setting=setting,
        rows=rows,
        columns=columns,
        surface=surface,
        posture=posture,
        lean=float(np.radians(np.clip(rng.normal(*profile.lean), -5.5, 5.5))),
        blur=float(np.clip(rng.normal(*profile.blur), 0.4, 1.4)),
        noise=float(np.clip(rng.normal(*profile.noise), 0.004, 0.06)),
        equalised=float(np.clip(rng.normal(*profile.equalised), 0.2, 0.95)),
        scatter=float(np.clip(rng.normal(*profile.scatter), 0.0, 0.42)),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        collimated=(edges[0], edges[1], edges[2], edges[3]),
    )


def expose(attenuation: Float, acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn attenuation on the surface into the finished picture, uint8 [rows, columns]."""
    turned = _turn(attenuation, acquisition)
    # Fewer photons arrive behind dense tissue; the detector blurs their noise with the picture.
    grain = rng.standard_normal(turned.shape, np.float32)
    grain *= np.float32(acquisition.noise) * (np.float32(0.35) + turned)
    seen = ndimage.gaussian_filter(turned + grain, acquisition.blur, truncate=2.5)
    # Scatter: a low-frequency veil, cheap on a small copy, and the flattening that it brings.
    small = np.asarray(Image.fromarray(seen).reduce(8), np.float32)
    veil = ndimage.gaussian_filter(small, 3.0, mode="nearest")
    veil = np.asarray(Image.fromarray(veil).resize((seen.shape[1], seen.shape[0]), Image.Resampling.BILINEAR))
    seen = np.float32(1 - acquisition.scatter) * seen + np.float32(acquisition.scatter) * veil * (seen > 0.03)
    return _develop(seen, acquisition, rng)


def _turn(attenuation: Float, acquisition: Acquisition) -> Float:
    cos, sin = float(np.cos(acquisition.lean)), float(np.sin(acquisition.lean))
    surface = acquisition.surface
    half_x, half_y = acquisition.columns / 2, acquisition.rows / 2
    centre_x, centre_y = surface.columns / 2, surface.rows / 2
    matrix = (
        cos, sin, centre_x - cos * half_x - sin * half_y,
        -sin, cos, centre_y + sin * half_x - cos * half_y,
    )  # fmt: skip
    turned = Image.fromarray(attenuation).transform(
        (acquisition.columns, acquisition.rows), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned, np.float32)


def _develop(seen: Float, acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tone curve: window, then partly equalise the histogram as CheXpert's small images were."""
    sample = seen[::3, ::3]
    low, high = np.quantile(sample[sample > 0.06], [0.004, 0.997])
    gain = np.float32(1023 / max(float(high - low), 0.1))
    level = np.clip((seen - np.float32(low)) * gain, 0, 1023).astype(np.int32)
    counts = np.bincount(level.reshape(-1), minlength=1024)
    ranks = np.cumsum(counts) - 0.5 * counts
    plain = np.linspace(0, 1, 1024) ** acquisition.gamma
    tone = acquisition.equalised * ranks / ranks[-1] + (1 - acquisition.equalised) * plain
    grey = np.clip(tone * 253 + 2, 0, 255).astype(np.uint8)[level]
    left, top, right, bottom = acquisition.collimated
    rows, columns = grey.shape
    edge = 4 if rng.random() < 0.7 else 248
    grey[:, :left], grey[:top], grey[:, columns - right :], grey[rows - bottom :] = edge, edge, edge, edge
    return _mark(grey, acquisition, rng)


def _mark(picture: NDArray[np.uint8], acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The side marker, and on portable images often a word."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    columns = picture.shape[1]
    left_marker = rng.random() < 0.7  # "L" on the patient's left, which is the picture's right
    x = columns - rng.integers(18, 48) if left_marker else rng.integers(6, 36)
    y = rng.integers(4, 60)
    shade = int(rng.integers(205, 256))
    draw.text((int(x), int(y)), "L" if left_marker else "R", fill=shade, font=_font(int(rng.integers(13, 22))))
    word = rng.random()
    if acquisition.setting != "outpatient" and word < 0.45:
        text = ("PORTABLE", "AP PORT", "SUPINE", "ERECT", "AP")[int(rng.integers(5))]
        place = (int(rng.integers(8, columns - 90)), int(rng.integers(2, 14)))
        draw.text(place, text, fill=shade, font=_font(int(rng.integers(9, 13))))
    return np.asarray(image, np.uint8)


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]
