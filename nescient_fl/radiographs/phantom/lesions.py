"""Lung nodules and masses, from obvious to nearly invisible, and the harmless shadows that resemble them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body, Side
from nescient_fl.radiographs.phantom.canvas import Float, Surface

Grade = Literal["obvious", "clear", "moderate", "faint", "hidden"]

# Grade: share of patients, contrast (attenuation added at the centre; a rib adds about 0.085) and radius
# (patient units; 0.05 is about 7 pixels).
GRADES: dict[Grade, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "obvious": (0.34, (0.26, 0.36), (0.060, 0.130)),
    "clear": (0.30, (0.18, 0.26), (0.048, 0.105)),
    "moderate": (0.18, (0.11, 0.18), (0.042, 0.085)),
    "faint": (0.11, (0.06, 0.10), (0.035, 0.075)),
    "hidden": (0.07, (0.02, 0.045), (0.030, 0.060)),
}


@dataclass(frozen=True)
class Lesion:
    """One lesion of one patient: where (patient units), how large, how dense, and its margin."""

    grade: Grade
    x: float
    y: float
    radius: float
    contrast: float
    lobes: tuple[float, float, float, float]
    softness: float
    spikes: int
    spike_phase: float
    cavity: float


def draw_lesions(rng: np.random.Generator, body: Body) -> tuple[Lesion, ...]:
    """Draw a patient's lesions: mostly one, sometimes a few, now and then the many of metastatic disease."""
    names = list(GRADES)
    shares = np.array([GRADES[name][0] for name in names])
    grade = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    draw = rng.random()
    count = 1 if draw < 0.66 else int(rng.integers(2, 4)) if draw < 0.90 else int(rng.integers(4, 8))
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
    x, y = draw_place(rng, body, margin=0.6 * size, anywhere=0.10)
    lobes = rng.normal(0, 0.07, 4)
    return Lesion(
        grade=grade,
        x=x,
        y=y,
        radius=size,
        contrast=float(rng.uniform(*contrast)),
        lobes=(float(lobes[0]), float(lobes[1]), float(lobes[2]), float(lobes[3])),
        softness=float(rng.uniform(0.15, 0.55)),
        spikes=int(rng.integers(7, 15)) if rng.random() < 0.35 and size > 0.045 else 0,
        spike_phase=float(rng.uniform(0, 2 * np.pi)),
        cavity=float(rng.uniform(0.35, 0.6)) if rng.random() < 0.06 and size > 0.07 else 0.0,
    )


def draw_place(
    rng: np.random.Generator, body: Body, margin: float, anywhere: float = 0.0
) -> tuple[float, float]:
    """A place in the lungs, or with probability ``anywhere`` behind the heart or low behind a dome."""
    side: Side = -1 if rng.random() < 0.53 else 1
    hard = rng.random() < anywhere
    a = body.anatomy
    while True:
        y = float(rng.uniform(a.apex + 0.12, 0.85))
        x = float(rng.uniform(0.08, 0.98))
        height, across = np.float32(y), np.float32(x)
        wall = float(body.chest_wall(np.array([height], np.float32))[0])
        border = float(body.mediastinum(np.array([height], np.float32), side)[0])
        dome = float(body.diaphragm(np.array([across], np.float32), side)[0])
        open_lung = border + margin < x < wall - margin and y < dome - margin
        behind_heart = 0.12 < x < border and -0.1 < y < dome
        behind_dome = border < x < wall - 0.15 and dome < y < dome + 0.12
        if (behind_heart or behind_dome) if hard else open_lung:
            return side * x, y


def add_lesions(
    surface: Surface, attenuation: Float, air: Float, lesions: tuple[Lesion, ...], body: Body
) -> None:
    """Add lesions to ``attenuation`` in place; each touches only the pixels around it."""
    for lesion in lesions:
        drift = 0.5 * body.posture.inspiration * float(np.clip(lesion.y + 0.2, 0, 1))
        _add_lesion(surface, attenuation, air, replace(lesion, y=lesion.y + drift))


