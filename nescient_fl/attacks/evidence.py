"""What an attack found, and how sure one may be of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

ALARM = 1e-5
"""An attack counts as successful when chance alone would do as well with less than this probability."""

CONFIDENCE = 0.999

SEALING, NOISE = "sealing", "noise"
"""What an attack is meant to fail against: sealed shares and the parties' rules, or differential privacy."""

Progress = Callable[[str], None]
"""Told in a phrase what an attack is at."""


@dataclass(frozen=True)
class Trial:
    """One attack against one way of aggregating.

    Attributes:
        succeeded: whether the attacker got what it wanted.
        brief: what it got, in a few words for a table.
        result: the same as a phrase with all that bears on it.
        figures: the numbers behind the phrase, for JSON.
    """

    succeeded: bool
    brief: str
    result: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {"succeeded": self.succeeded, "brief": self.brief, "result": self.result, "figures": dict(self.figures)}


@dataclass(frozen=True)
class Picture:
    """A synthetic radiograph or what an attacker made of an update; grey levels uint8 [rows, columns]."""

    caption: str
    pixels: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True)
class Finding:
    """One attack, tried on plain averaging and on the secure path.

    Attributes:
        key: its name in audit.json.
        title: what the attacker wants, a few words.
        saw: what it was given, a sentence.
        plain: the attack on plain FedAvg; None where there is nothing to compare with.
        secure: the same on sealed updates.
        protection: ``SEALING``, or ``NOISE`` for what the opened sum itself tells: ``plain`` is then the sum
            without noise and ``secure`` the sum with it.
        pictures: rows of pictures; each row is the truth first, then what was rebuilt.
    """

    key: str
    title: str
    saw: str
    plain: Trial | None
    secure: Trial
    protection: str = SEALING
    pictures: Sequence[Sequence[Picture]] = ()

    @property
    def verdict(self) -> str:
        """``held`` when the secure path withstood, ``broken`` when not."""
        return "broken" if self.secure.succeeded else "held"

    @property
    def shown(self) -> bool:
        """Whether the attack is known to work: it succeeded where updates are in clear."""
        return self.plain is None or self.plain.succeeded

    def outcome(self, private: bool) -> str:
        """Return the verdict for a study with noise or without.

        ``broken``; ``inconclusive`` when the attack does not even work in clear; ``open`` when only noise would
        help and the study adds none; else ``held``.
        """
        if self.secure.succeeded:
            return "broken"
        if not self.shown:
            return "inconclusive"
        return "open" if self.protection == NOISE and not private else "held"

    def record(self, private: bool) -> dict[str, Any]:
        """Return the finding for audit.json, without its pictures."""
        return {
            "key": self.key,
            "title": self.title,
            "saw": self.saw,
            "protection": self.protection,
            "outcome": self.outcome(private),
            "plain": None if self.plain is None else self.plain.record(),
            "secure": self.secure.record(),
        }


def better_than_chance(hits: int, trials: int, chance: float) -> bool:
    """Say whether so many hits are beyond what guessing explains: its tail is below ``ALARM``."""
    return bool(binom.sf(hits - 1, trials, chance) < ALARM)


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson, 1934) 99.9% interval of a success rate."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


def rank_of(wanted: int, scores: NDArray[np.float64]) -> int:
    """Return the rank, from 1, of a candidate by score, highest first; what ties with it stands before it."""
    others = np.delete(scores, wanted)
    return 1 + int((~(others < scores[wanted])).sum())


def correlations(guess: NDArray[np.floating[Any]], candidates: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return Pearson's correlation of a guess [m] with each candidate [n, m]; 0 where one is constant."""
    centred = candidates - candidates.mean(axis=1, keepdims=True)
    mine = guess - guess.mean()
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(mine)
    products = (centred @ mine).astype(np.float64)
    found: NDArray[np.float64] = np.divide(products, norms, out=np.zeros(len(products)), where=norms > 0)
    return found
