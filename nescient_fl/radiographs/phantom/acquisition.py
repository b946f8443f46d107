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
_BLEED = 26  # pixels drawn beyond the frame on every side, so that turning it shows no corner


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
    "icu": Profile(0.14, (0.96, 0.08), (0, 3.2), 0.35, (-0.09, 0.09), (0.05, 0.1), (0.05, 0.05), (1.12, 0.06), (0.95, 0.15), (0.021, 0.005), (0.62, 0.14), (0.24, 0.07)),
    "ward": Profile(0.15, (0.98, 0.07), (0, 2.4), 0.28, (-0.03, 0.07), (0.2, 0.2), (0.03, 0.05), (1.08, 0.05), (0.80, 0.12), (0.017, 0.004), (0.66, 0.13), (0.18, 0.06)),
    "outpatient": Profile(0.18, (1.0, 0.06), (0, 1.3), 0.14, (0.06, 0.06), (0.85, 0.15), (-0.03, 0.04), (1.0, 0.04), (0.62, 0.10), (0.011, 0.003), (0.70, 0.12), (0.10, 0.05)),
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
    fitting = min(columns / 2.62, rows / 2.05)
    scale = float(fitting * np.clip(rng.normal(*profile.zoom), 0.74, 1.2))
    surface = Surface(
        rows=rows + 2 * _BLEED,
        columns=columns + 2 * _BLEED,
        origin_x=float(_BLEED + columns * 0.5 + rng.normal(0, 9)),
        origin_y=float(_BLEED + rows * 0.52 + rng.normal(0, 11)),
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
        lean=float(np.radians(rng.normal(*profile.lean))),
        blur=float(np.clip(rng.normal(*profile.blur), 0.4, 1.4)),
        noise=float(np.clip(rng.normal(*profile.noise), 0.004, 0.04)),
        equalised=float(np.clip(rng.normal(*profile.equalised), 0.2, 0.95)),
        scatter=float(np.clip(rng.normal(*profile.scatter), 0.0, 0.42)),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        collimated=(edges[0], edges[1], edges[2], edges[3]),
    )


def expose(attenuation: Float, acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn attenuation on the surface into the finished picture, uint8 [rows, columns]."""
    turned = _turn(attenuation, acquisition)
    seen = ndimage.gaussian_filter(turned, acquisition.blur, truncate=3.0)
    # Scatter: a low-frequency veil, cheap on a small copy, and the flattening that it brings.
    small = np.asarray(Image.fromarray(seen).reduce(8), np.float32)
    veil = ndimage.gaussian_filter(small, 3.0, mode="nearest")
    veil = np.asarray(Image.fromarray(veil).resize((seen.shape[1], seen.shape[0]), Image.Resampling.BILINEAR))
    seen = (1 - acquisition.scatter) * seen + acquisition.scatter * veil * (seen > 0.02)
    # Fewer photons arrive behind dense tissue; the detector blurs their noise a little.
    grain = rng.standard_normal(seen.shape, np.float32)
    grain = grain + 0.8 * np.roll(grain, 1, axis=1) + 0.8 * np.roll(grain, 1, axis=0)
    seen = seen + np.float32(0.66 * acquisition.noise) * grain * (0.35 + np.clip(seen, 0, 1.2))
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
        (acquisition.columns, acquisition.rows), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(turned, np.float32)


def _develop(seen: Float, acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tone curve: window, then partly equalise the histogram as CheXpert's small images were."""
    body = seen[seen > 0.06]
    low, high = np.quantile(body[::7], [0.004, 0.997]) if body.size > 1000 else (0.0, 1.0)
    tone = np.clip((seen - low) / max(float(high - low), 0.1), 0, 1) ** np.float32(acquisition.gamma)
    level = (tone * 1023).astype(np.int64)
    counts = np.bincount(level.reshape(-1), minlength=1024)
    ranks = np.cumsum(counts) - 0.5 * counts
    equal = (ranks / ranks[-1]).astype(np.float32)
    blended = acquisition.equalised * equal + (1 - acquisition.equalised) * np.linspace(0, 1, 1024, dtype=np.float32)
    grey = np.clip(blended * 252 + 2, 0, 255)[level].astype(np.float32)
    left, top, right, bottom = acquisition.collimated
    rows, columns = grey.shape
    edge = np.float32(4.0 if rng.random() < 0.7 else 248.0)
    grey[:, :left], grey[:top], grey[:, columns - right :], grey[rows - bottom :] = edge, edge, edge, edge
    picture = np.clip(grey + rng.uniform(-0.5, 0.5, grey.shape).astype(np.float32), 0, 255).astype(np.uint8)
    return _mark(picture, acquisition, rng)


def _mark(picture: NDArray[np.uint8], acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The side marker, and on portable images often a word."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    rows, columns = picture.shape
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
