"""Pulmonary vessels: trees that leave the hila and thin out towards the edge of the lung."""

import numpy as np

from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Float, Surface

_GENERATIONS = 6
_POINTS = 12
_TRUNKS = 6


def draw_vessels(surface: Surface, body: Body, air: Float, rng: np.random.Generator) -> Float:
    """Attenuation of vessels inside the lungs' air (``air`` [rows, columns]), float32 [rows, columns].

    ``rng`` is the patient's: their vessels stay where they are from image to image.
    """
    centres, radii = [], []
    for side in (-1, 1):
        for path, radius in _grow(side, rng):
            centres.append(path)
            radii.append(radius)
    centre, radius = np.concatenate(centres), np.concatenate(radii)
    centre[..., 1] += np.float32(0.5 * body.posture.inspiration) * np.clip(centre[..., 1:2] + 0.2, 0, 1)[..., 0]
    strength = (np.float32(3.6 * body.anatomy.vessel_strength) * radius).astype(np.float32)
    vessels = surface.tubes(centre, radius, strength)
    hila = np.zeros_like(vessels)
    for side in (-1, 1):
        across = (surface.x - side * 0.25) / 0.085
        down = (surface.y + 0.02 + 0.04 * side) / 0.15
        hila += 0.085 * np.exp(-0.5 * (across**2 + down**2))
    # Vessels show only against air; end branches drown in the thin lung near its border.
    return (vessels * np.clip(1.25 * air, 0, 1) + hila).astype(np.float32)


def _grow(side: int, rng: np.random.Generator) -> list[tuple[Float, Float]]:
    """One lung's tree by generations: paths [k, points, 2] and radii [k, points]."""
    heading = np.linspace(-1.25, 1.45, _TRUNKS) + rng.normal(0, 0.12, _TRUNKS)
    root = np.stack(
        [side * (0.22 + 0.05 * rng.random(_TRUNKS)), -0.02 + 0.13 * np.sin(heading) + rng.normal(0, 0.02, _TRUNKS)],
        axis=-1,
    )
    # The lower lobes get the thicker vessels, as in someone standing.
    radius = 0.0165 * (0.85 + 0.35 * (heading > 0)) * rng.uniform(0.85, 1.2, _TRUNKS)
    length = np.full(_TRUNKS, 0.24) * rng.uniform(0.8, 1.25, _TRUNKS)
    grown = []
    part = np.linspace(0, 1, _POINTS)
    for _ in range(_GENERATIONS):
        count = heading.size
        bend = rng.normal(0, 0.30, count)
        direction = heading[:, None] + bend[:, None] * part
        stride = length[:, None] / _POINTS
        x = root[:, :1] + side * np.cumsum(np.cos(direction) * stride, axis=1)
        y = root[:, 1:] + np.cumsum(np.sin(direction) * stride, axis=1)
        thin = radius[:, None] * (1 - 0.22 * part)
        grown.append((np.stack([x, y], axis=-1).astype(np.float32), thin.astype(np.float32)))
        root = np.repeat(np.stack([x[:, -1], y[:, -1]], axis=-1), 2, axis=0)
        spread = np.abs(rng.normal(0.33, 0.12, count))
        heading = np.stack([direction[:, -1] - spread, direction[:, -1] + spread], axis=1).reshape(-1)
        heading = heading + rng.normal(0, 0.1, heading.size)
        radius = np.repeat(radius, 2) * rng.uniform(0.62, 0.85, heading.size)
        length = np.repeat(length, 2) * rng.uniform(0.62, 0.95, heading.size)
    return grown
