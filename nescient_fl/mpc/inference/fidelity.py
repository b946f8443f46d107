"""How faithful scores in fixed point are to the network's: errors, decisions that flip, values that wrap around."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import RangeError
from nescient_fl.mpc.inference.owners import sort_by_plan
from nescient_fl.mpc.inference.plan import Plan

Inputs = NDArray[Any]
Scorer = Callable[[Inputs], NDArray[np.float64]]
"""From inputs [n, channels, rows, columns] to logits [n, outputs]."""


@dataclass(frozen=True)
class Fidelity:
    """What came of a comparison, over ``images`` images that were scored.

    Attributes:
        largest_error, mean_error: of a logit, in absolute value.
        flipped: images whose decision is another one than the network's.
        by_plan: images that each plan scored, the narrowest first.
        wrapped: images of which a value left its width or the logit its bound; never scored.
        refused: images that no plan is for; never scored.
    """

    images: int
    largest_error: float
    mean_error: float
    flipped: int
    by_plan: tuple[int, ...]
    wrapped: int
    refused: int


def compare(
    plans: Sequence[tuple[Plan, Scorer]], plain: Scorer, batches: Iterable[Inputs], threshold: float = 0.0
) -> Fidelity:
    """Compare scorers of plans, the narrowest first, with the plain network on batches of inputs.

    ``threshold`` is the logit from which on a decision is positive. A scorer may be the twin or the protocol; it
    raises RangeError where it has no right score.
    """
    errors: list[NDArray[np.float64]] = []
    by_plan, flipped, wrapped, refused = [0] * len(plans), 0, 0, 0
    for inputs in batches:
        *groups, none = sort_by_plan([plan for plan, _ in plans], inputs)
        refused += len(none)
        expected = plain(inputs)
        for place, ((_, scorer), numbers) in enumerate(zip(plans, groups, strict=True)):
            found, good = _scored(scorer, inputs[numbers]) if len(numbers) else (expected[:0], np.zeros(0, np.bool_))
            right = expected[numbers][good]
            wrapped += int((~good).sum())
            by_plan[place] += int(good.sum())
            flipped += int(((found >= threshold) != (right >= threshold)).any(axis=1).sum())
            errors.append(np.abs(found - right))
    every = np.concatenate(errors) if errors else np.zeros((0, 1))
    return Fidelity(
        len(every),
        float(every.max(initial=0)),
        float(every.mean()) if every.size else 0.0,
        flipped,
        tuple(by_plan),
        wrapped,
        refused,
    )


def _scored(scorer: Scorer, inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the logits of those inputs that have some, and which have."""
    try:
        return scorer(inputs), np.ones(len(inputs), np.bool_)
    except RangeError:
        if len(inputs) == 1:
            return np.zeros((0, 1)), np.zeros(1, np.bool_)
    parts = [_scored(scorer, image[None]) for image in inputs]
    logits = [found for found, good in parts if good.all()]
    return np.concatenate(logits or [np.zeros((0, 1))]), np.concatenate([good for _, good in parts])
