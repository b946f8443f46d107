"""Lung nodules and masses, from obvious to nearly invisible."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body, Side
from nescient_fl.radiographs.phantom.canvas import Float, Surface

Grade = Literal["obvious", "clear", "moderate", "faint", "hidden"]

# Grade: share of patients, contrast (attenuation added at the centre; a rib adds about 0.05, the step from
# lung to heart about 0.4) and radius (patient units: 0.028 to 0.046 is a nodule 8 to 14 pixels wide, and a
# mass is two or three times that).
#
# The mix is measured, not natural. The network sees a picture through one layer of 10 x 10 filters, so what
# is much wider than a filter, or no brighter than ribs and vessels, it never learns from a few hundred
# patients; with these shares it learns the upper grades, and the lower ones keep it from being perfect.
GRADES: dict[Grade, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "obvious": (0.65, (0.54, 0.80), (0.028, 0.046)),
    "clear": (0.19, (0.36, 0.50), (0.028, 0.046)),
    "moderate": (0.08, (0.22, 0.36), (0.028, 0.048)),
    "faint": (0.05, (0.09, 0.18), (0.028, 0.050)),
    "hidden": (0.03, (0.02, 0.06), (0.026, 0.050)),
}
_SINGLE, _FEW = (
    0.22,
    0.38,
)  # shares of patients with one lesion, with two to four; the others have five to nine
_MASS = 0.30
_SPICULATED = 0.4  # of masses
_CAVITY = 0.06  # of nodules


@dataclass(frozen=True)
class Lesion:
    """One lesion of one patient. Place and radius are in patient units.

    Attributes:
        lobes: how far its outline leaves the circle, by angular harmonic.
        softness: width of its margin, in radii.
        mass: radius of the mass that it is part of, in nodule radii; 0 for a nodule.
        parts: where in the mass nodules lie, in nodule radii.
        spikes: how many rays leave a spiculated mass; 0 for a smooth one.
        cavity: radius of the hole in it, in radii; 0 for none.
    """

    grade: Grade
    x: float
    y: float
    radius: float
    contrast: float
    lobes: tuple[float, float, float, float]
    softness: float
    mass: float
    parts: tuple[tuple[float, float], ...]
    spikes: int
    cavity: float


def draw_lesions(rng: np.random.Generator, body: Body) -> tuple[Lesion, ...]:
    """Draw a patient's lesions: one, a few, or the many of metastatic disease, all of one grade."""
    names = list(GRADES)
    shares = np.array([GRADES[name][0] for name in names])
    grade = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    draw = rng.random()
    if draw < _SINGLE:
        count = 1
    elif draw < _SINGLE + _FEW:
        count = int(rng.integers(2, 5))
    else:
        count = int(rng.integers(5, 10))
    first = _draw_lesion(rng, body, grade)
    more = [_draw_lesion(rng, body, grade) for _ in range(count - 1)]
    return (first, *(replace(lesion, radius=lesion.radius * 0.85) for lesion in more))


def faded(lesions: tuple[Lesion, ...], rng: np.random.Generator) -> tuple[Lesion, ...]:
    """The faint lesion that a hedging report speaks of: the first, barely there."""
    low, high = GRADES["faint"][1]
    return (replace(lesions[0], grade="faint", contrast=float(rng.uniform(0.6 * low, high)), spikes=0),)


def _draw_lesion(rng: np.random.Generator, body: Body, grade: Grade) -> Lesion:
    _, contrast, radius = GRADES[grade]
    size = float(rng.uniform(*radius))
    x, y = draw_place(rng, body, margin=0.03 + 1.2 * size, anywhere=0.06)
    lobes = rng.normal(0, 0.07, 4)
    mass = float(rng.uniform(1.8, 3.2)) if rng.random() < _MASS else 0.0
    parts: list[tuple[float, float]] = []
    if mass:
        for _ in range(int(rng.integers(2, 6))):
            bearing, away = rng.uniform(0, 2 * np.pi), 0.8 * mass * np.sqrt(rng.random())
            parts.append((float(away * np.cos(bearing)), float(away * np.sin(bearing))))
    return Lesion(
        grade=grade,
        x=x,
        y=y,
        radius=size,
        contrast=float(rng.uniform(*contrast)),
        lobes=(float(lobes[0]), float(lobes[1]), float(lobes[2]), float(lobes[3])),
        softness=float(rng.uniform(0.2, 0.7)),
        mass=mass,
        parts=tuple(parts),
        spikes=int(rng.integers(9, 19)) if mass and rng.random() < _SPICULATED else 0,
        cavity=float(rng.uniform(0.35, 0.6)) if not mass and rng.random() < _CAVITY else 0.0,
    )


