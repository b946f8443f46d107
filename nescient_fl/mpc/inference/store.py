"""Material in files: stored ahead, claimed once, deleted before it is used.

    DIRECTORY/DELIVERY/batch-000000.bin     one batch (``Material``)
    DIRECTORY/DELIVERY/batch-000000.used    empty: the batch was claimed
    DIRECTORY/DELIVERY/masks.bin            the model owner's alone: the seed of the weights' masks
    DIRECTORY/DELIVERY/weights              the model owner's alone: the digest of the weights that they mask
    DIRECTORY/finished                      the names of the deliveries of which every batch was claimed, one a line

A batch is claimed by creating the file that says so, which succeeds once; then its own file is deleted, and only
then is its content handed out. A batch that was once begun with is gone, whatever happens after; one that is put
back, or delivered again, stays refused. So no two computations share a mask. Files are readable by their owner only.

When the last batch of a delivery is claimed, its name goes to ``finished``, for good, and then its folder is deleted
with all of its marks. Whoever claims a batch looks for the name once more when the batch is marked: either the mark of
an earlier claim still stands, or it was deleted, and then the name was there before. So a folder that is put back from
a copy after, or while, it is deleted gives nothing either. What is kept of a delivery in the end is one line.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.material import Delivery, Material
from nescient_fl.mpc.randomness import SEED_BYTES

_BATCH = re.compile(r"batch-(\d{6,12})\.bin")
_FINISHED = "finished"


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

    @property
    def finished(self) -> bool:
        """Whether every batch of it was claimed, here, at any time."""
        try:
            return self.delivery.name in (self._folder.parent / _FINISHED).read_text().split("\n")
        except FileNotFoundError:
            return False

    def add(self, material: Material) -> None:
        """Store a batch. Raises MaterialError for one of another delivery, or one that was stored before."""
        if material.delivery != self.delivery or material.number >= self.delivery.batches:
            raise MaterialError("a batch of another delivery")
        path, used = self._batch(material.number)
        if used.exists() or self.finished:
            raise MaterialError(f"batch {material.number} of the dealer's material was used before")
        self._write(path.name, material.to_bytes(), f"batch {material.number} was stored before")

    def add_mask_seed(self, seed: bytes) -> None:
        """Store the seed of the weights' masks."""
        if self.finished:
            raise MaterialError("this delivery of the dealer's material was used up before")
        self._write("masks.bin", seed, "the weights' masks were stored before")

    def numbers(self) -> list[int]:
        if self.finished:
            return []
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
            # After the mark: see above.
            if self.finished:
                raise FileExistsError
            blob = path.read_bytes()
            path.unlink()
        except (FileExistsError, FileNotFoundError):
            raise MaterialError(f"batch {number} of the dealer's material was used before, or never dealt") from None
        with contextlib.suppress(FileNotFoundError):  # whoever claimed the other last batch has deleted the folder
            _sync(self._folder)
        self._finish()
        material = Material.from_bytes(blob)
        if material.delivery != self.delivery or material.number != number:
            raise MaterialError(f"the file of batch {number} holds another one")
        return material

    def discard(self) -> None:
        """Delete what is left of a delivery that is finished, if a crash left anything."""
        if self.finished:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        """Note a delivery of which every batch was claimed and read, and delete its folder."""
        names = {path.name for path in self._files()}
        batches = [self._batch(number) for number in range(self.delivery.batches)]
        if any(path.name in names or used.name not in names for path, used in batches):
            return
        path = self._folder.parent / _FINISHED
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # A line that an earlier crash cut short must not swallow this one.
            os.write(descriptor, f"\n{self.delivery.name}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync(path.parent)
        self.discard()

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
