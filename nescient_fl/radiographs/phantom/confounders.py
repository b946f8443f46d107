"""Harmless shadows that resemble nodules, in anyone's picture, lesion or not."""

from dataclasses import dataclass

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Surface
from nescient_fl.radiographs.phantom.lesions import draw_place


@dataclass(frozen=True)
class Spot:
    """A round shadow: place and radius in patient units, and the attenuation that it adds."""

    x: float
    y: float
    radius: float
    contrast: float


def draw_confounders(rng: np.random.Generator, body: Body) -> list[Spot]:
    """Draw vessels seen end-on near the hila, healed granulomas, and nipples."""
    spots: list[Spot] = []
    for _ in range(int(rng.poisson(2.5))):
        side = -1 if rng.random() < 0.5 else 1
        spots.append(Spot(side * rng.uniform(0.26, 0.5), rng.normal(0.0, 0.14), rng.uniform(0.012, 0.022), 0.13))
    for _ in range(int(rng.poisson(0.5))):  # small and very dense
        x, y = draw_place(rng, body, margin=0.03)
        spots.append(Spot(x, y, rng.uniform(0.009, 0.018), rng.uniform(0.15, 0.3)))
    if rng.random() < 0.15:
        y = body.anatomy.dome_right - rng.uniform(0.0, 0.14)
        sides = (-1, 1) if rng.random() < 0.6 else (1,)
        spots += [Spot(side * rng.uniform(0.58, 0.68), y, 0.030, rng.uniform(0.05, 0.10)) for side in sides]
    return spots


def add_confounders(surface: Surface, attenuation: Float, air: Float, spots: list[Spot]) -> None:
    """Add the spots to ``attenuation`` [rows, columns] in place; ``air`` [rows, columns] is where lung is."""
    for spot in spots:
        rows, columns = surface.window(spot.x, spot.y, 1.6 * spot.radius)
        distance = np.hypot(surface.x[:, columns] - spot.x, surface.y[rows] - spot.y) / spot.radius
        shade = np.clip((1 - distance) / 0.4 + 0.3, 0, 1) * np.clip(0.3 + air[rows, columns], 0, 1)
        attenuation[rows, columns] += (spot.contrast * shade).astype(np.float32)
