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
_WHITE = 255.0


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

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within ``reach`` (patient units) of a patient point, cut at the surface's edge."""
        column, row = self.to_pixels(np.array([x, y], np.float32))
        span = reach * self.scale + 2
        rows = slice(max(0, int(row - span)), max(0, min(self.rows, int(row + span) + 1)))
        columns = slice(max(0, int(column - span)), max(0, min(self.columns, int(column + span) + 1)))
        return rows, columns

    def fill(self, total: Float, outline: Float, strength: float) -> None:
        """Add ``strength`` inside a closed outline ([n, 2], patient units) to ``total`` in place.

        Drawn in its bounding box at four times the size and reduced, so that edges are not jagged.
        """
        pixels = self.to_pixels(outline)
        left, top = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 2, [self.columns, self.rows])
        if right <= left or bottom <= top:
            return
        image = Image.new("L", (4 * int(right - left), 4 * int(bottom - top)), 0)
        # Pixel centres are whole numbers here and halves to the drawing library.
        corners = (4 * (pixels - np.array([left, top], np.float32) + 0.5)).reshape(-1).tolist()
        ImageDraw.Draw(image).polygon(corners, fill=255)
        shade = np.asarray(image.reduce(4), np.float32)
        total[top:bottom, left:right] += np.float32(strength / _WHITE) * shade


class Strokes:
    """Curves collected on one surface and laid down together: one pass over the pixels, however many."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._points: list[Float] = []
        self._weights: list[Float] = []

    def ribbons(self, centre: Float, offset: Float, strength: Float, across: Float, profile: Float) -> None:
        """Add ``k`` curves of ``n`` points as ribbons; a ribbon that crosses itself or another adds up.

        ``centre`` [k, n, 2] and ``offset`` [k, n, 2] (axis to edge) are in patient units, ``strength`` [k, n]
        is the value on the axis. ``across`` [m] holds the positions between -1 and 1 that sample the width
        evenly, and ``profile`` [m] the relative thickness there. Points should lie within about a pixel of
        each other, or the ribbon falls into dots.
        """
        axis = self._surface.to_pixels(centre)
        half = offset * np.float32(self._surface.scale)
        stride = slopes(axis)
        # Area that one sample stands for: the stretch of axis times the width, in square pixels.
        area = np.abs(stride[..., 0] * half[..., 1] - stride[..., 1] * half[..., 0]) * (2.0 / across.size)
        # Every other row of samples is shifted by half a gap, which keeps stripes from beating with pixels.
        stagger = np.where(np.arange(centre.shape[1]) % 2 == 0, 0.5, -0.5).astype(np.float32) / across.size
        place = across[None, :] + stagger[:, None]
        points = axis[:, :, None, :] + place[None, :, :, None] * half[:, :, None, :]
        weights = (strength * area)[:, :, None] * profile[None, None, :]
        self._points.append(points.reshape(-1, 2).astype(np.float32))
        self._weights.append(weights.reshape(-1).astype(np.float32))

    def tubes(self, centre: Float, radius: Float, strength: Float, hollow: float = 0.0, samples: int = 5) -> None:
        """Add round tubes: ``centre`` [k, n, 2], ``radius`` and ``strength`` [k, n].

        ``hollow`` is the inner radius as a part of the outer: the wall of a hollow tube shows as two lines.
        """
        across = ((np.arange(samples, dtype=np.float32) + 0.5) * (2.0 / samples) - 1.0).astype(np.float32)
        profile = np.sqrt(1 - across**2) - 0.9 * np.sqrt(np.clip(hollow**2 - across**2, 0, None))
        tangent = slopes(centre)
        length = np.sqrt(tangent[..., 0] ** 2 + tangent[..., 1] ** 2)
        reach = radius / np.maximum(length, 1e-6)
        offset = np.stack([-tangent[..., 1] * reach, tangent[..., 0] * reach], axis=-1)
        self.ribbons(centre, offset, strength, across, profile.astype(np.float32))

    def tube(self, path: Float, radius: float, strength: float, hollow: float = 0.0) -> None:
        """Add one tube of even radius and strength along ``path`` [n, 2]."""
        even = np.ones((1, path.shape[0]), np.float32)
        self.tubes(path[None], np.float32(radius) * even, np.float32(strength) * even, hollow, samples=7)

    def take(self, other: "Strokes") -> None:
        """Add all strokes of another collection on the same surface."""
        self._points.extend(other._points)
        self._weights.extend(other._weights)

    def laid(self) -> Float:
        """What all strokes add, each point shared bilinearly among four pixels; float32 [rows, columns]."""
        rows, columns = self._surface.rows, self._surface.columns
        if not self._points:
            return np.zeros((rows, columns), np.float32)
        points, weights = np.concatenate(self._points), np.concatenate(self._weights)
        corner = np.floor(points).astype(np.int32)
        left, top = corner[:, 0], corner[:, 1]
        inside = (left >= 0) & (left < columns - 1) & (top >= 0) & (top < rows - 1)
        right_share, low_share = (points[inside] - corner[inside]).T
        kept, index = weights[inside], top[inside] * columns + left[inside]
        lower = kept * low_share
        upper = kept - lower
        total = np.zeros(rows * columns, np.float64)
        for shift, share in (
            (0, upper * (1 - right_share)),
            (1, upper * right_share),
            (columns, lower * (1 - right_share)),
            (columns + 1, lower * right_share),
        ):
            total += np.bincount(index + shift, share, total.size)
        return total.reshape(rows, columns).astype(np.float32)


def rise(distance: Float, width: float) -> Float:
    """Thickness of a round body behind its edge: 0 outside, a quarter circle up to 1 at ``width`` inside."""
    inside = np.clip(distance / np.float32(width), 0, 1)
    return np.asarray(np.sqrt(inside * (2 - inside)), np.float32)


def step(distance: Float, softness: float) -> Float:
    """A smooth step from 0 to 1 around distance 0, ``softness`` wide on either side."""
    part = np.clip(distance / np.float32(2 * softness) + np.float32(0.5), 0, 1)
    return np.asarray(part * part * (3 - 2 * part), np.float32)


def slopes(points: Float) -> Float:
    """Central differences along axis 1 of [k, n, d], one-sided at the ends."""
    answer = np.empty_like(points)
    answer[:, 1:-1] = 0.5 * (points[:, 2:] - points[:, :-2])
    answer[:, 0] = points[:, 1] - points[:, 0]
    answer[:, -1] = points[:, -1] - points[:, -2]
    return answer


def bump(position: Float, centre: float, width: float) -> Float:
    """A Gaussian bump of height 1."""
    away = (position - np.float32(centre)) / np.float32(width)
    return np.asarray(np.exp(np.float32(-0.5) * away**2), np.float32)


def curve(points: list[tuple[float, float]], samples: int) -> Float:
    """A smooth curve [samples, 2] through the given points (Catmull-Rom)."""
    knots = np.array(points, np.float32)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    place = np.linspace(0, len(points) - 1, samples, dtype=np.float32)
    index = np.minimum(place.astype(np.int64), len(points) - 2)
    t = (place - index)[:, None]
    p0, p1, p2, p3 = (padded[index + shift] for shift in range(4))
    cubic = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(0.5 * cubic, np.float32)
