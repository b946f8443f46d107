"""The drawing surface: patient units to pixels, and curves laid down as line integrals.

Patient units: the midline is x = 0, +x is the patient's left (the right of the picture), +y points to the
feet, and the inner half width of the chest is 1. Rows and columns of the surface are parallel to these axes,
so that whatever depends on height or on width alone is a column or a row vector and costs nothing; the
acquisition turns the finished surface.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Float = NDArray[np.float32]
_SHADES = 255.0


@dataclass(frozen=True)
class Surface:
    """A surface of ``rows`` x ``columns`` pixels whose patient origin lies at (``origin_x``, ``origin_y``).

    ``scale`` is pixels a patient unit.
    """

    rows: int
    columns: int
    origin_x: float
    origin_y: float
    scale: float

    @cached_property
    def x(self) -> Float:
        """Patient x of every column, float32 [1, columns]."""
        return ((np.arange(self.columns, dtype=np.float32) - self.origin_x) / self.scale)[None, :]

    @cached_property
    def y(self) -> Float:
        """Patient y of every row, float32 [rows, 1]."""
        return ((np.arange(self.rows, dtype=np.float32) - self.origin_y) / self.scale)[:, None]

    def to_pixels(self, points: Float) -> Float:
        """Turn patient points [..., 2] (x, y) into pixel positions [..., 2] (column, row)."""
        origin = np.array([self.origin_x, self.origin_y], np.float32)
        return (points * np.float32(self.scale) + origin).astype(np.float32)

    def splat(self, columns: Float, rows: Float, weights: Float) -> Float:
        """Deposit weighted points between pixel centres, shared bilinearly among four pixels.

        All arguments are float32 [n]; the answer is float32 [rows, columns].
        """
        left, top = np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
        inside = (left >= 0) & (left < self.columns - 1) & (top >= 0) & (top < self.rows - 1)
        left, top = left[inside], top[inside]
        right_share, low_share = columns[inside] - left, rows[inside] - top
        kept, index = weights[inside], top * self.columns + left
        upper, lower = kept * (1 - low_share), kept * low_share
        total = np.zeros(self.rows * self.columns, np.float64)
        for step, share in (
            (0, upper * (1 - right_share)),
            (1, upper * right_share),
            (self.columns, lower * (1 - right_share)),
            (self.columns + 1, lower * right_share),
        ):
            total += np.bincount(index + step, share, total.size)
        return total.reshape(self.rows, self.columns).astype(np.float32)

    def ribbons(self, centre: Float, offset: Float, strength: Float, across: Float, profile: Float) -> Float:
        """Lay down ``k`` curves of ``n`` points as ribbons and return what they add, float32 [rows, columns].

        ``centre`` [k, n, 2] and ``offset`` [k, n, 2] (axis to edge) are in patient units, ``strength`` [k, n]
        is the value on the axis. ``across`` [m] holds the positions between -1 and 1 that sample the width
        evenly, and ``profile`` [m] the relative thickness there. A ribbon seen along its length adds up, as
        it does under X-rays.
        """
        axis = self.to_pixels(centre)
        half = offset * np.float32(self.scale)
        step = np.gradient(axis, axis=1)
        # Area that one sample stands for: the stretch of axis times the width, in square pixels.
        area = np.abs(step[..., 0] * half[..., 1] - step[..., 1] * half[..., 0]) * (2.0 / across.size)
        points = axis[:, :, None, :] + across[None, None, :, None] * half[:, :, None, :]
        weights = (strength * area)[:, :, None] * profile[None, None, :]
        flat = points.reshape(-1, 2)
        return self.splat(flat[:, 0], flat[:, 1], weights.reshape(-1).astype(np.float32))

    def tubes(self, centre: Float, radius: Float, strength: Float, hollow: float = 0.0, samples: int = 5) -> Float:
        """Lay down round tubes: ``centre`` [k, n, 2], ``radius`` and ``strength`` [k, n].

        ``hollow`` is the inner radius as a part of the outer one: the wall of a hollow tube shows as two lines.
        """
        across = ((np.arange(samples, dtype=np.float32) + 0.5) * (2.0 / samples) - 1.0).astype(np.float32)
        profile = np.sqrt(1 - across**2) - 0.9 * np.sqrt(np.clip(hollow**2 - across**2, 0, None))
        tangent = np.gradient(centre, axis=1)
        normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        offset = (normal * radius[..., None]).astype(np.float32)
        return self.ribbons(centre, offset, strength, across, profile.astype(np.float32))

    def polygons(self, outlines: list[Float]) -> Float:
        """Fill closed outlines (each [n, 2], patient units) and return 0..1, float32 [rows, columns].

        Drawn at twice the size and halved, so edges are not jagged.
        """
        image = Image.new("L", (2 * self.columns, 2 * self.rows), 0)
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            draw.polygon([(float(u), float(v)) for u, v in 2 * self.to_pixels(outline)], fill=255)
        return np.asarray(image.reduce(2), np.float32) / np.float32(_SHADES)


def rise(distance: Float, width: float) -> Float:
    """Thickness of a round body behind its edge: 0 outside, a quarter circle up to 1 at ``width`` inside."""
    inside = np.clip(distance / np.float32(width), 0, 1)
    return np.sqrt(inside * (2 - inside))


def step(distance: Float, softness: float) -> Float:
    """A smooth step from 0 to 1 around distance 0, ``softness`` wide on either side."""
    part = np.clip(distance / np.float32(2 * softness) + np.float32(0.5), 0, 1)
    return part * part * (3 - 2 * part)


def bump(position: Float, centre: float, width: float) -> Float:
    """A Gaussian bump of height 1."""
    return np.exp(np.float32(-0.5) * ((position - np.float32(centre)) / np.float32(width)) ** 2)


def curve(points: list[tuple[float, float]], samples: int) -> Float:
    """A smooth curve [samples, 2] through the given points (Catmull-Rom)."""
    knots = np.array(points, np.float32)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    place = np.linspace(0, len(points) - 1, samples, dtype=np.float32)
    index = np.minimum(place.astype(np.int64), len(points) - 2)
    t = (place - index)[:, None]
    p0, p1, p2, p3 = (padded[index + shift] for shift in range(4))
    cubic = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (0.5 * cubic).astype(np.float32)
