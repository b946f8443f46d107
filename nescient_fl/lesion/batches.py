"""From cached grey levels to network inputs: standardised, mirrored and shifted, batch by batch.

Two ways to the same numbers: on the CPU each image goes straight from the memory-mapped cache into the batch,
touched twice; on a GPU the site's grey levels are uploaded once and whole batches are made there. A test
holds the two equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nescient_fl.lesion.recipe import Recipe


@dataclass(frozen=True)
class Examples:
    """Some rows of a pixel cache with their targets.

    pixels uint8 [N, H, W] (memory-mapped as a rule), mean and std float32 [N] over each image's grey levels,
    targets float32 [N] of 0 and 1, rows int64 [n]: which of the N belong to these examples.
    """

    pixels: NDArray[np.uint8]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    targets: NDArray[np.float32]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> NDArray[np.float32]:
        """Targets of these examples, float32 [n]."""
        return self.targets[self.rows]


@dataclass(frozen=True)
class Placement:
    """Where one image goes in a batch: mirrored or not, and moved down and right by some pixels."""

    flip: bool
    down: int
    right: int


STILL = Placement(flip=False, down=0, right=0)


class Batcher(Protocol):
    """Makes network inputs of cache rows."""

    def inputs(self, rows: NDArray[np.int64], placements: list[Placement]) -> Tensor:
        """Return float32 [B, 1, H, W] on the batcher's device; the next call may reuse its memory."""
        ...

    def targets(self, rows: NDArray[np.int64]) -> Tensor:
        """Return float32 [B, 1] on the batcher's device."""
        ...


class CpuBatcher:
    """Fills one reused buffer from the memory map; what a shift uncovers is 0, an image's own mean."""

    def __init__(self, examples: Examples, recipe: Recipe, largest: int) -> None:
        self._examples = examples
        self._offset, self._scale = _affine(examples, recipe)
        height, width = examples.pixels.shape[1:]
        self._buffer = np.zeros((largest, 1, height, width), np.float32)
        self._scratch = np.empty((height, width), np.uint8)

    def inputs(self, rows: NDArray[np.int64], placements: list[Placement]) -> Tensor:
        for slot, (row, place) in enumerate(zip(rows, placements, strict=True)):
            source = self._examples.pixels[row]
            if place.flip:
                # torch mirrors bytes several times quicker than numpy reads them backwards.
                np.copyto(self._scratch, source)
                source = torch.from_numpy(self._scratch).flip(1).numpy()
            _place(source, place, self._offset[row], self._scale[row], self._buffer[slot, 0])
        return torch.from_numpy(self._buffer[: len(rows)])

    def targets(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._examples.targets[rows]).unsqueeze(1)


def _place(
    source: NDArray[np.uint8],
    place: Placement,
    offset: np.float32,
    scale: np.float32,
    frame: NDArray[np.float32],
) -> None:
    """Write (source - offset) * scale into ``frame``, both [H, W], moved, with 0 where nothing moved to.

    Rows lie end to end in memory, so a move is one offset into the whole run, which numpy works through
    quicker than row by row; what that wraps round an edge lies where 0 belongs.
    """
    down, right = place.down, place.right
    move = down * frame.shape[1] + right
    count = max(frame.size - abs(move), 0)
    moved = frame.reshape(-1)[max(move, 0) :][:count]
    np.subtract(source.reshape(-1)[max(-move, 0) :][:count], offset, out=moved, dtype=np.float32)
    moved *= scale
    if down:
        frame[slice(0, down) if down > 0 else slice(down, None)] = 0
    if right:
        frame[:, slice(0, right) if right > 0 else slice(right, None)] = 0


class DeviceBatcher:
    """Keeps the examples' grey levels on the device as uint8 and makes whole batches there."""

    def __init__(self, examples: Examples, recipe: Recipe, device: torch.device) -> None:
        order = np.unique(examples.rows)
        offset, scale = _affine(examples, recipe)
        self._slot = np.full(len(examples.pixels), -1, np.int64)
        self._slot[order] = np.arange(len(order))
        self._device = device
        self._pixels = torch.from_numpy(np.ascontiguousarray(examples.pixels[order])).to(device)
        self._offset = torch.from_numpy(offset[order]).to(device).view(-1, 1, 1)
        self._scale = torch.from_numpy(scale[order]).to(device).view(-1, 1, 1)
        self._targets = torch.from_numpy(examples.targets[order]).to(device)

    def inputs(self, rows: NDArray[np.int64], placements: list[Placement]) -> Tensor:
        slots = torch.from_numpy(self._slot[rows]).to(self._device)
        images = (self._pixels[slots].float() - self._offset[slots]) * self._scale[slots]
        if any(place != STILL for place in placements):
            images = self._place(images, placements)
        return images.unsqueeze(1)

    def _place(self, images: Tensor, placements: list[Placement]) -> Tensor:
        table = torch.tensor([(p.flip, p.down, p.right) for p in placements], device=self._device)
        flip, down, right = table[:, 0].bool(), table[:, 1], table[:, 2]
        height, width = images.shape[1:]
        images = torch.where(flip.view(-1, 1, 1), images.flip(2), images)
        from_row = torch.arange(height, device=self._device) - down.view(-1, 1)
        from_column = torch.arange(width, device=self._device) - right.view(-1, 1)
        batch = torch.arange(len(images), device=self._device).view(-1, 1, 1)
        moved = images[batch, from_row.clamp(0, height - 1).unsqueeze(2), from_column.clamp(0, width - 1).unsqueeze(1)]
        inside = ((from_row >= 0) & (from_row < height)).unsqueeze(2) & (
            (from_column >= 0) & (from_column < width)
        ).unsqueeze(1)
        return torch.where(inside, moved, torch.zeros((), device=self._device))

    def targets(self, rows: NDArray[np.int64]) -> Tensor:
        return self._targets[torch.from_numpy(self._slot[rows]).to(self._device)].unsqueeze(1)


def make_batcher(examples: Examples, recipe: Recipe, device: torch.device, largest: int) -> Batcher:
    """Return the batcher for a device; ``largest`` is the largest batch that will be asked for."""
    if device.type == "cpu":
        return CpuBatcher(examples, recipe, largest)
    return DeviceBatcher(examples, recipe, device)


def shuffled_batches(
    rows: NDArray[np.int64], recipe: Recipe, generator: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], list[Placement]]]:
    """Yield one epoch: every row once, in random order, each with a random placement."""
    order = generator.permutation(rows)
    flips = generator.random(len(order)) < recipe.flip
    shifts = generator.integers(-recipe.shift, recipe.shift, (len(order), 2), endpoint=True)
    for start in range(0, len(order), recipe.batch_size):
        part = slice(start, start + recipe.batch_size)
        placements = [
            Placement(bool(flip), int(down), int(right))
            for flip, (down, right) in zip(flips[part], shifts[part], strict=True)
        ]
        yield order[part], placements


def _affine(examples: Examples, recipe: Recipe) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return offset and scale, float32 [N]: an input is (grey level - offset) * scale."""
    if recipe.standardise:
        return examples.mean, (1 / examples.std).astype(np.float32)
    count = len(examples.pixels)
    return np.zeros(count, np.float32), np.full(count, 1 / 255, np.float32)
