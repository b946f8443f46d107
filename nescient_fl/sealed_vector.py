"""One site's round as a vector of integers: what is shared, sealed, summed and opened.

Words, in order: the update times the weight, in fixed point; the weight; the validation counts of positives
and of negatives; the validation loss, the training loss and the training accuracy, each as a sum over images,
in 1/1024 or, at large sites, coarser. A round that only scores has no update. Everything adds up, so the sum decodes
like one site's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.lesion.counts import BINS, ScoreCounts
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.shares import decode
from nescient_fl.mpc.terms import Terms

METRIC_WORDS = 2 * BINS + 3
_FINEST = 1024
_LARGEST_SUM = 2**21
"""No sum over images is sent as more than this: it shares the norm check's room with the counts (terms.py)."""

COARSE = 24
"""Bins that a private histogram joins: noise is added to every bin, so few and full ones say more."""
PRIVATE_NORM = 4096
"""L2 norm that a site's private histogram is scaled to: what the noise on it is measured against."""
_METRICS_SHARE = 1 / 20
"""Share of the privacy budget, as 1 / z^2, that goes to the validation counts; the update has the rest."""


@dataclass(frozen=True)
class RoundSum:
    """What one site gives to a round, or the sum over sites, decoded.

    Attributes:
        weight: sum of the weights.
        update: sum of weight times update, float64, by weight name; None when the round only scored.
        counts: validation counts of the model as it came.
        loss, accuracy: sums over training images, of the last local epoch.
    """

    weight: int
    update: Mapping[str, NDArray[np.float64]] | None
    counts: ScoreCounts
    loss: float
    accuracy: float


def dimension(shapes: Mapping[str, tuple[int, ...]] | None) -> int:
    """Return the words of a vector for weights of these shapes; None is a round that only scores."""
    return update_words(shapes) + 1 + METRIC_WORDS


def update_words(shapes: Mapping[str, tuple[int, ...]] | None) -> int:
    """Return the words that the update takes."""
    return 0 if shapes is None else sum(int(np.prod(shape)) for shape in shapes.values())


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight, in the order that every site and the coordinator pack them."""
    return {name: tuple(weights[name].shape) for name in sorted(weights)}


def clip_update(update: Weights, clip: float) -> Weights:
    """Scale an update, float32, down to an L2 norm of ``clip`` if it is longer."""
    norm = math.hypot(*(float(torch.linalg.vector_norm(value, dtype=torch.float64)) for value in update.values()))
    if norm <= clip:
        return update
    return {name: (value.double() * (clip / norm)).float() for name, value in update.items()}


def flatten(update: Weights, weight: int) -> NDArray[np.float64]:
    """Return weight times update as one float64 vector, names sorted."""
    flat, start = np.empty(sum(value.numel() for value in update.values())), 0
    for name in sorted(update):
        values = update[name].numpy().ravel()
        np.multiply(values, weight, out=flat[start : start + len(values)], dtype=np.float64)
        start += len(values)
    return flat


def metric_words(counts: ScoreCounts, loss: float, accuracy: float, weight_max: int) -> NDArray[np.int64]:
    """Pack what follows the weight; loss and accuracy are sums over training images.

    ``weight_max`` is the terms' own. A mean loss of more than 4 at the largest site counts as 4, and one that is no
    number too: an honest report is never beyond the norm bound, however large the site or lost the model.
    """
    sums = np.array([counts.loss_sum, loss, accuracy]) * _steps(weight_max)
    bounded = np.clip(np.nan_to_num(sums, nan=_LARGEST_SUM), -_LARGEST_SUM, _LARGEST_SUM)
    return np.concatenate([counts.positives, counts.negatives, np.rint(bounded).astype(np.int64)])


def _steps(weight_max: int) -> float:
    """Return how many units of a sum over images make 1."""
    return min(_FINEST, _LARGEST_SUM / 4 / weight_max)


def noise_for(multiplier: float, clip: float, fraction_bits: int, words: int, length: int) -> tuple[float, float]:
    """Return the standard deviations, in ring units, of the noise on the update and on what follows the weight.

    For a report of ``length`` words, of which ``words`` are an update of weight 1. A site that gave zeros instead
    would change the update by the clip at most, and by what rounding adds to it: half a unit a word, and a clipped
    update's own float32. It would change its private histogram by ``PRIVATE_NORM``. The two noises share the
    multiplier's budget: 1 / multiplier^2 is the sum of (sensitivity / noise)^2.
    """
    update = clip * 2**fraction_bits * (1 + 2.0**-20) + words**0.5 / 2
    metrics = (PRIVATE_NORM**2 + (length - words) / 4) ** 0.5
    return multiplier * update / (1 - _METRICS_SHARE) ** 0.5, multiplier * metrics / _METRICS_SHARE**0.5


def private_metric_words(counts: ScoreCounts) -> NDArray[np.int64]:
    """Pack counts for differential privacy: coarse, scaled to one L2 norm whatever the site's size, no sums."""
    coarse = _coarse(np.stack([counts.positives, counts.negatives])).astype(np.float64)
    norm = float(np.sqrt(np.square(coarse).sum()))
    scaled = np.floor(coarse * (PRIVATE_NORM / norm)).astype(np.int64) if norm else coarse.astype(np.int64)
    words = np.zeros(METRIC_WORDS, np.int64)
    words[: 2 * BINS].reshape(2, BINS)[:, :: BINS // COARSE] = scaled
    return words


def read_sum(
    total: NDArray[np.int64],
    shapes: Mapping[str, tuple[int, ...]] | None,
    terms: Terms,
) -> RoundSum:
    """Decode an opened sum, int64 [dimension(shapes)], of these terms.

    Of a sum with noise only the coarse bins count; noise below zero is cut off, and loss and accuracy are zero.
    Raises ValueError for another length.
    """
    if total.shape != (dimension(shapes),):
        raise ValueError(f"a sum of {total.shape} words does not fit this model")
    words = update_words(shapes)
    update = None
    if shapes is not None:
        flat = decode(total[:words], terms.fraction_bits)
        update, start = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            update[name] = flat[start : start + size].reshape(shape)
            start += size
    metrics = total[words + 1 :]
    tallies = metrics[: 2 * BINS].reshape(2, BINS)
    sums = metrics[2 * BINS :] / _steps(terms.weight_max)
    if terms.private:
        kept = np.zeros_like(tallies)
        kept[:, :: BINS // COARSE] = np.maximum(tallies[:, :: BINS // COARSE], 0)
        tallies, sums = kept, np.zeros(3)
    counts = ScoreCounts(tallies[0].copy(), tallies[1].copy(), float(sums[0]))
    return RoundSum(int(total[words]), update, counts, float(sums[1]), float(sums[2]))


def _coarse(tallies: NDArray[np.int64]) -> NDArray[np.int64]:
    joined: NDArray[np.int64] = tallies.reshape(2, COARSE, BINS // COARSE).sum(axis=2)
    return joined
