"""What a sliding window sees: patches for convolutions, cells for pooling."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Rows and columns of zeros: top, left, bottom, right."""
T = TypeVar("T", bound=np.generic)


def output_size(size: int, kernel: int, stride: int) -> int:
    """Return how many windows fit."""
    return (size - kernel) // stride + 1


def pad(values: NDArray[T], pads: Pads) -> NDArray[T]:
    """Put zeros around values [..., H, W]."""
    if not any(pads):
        return values
    top, left, bottom, right = pads
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(top, bottom), (left, right)])


def patches(values: NDArray[T], kernel: Pair, stride: Pair) -> NDArray[T]:
    """Return the windows over values [B, C, H, W] as columns: [C kh kw, B h w], kernel position first."""
    if kernel == values.shape[2:]:
        return np.ascontiguousarray(values.reshape(len(values), -1).T)
    seen = _sliding(values, kernel, stride)  # [B, C, h, w, kh, kw]
    rows = values.shape[1] * kernel[0] * kernel[1]
    return np.ascontiguousarray(seen.transpose(1, 4, 5, 0, 2, 3)).reshape(rows, -1)


def cells(values: NDArray[T], kernel: Pair, stride: Pair) -> NDArray[T]:
    """Return what each pooling window over values [B, C, H, W] holds: [kh kw, B, C, h, w]."""
    seen = _sliding(values, kernel, stride)
    found = np.ascontiguousarray(seen.transpose(4, 5, 0, 1, 2, 3))
    return found.reshape(kernel[0] * kernel[1], *found.shape[2:])


def sum_cells(values: NDArray[T], kernel: Pair, stride: Pair) -> NDArray[T]:
    """Return the sum of each pooling window, wrapping around: [B, C, h, w]."""
    total: NDArray[T] = np.add.reduce(cells(values, kernel, stride), axis=0, dtype=values.dtype)
    return total


def _sliding(values: NDArray[T], kernel: Pair, stride: Pair) -> NDArray[T]:
    view = np.lib.stride_tricks.sliding_window_view(values, kernel, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1]]
