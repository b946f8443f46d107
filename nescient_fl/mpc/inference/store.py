"""Material in files: stored ahead, claimed once, deleted before it is used.

    DIRECTORY/DELIVERY/batch-000000.bin     one batch (``Material``)
    DIRECTORY/DELIVERY/batch-000000.used    empty: the batch was claimed
    DIRECTORY/DELIVERY/masks.bin            the model owner's alone: the seed of the weights' masks
    DIRECTORY/DELIVERY/weights              the model owner's alone: the digest of the weights that they mask

A batch is claimed by creating the file that says so, which succeeds once; then its own file is deleted, and only
then is its content handed out. A batch that was once begun with is gone, whatever happens after; one that is put
back, or delivered again, stays refused. So no two computations share a mask. Files are readable by their owner only.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.material import Delivery, Material
from nescient_fl.mpc.randomness import SEED_BYTES

_BATCH = re.compile(r"batch-(\d{6,12})\.bin")


class MaterialSource(Protocol):
    """Where a party's material for one delivery is."""

    @property
    def delivery(self) -> Delivery: ...

    def numbers(self) -> list[int]:
        """Return the numbers of the batches that are left, in order."""

    def claim(self, number: int) -> Material:
        """Return a batch that nobody else will get. Raises MaterialError when it is not there."""

    def mask_seed(self, weights: str) -> bytes:
        """Return the seed of the weights' masks, for weights of a digest, and for no others ever."""


class MaterialStore:
    """One party's material for one delivery, in a folder of its own."""

    def __init__(self, directory: Path, delivery: Delivery) -> None:
        self.delivery = delivery
        self._folder = directory / delivery.name

    def add(self, material: Material) -> None:
        """Store a batch. Raises MaterialError for one of another delivery, or one that was stored before."""
        if material.delivery != self.delivery:
            raise MaterialError("a batch of another delivery")
        path, used = self._batch(material.number)
        if used.exists():
            raise MaterialError(f"batch {material.number} of the dealer's material was used before")
        self._write(path.name, material.to_bytes(), f"batch {material.number} was stored before")

    def add_mask_seed(self, seed: bytes) -> None:
        """Store the seed of the weights' masks."""
        self._write("masks.bin", seed, "the weights' masks were stored before")

    def numbers(self) -> list[int]:
        found = {name[1]: name for path in self._files() if (name := _BATCH.fullmatch(path.name))}
        used = {path.stem for path in self._files() if path.suffix == ".used"}
        return sorted(int(number) for number, name in found.items() if name[0].removesuffix(".bin") not in used)

    def claim(self, number: int) -> Material:
        path, used = self._batch(number)
        try:
            if not path.exists():
                raise FileNotFoundError
            os.close(os.open(used, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            _sync(self._folder)
            blob = path.read_bytes()
            path.unlink()
        except (FileExistsError, FileNotFoundError):
            raise MaterialError(f"batch {number} of the dealer's material was used before, or never dealt") from None
        _sync(self._folder)
        material = Material.from_bytes(blob)
        if material.delivery != self.delivery or material.number != number:
            raise MaterialError(f"the file of batch {number} holds another one")
        return material

    def mask_seed(self, weights: str) -> bytes:
        try:
            seed = (self._folder / "masks.bin").read_bytes()
        except FileNotFoundError:
            raise MaterialError("the dealer's material has no masks for the weights") from None
        if len(seed) != SEED_BYTES:
            raise MaterialError("the dealer's masks for the weights are damaged")
        bound = self._folder / "weights"
        if not bound.exists():
            self._write("weights", weights.encode(), "two processes began with one delivery")
        if bound.read_text() != weights:
            raise MaterialError("this delivery's masks hide other weights already: deal a new one for this model")
        return seed

    def _batch(self, number: int) -> tuple[Path, Path]:
        """Return the paths of a batch and of what says that it was used."""
        path = self._folder / f"batch-{number:06d}.bin"
        return path, path.with_suffix(".used")

    def _files(self) -> Iterator[Path]:
        return self._folder.iterdir() if self._folder.is_dir() else iter(())

    def _write(self, name: str, content: bytes, exists: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._folder / f"{name}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, self._folder / name)
        except FileExistsError:
            raise MaterialError(exists) from None
        finally:
            partial.unlink()


class MaterialInMemory:
    """One party's material for one delivery, as long as the process lives."""

    def __init__(self, delivery: Delivery, seed: bytes | None = None) -> None:
        self.delivery = delivery
        self._batches: dict[int, Material] = {}
        self._used: set[int] = set()
        self._seed, self._weights = seed, ""

    def add(self, material: Material) -> None:
        if material.delivery != self.delivery or material.number in {*self._batches, *self._used}:
            raise MaterialError("a batch of another delivery, or one that was stored before")
        self._batches[material.number] = material

    def numbers(self) -> list[int]:
        return sorted(self._batches)

    def claim(self, number: int) -> Material:
        if number not in self._batches:
            raise MaterialError(f"batch {number} of the dealer's material was used before, or never dealt")
        self._used.add(number)
        return self._batches.pop(number)

    def mask_seed(self, weights: str) -> bytes:
        if self._seed is None:
            raise MaterialError("the dealer's material has no masks for the weights")
        self._weights = self._weights or weights
        if self._weights != weights:
            raise MaterialError("this delivery's masks hide other weights already: deal a new one for this model")
        return self._seed


def _sync(folder: Path) -> None:
    """Make what was renamed and deleted survive a crash of the machine, before the batch is used."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