def _add_lesion(surface: Surface, attenuation: Float, air: Float, lesion: Lesion) -> None:
    rows, columns = _window(surface, lesion.x, lesion.y, 2.2 * lesion.radius)
    dx, dy = surface.x[:, columns] - lesion.x, surface.y[rows] - lesion.y
    distance = np.sqrt(dx**2 + dy**2) / np.float32(lesion.radius)
    bearing = np.arctan2(dy, dx)
    a, b, c, d = lesion.lobes
    reach = (
        1
        + a * np.cos(2 * bearing)
        + b * np.sin(2 * bearing)
        + c * np.cos(3 * bearing)
        + d * np.sin(4 * bearing)
    )
    depth = distance / reach
    solid = np.clip((1 - depth) / lesion.softness + 0.25, 0, 1)
    shade = solid * solid * (3 - 2 * solid) * (0.72 + 0.28 * np.sqrt(np.clip(1 - depth**2, 0, 1)))
    if lesion.cavity:
        shade = shade * (1 - 0.75 * np.clip((lesion.cavity - depth) / 0.2 + 0.5, 0, 1))
    if lesion.spikes:
        rays = np.clip(np.cos(lesion.spikes * bearing + lesion.spike_phase + 1.5 * a * bearing), 0, 1) ** 6
        shade = shade + 0.45 * rays * np.clip(1.9 - depth, 0, 0.9) * (depth > 0.85)
    # Tissue instead of air: in full where there is air, still faintly there over what is dense already.
    where = np.clip(0.35 + 0.9 * air[rows, columns], 0, 1)
    attenuation[rows, columns] += (lesion.contrast * shade * where).astype(np.float32)


def add_confounders(
    surface: Surface, attenuation: Float, air: Float, rng: np.random.Generator, body: Body
) -> None:
    """Vessels end-on, nipples, calcified dots and bone islands, in anyone's picture, lesion or not."""
    spots: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.poisson(2.5))):  # vessels end-on, near the hila
        side = -1 if rng.random() < 0.5 else 1
        spots.append(
            (
                side * float(rng.uniform(0.26, 0.5)),
                float(rng.normal(0.0, 0.14)),
                float(rng.uniform(0.012, 0.022)),
                0.13,
            )
        )
    for _ in range(int(rng.poisson(0.5))):  # healed granulomas: small and very dense
        x, y = draw_place(rng, body, margin=0.03)
        spots.append((x, y, float(rng.uniform(0.009, 0.018)), float(rng.uniform(0.15, 0.3))))
    if rng.random() < 0.15:  # nipples, at about the height of the domes
        y = body.anatomy.dome_right - float(rng.uniform(0.0, 0.14))
        sides = (-1, 1) if rng.random() < 0.6 else (1,)
        spots.extend(
            (side * float(rng.uniform(0.58, 0.68)), y, 0.030, float(rng.uniform(0.05, 0.10)))
            for side in sides
        )
    for x, y, radius, contrast in spots:
        rows, columns = _window(surface, x, y, 1.6 * radius)
        distance = np.sqrt((surface.x[:, columns] - x) ** 2 + (surface.y[rows] - y) ** 2) / np.float32(radius)
        shade = np.clip((1 - distance) / 0.4 + 0.3, 0, 1)
        attenuation[rows, columns] += (contrast * shade * np.clip(0.3 + air[rows, columns], 0, 1)).astype(
            np.float32
        )


def _window(surface: Surface, x: float, y: float, reach: float) -> tuple[slice, slice]:
    column, row = surface.to_pixels(np.array([x, y], np.float32))
    span = reach * surface.scale + 2
    rows = slice(max(0, int(row - span)), max(0, min(surface.rows, int(row + span) + 1)))
    columns = slice(max(0, int(column - span)), max(0, min(surface.columns, int(column + span) + 1)))
    return rows, columns
