"""The dealer's material for one tuning: a step's worth at a time, each used once, and how it is checked.

The data owner's whole material is a seed; the model owner's a seed and, for every step, the corrections by which the
dealer's products come out. Each step has a seed of its own, derived from these, and the data owner's features a mask
for the whole session.

A sacrificed check of the dealer, as in inference: both hold their material for more steps than they take, and toss
coins for those to give up. Here it is the model owner that shows what it has of them, its seeds of these steps and
the digests of its corrections; the data owner, who knows its own seeds and the mask of its features, makes the
corrections again and compares. (The other way round the model owner would need that mask, and with it see the
features.) Nothing is revealed: a step that was given up never masked anything, and no seed tells of another step's.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, Hand
from nescient_fl.mpc.inference.fixed_point import Words, draw_words
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.norm_check import toss_coins
from nescient_fl.mpc.randomness import SEED_BYTES, SecretStream, derive_key
from nescient_fl.mpc.tuning.plan import RING, TuningPlan
from nescient_fl.mpc.tuning.products import OwnedLayer
from nescient_fl.mpc.tuning.step import correlations

_GOOD, _BAD = b"good", b"bad!"
_DIGEST_BYTES = 32


class Corrections(Protocol):
    """Where the model owner's corrections lie: step by step, each handed out once."""

    def pop(self, number: int) -> bytes:
        """Return those of a step. Raises KeyError when they are not there (any more)."""


class Spool:
    """Corrections in files of a folder: one step is in memory at a time; a file is deleted before it is used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, number: int, corrections: bytes) -> None:
        """Keep those of a step."""
        descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(corrections)

    def pop(self, number: int) -> bytes:
        try:
            corrections = self._path(number).read_bytes()
            self._path(number).unlink()
        except FileNotFoundError:
            raise KeyError(number) from None
        return corrections

    def _path(self, number: int) -> Path:
        return self._folder / f"step-{number:04d}.bin"


class TuningMaterial:
    """One party's material for one plan: the model owner's with corrections, the data owner's without."""

    def __init__(self, plan: TuningPlan, seed: bytes, corrections: Corrections | None) -> None:
        if len(seed) != SEED_BYTES:
            raise MaterialError("a seed of the dealer's material has another length")
        self.plan, self.rank = plan, DATA_OWNER if corrections is None else MODEL_OWNER
        self._seed, self._corrections = seed, corrections
        self._left = set(range(plan.dealt))

    def __repr__(self) -> str:
        return f"TuningMaterial({self.rank})"

    def __reduce__(self) -> str:
        raise TypeError("material is never copied")

    def hand(self, number: int) -> Hand:
        """Open a step's material, once. Raises MaterialError the second time."""
        return Hand(self.rank, *self.open(number))

    def open(self, number: int) -> tuple[bytes, bytes]:
        """Return a step's seed and corrections, once. Raises MaterialError the second time."""
        if number not in self._left:
            raise MaterialError(f"step {number} of the dealer's material was used before, or never dealt")
        self._left.remove(number)
        try:
            corrections = b"" if self._corrections is None else self._corrections.pop(number)
        except KeyError:
            raise MaterialError(f"step {number} of the dealer's material is not there") from None
        return step_seed(self._seed, number), corrections

    def features_mask(self) -> Words:
        """Return the mask of the data owner's features."""
        return features_mask(self.plan, self._seed)


def step_seed(seed: bytes, number: int) -> bytes:
    """Return a party's seed of one step."""
    return derive_key(seed, b"nescient/tuning/2/step/" + str(number).encode())


def features_mask(plan: TuningPlan, seed: bytes) -> Words:
    """Return the mask of the features, [images, inputs + 1], as data owner and dealer know it."""
    stream = SecretStream(derive_key(seed, b"nescient/tuning/2/features"))
    return draw_words(stream, (plan.images, plan.shape(0)[1]), RING)


def deal_step(plan: TuningPlan, seeds: tuple[bytes, bytes], features: Words) -> Iterator[bytes]:
    """Yield the model owner's corrections for a step, given both parties' seeds of it and the features' mask."""
    model_owner, data_owner = Hand(MODEL_OWNER, seeds[0]), Hand(DATA_OWNER, seeds[1])
    for correlation in correlations(plan):
        if isinstance(correlation, OwnedLayer):
            yield correlation.deal(model_owner, data_owner, features)
        else:
            yield correlation.deal(model_owner, data_owner)


def deal_tuning(plan: TuningPlan, stream: SecretStream) -> tuple[bytes, bytes, Iterator[bytes]]:
    """Return the model owner's seed, the data owner's, and the model owner's corrections, step by step."""
    seeds = stream.take_bytes(SEED_BYTES), stream.take_bytes(SEED_BYTES)

    def steps() -> Iterator[bytes]:
        mask = features_mask(plan, seeds[1])
        for number in range(plan.dealt):
            yield b"".join(deal_step(plan, (step_seed(seeds[0], number), step_seed(seeds[1], number)), mask))

    return *seeds, steps()


def check_dealer(wire: Wire, material: TuningMaterial) -> list[int]:
    """Toss coins for steps to give up, check them, and return the numbers of those to take.

    Raises MaterialError at both parties when the dealer's material does not fit together.
    """
    left, sacrificed = list(range(material.plan.dealt)), []
    if material.plan.sacrificed:
        coins = SecretStream(toss_coins(wire))
        sacrificed = [left.pop(int(coins.below(len(left), 1)[0])) for _ in range(material.plan.sacrificed)]
    for number in sacrificed:
        seed, corrections = material.open(number)
        if material.rank == MODEL_OWNER:
            wire.send(seed + hashlib.sha256(corrections).digest())
            verdict = wire.receive(len(_GOOD))
        else:
            shown = wire.receive(SEED_BYTES + _DIGEST_BYTES)
            made = hashlib.sha256()
            for piece in deal_step(material.plan, (shown[:SEED_BYTES], seed), material.features_mask()):
                made.update(piece)
            verdict = _GOOD if made.digest() == shown[SEED_BYTES:] else _BAD
            wire.send(verdict)
        if verdict != _GOOD:
            raise MaterialError(f"the dealer's material does not fit together (step {number} was checked)")
    return left