def draw_place(rng: np.random.Generator, body: Body, margin: float, anywhere: float = 0.0) -> tuple[float, float]:
    """A place in the lungs, or with probability ``anywhere`` behind the heart or low behind a dome."""
    side: Side = -1 if rng.random() < 0.53 else 1
    hard = rng.random() < anywhere
    a = body.anatomy
    while True:
        y = float(rng.uniform(a.apex + 0.12, 0.85))
        x = float(rng.uniform(0.08, 0.98))
        height, across = np.array([y], np.float32), np.array([x], np.float32)
        wall = float(body.chest_wall(height)[0])
        border = float(body.mediastinum(height, side)[0])
        dome = float(body.diaphragm(across, side)[0])
        open_lung = border + margin < x < wall - margin and y < dome - margin
        behind_heart = 0.12 < x < border and -0.1 < y < dome
        behind_dome = border < x < wall - 0.15 and dome < y < dome + 0.12
        if (behind_heart or behind_dome) if hard else open_lung:
            return side * x, y


def add_lesions(
    surface: Surface, attenuation: Float, air: Float, lesions: tuple[Lesion, ...], inspiration: float
) -> None:
    """Add lesions to ``attenuation`` [rows, columns] in place; each touches only the pixels around it.

    They move with the breath (``inspiration``), the lower the more. ``air`` [rows, columns] is where lung is.
    """
    for lesion in lesions:
        y = lesion.y + 0.5 * inspiration * float(np.clip(lesion.y + 0.2, 0, 1))
        outline = max(1.0, lesion.mass)
        rows, columns = surface.window(lesion.x, y, 2.0 * outline * lesion.radius)
        dx = (surface.x[:, columns] - np.float32(lesion.x)) / np.float32(lesion.radius)
        dy = (surface.y[rows] - np.float32(y)) / np.float32(lesion.radius)
        shade = _mass(dx, dy, lesion) if lesion.mass else _nodule(dx, dy, lesion)
        if lesion.spikes:
            shade = shade + _spikes(dx, dy, lesion)
        # Tissue instead of air: in full where there is air, still faintly there over what is dense already.
        where = np.clip(0.35 + 0.9 * air[rows, columns], 0, 1)
        attenuation[rows, columns] += (lesion.contrast * shade * where).astype(np.float32)


def _nodule(dx: Float, dy: Float, lesion: Lesion) -> Float:
    """A nodule's relative thickness; ``dx`` [1, n] and ``dy`` [m, 1] in radii, the answer [m, n]."""
    bearing = np.arctan2(dy, dx)
    a, b, c, d = lesion.lobes
    outline = 1 + a * np.cos(2 * bearing) + b * np.sin(2 * bearing) + c * np.cos(3 * bearing)
    depth = np.hypot(dx, dy) / (outline + d * np.sin(4 * bearing))
    solid = np.clip((1 - depth) / lesion.softness + 0.25, 0, 1)
    shade = solid * solid * (3 - 2 * solid) * (0.72 + 0.28 * np.sqrt(np.clip(1 - depth**2, 0, 1)))
    if lesion.cavity:
        shade = shade * (1 - 0.75 * np.clip((lesion.cavity - depth) / 0.2 + 0.5, 0, 1))
    return np.asarray(shade, np.float32)


def _mass(dx: Float, dy: Float, lesion: Lesion) -> Float:
    """A mass: nodules that grew together inside a softer body; units as in ``_nodule``."""
    clear = 1 - 0.45 * np.clip(1 - (dx**2 + dy**2) / np.float32(lesion.mass**2), 0, 1) ** 0.7
    for u, v in lesion.parts:
        away = (dx - np.float32(u)) ** 2 + (dy - np.float32(v)) ** 2
        clear = clear * (1 - 0.75 * np.clip(1.15 - away, 0, 1) ** 0.7)
    return np.asarray(1 - clear, np.float32)


def _spikes(dx: Float, dy: Float, lesion: Lesion) -> Float:
    """The rays of a spiculated margin, from the edge of the mass outward."""
    bearing = np.arctan2(dy, dx)
    depth = np.hypot(dx, dy) / np.float32(lesion.mass)
    # Uneven gaps: the angle is bent by the lesion's own harmonics.
    bent = bearing + 4 * lesion.lobes[0] * np.sin(bearing) + 4 * lesion.lobes[1] * np.cos(2 * bearing)
    rays = np.clip(np.cos(lesion.spikes * bent), 0, 1) ** 4
    return np.asarray(0.30 * rays * np.clip(1.7 - depth, 0, 1) * np.clip((depth - 0.6) / 0.3, 0, 1), np.float32)
