"""Pulmonary vessels: trees that leave the hila and thin out towards the edge of the lung."""

from dataclasses import dataclass

import numpy as np

from nescient_fl.radiographs.phantom.canvas import Float, Strokes, Surface

_GENERATIONS = 6
_STEP = 0.006  # patient units between the points of a vessel: just under a pixel
_TRUNKS = 6


@dataclass(frozen=True)
class VesselTree:
    """One patient's vessels: for each generation of each lung, paths [k, n, 2] and radii [k, n]."""

    paths: tuple[Float, ...]
    radii: tuple[Float, ...]
    strength: float


def grow_vessels(rng: np.random.Generator, strength: float) -> VesselTree:
    """Grow the trees of both lungs; ``strength`` is how dense a patient's vessels are, about 1."""
    grown = [*_grow(-1, rng), *_grow(1, rng)]
    return VesselTree(tuple(path for path, _ in grown), tuple(radius for _, radius in grown), strength)


def draw_vessels(surface: Surface, tree: VesselTree, inspiration: float, air: Float) -> Float:
    """Attenuation of vessels and hila, float32 [rows, columns]; ``air`` [rows, columns] is where lung is."""
    ink = Strokes(surface)
    for path, radius in zip(tree.paths, tree.radii, strict=True):
        breath = np.float32(0.5 * inspiration) * np.clip(path[..., 1] + np.float32(0.2), 0, 1)
        moved = np.stack([path[..., 0], path[..., 1] + breath], axis=-1)
        # A vessel thinner than a pixel needs one line of samples, a trunk a few.
        widest = float(radius.max())
        samples = 4 if widest > 0.009 else 2 if widest > 0.005 else 1
        ink.tubes(moved, radius, np.float32(6.2 * tree.strength) * radius, samples=samples)
    # Vessels show only against air; end branches drown in the thin lung near its border.
    total = ink.laid() * np.clip(np.float32(1.25) * air, 0, 1)
    for side in (-1, 1):
        across = np.exp(-0.5 * ((surface.x - side * 0.25) / 0.085) ** 2)
        down = np.exp(-0.5 * ((surface.y + 0.02 + 0.04 * side) / 0.15) ** 2)
        total += np.float32(0.075) * across * down
    return np.asarray(total, np.float32)


def _grow(side: int, rng: np.random.Generator) -> list[tuple[Float, Float]]:
    """One lung's tree, generation by generation: paths [k, n, 2] and radii [k, n]."""
    heading = np.linspace(-1.25, 1.45, _TRUNKS) + rng.normal(0, 0.12, _TRUNKS)
    root = np.stack(
        [
            side * (0.22 + 0.05 * rng.random(_TRUNKS)),
            -0.02 + 0.13 * np.sin(heading) + rng.normal(0, 0.02, _TRUNKS),
        ],
        axis=-1,
    )
    # The lower lobes get the thicker vessels, as in someone standing.
    radius = 0.0165 * (0.85 + 0.35 * (heading > 0)) * rng.uniform(0.85, 1.2, _TRUNKS)
    length = np.full(_TRUNKS, 0.24) * rng.uniform(0.8, 1.25, _TRUNKS)
    grown = []
    for _ in range(_GENERATIONS):
        count, points = heading.size, max(4, int(float(np.quantile(length, 0.8)) / _STEP))
        part = np.linspace(0, 1, points)
        direction = heading[:, None] + rng.normal(0, 0.30, count)[:, None] * part
        stride = length[:, None] / points
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
