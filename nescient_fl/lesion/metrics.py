"""Scores of a model on held-out patients, with patient-bootstrap 95% intervals.

The figures themselves are torchmetrics'. The bootstrap (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993; patients resampled, since images of one patient are not independent) needs each figure a
thousand times, so ``weighted_figures`` computes all resamples at once from weights; a test holds it equal to
torchmetrics on each resample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
    binary_precision,
    binary_recall,
    binary_specificity,
)
from torchmetrics.functional.regression import mean_squared_error

FIGURES = (
    "recall",
    "precision",
    "specificity",
    "accuracy",
    "auroc",
    "auprc",
    "brier",
    "calibration_error",
)
CALIBRATION_BINS = 15
RESAMPLES = 1000

Floats = NDArray[np.float64]
Interval = dict[str, float | None]
Scores = dict[str, Interval]


@dataclass(frozen=True)
class HeldOut:
    """Held-out images: targets int64 [n] of 0 and 1, and each image's patient as an index, int64 [n]."""

    targets: NDArray[np.int64]
    patients: NDArray[np.int64]

    def resample(self, generator: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
        """Draw patients with replacement. Returns float64 [resamples, n]: how often each image counts."""
        _, index = np.unique(self.patients, return_inverse=True)
        count = int(index.max()) + 1 if len(index) else 0
        weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        return weights[:, index].astype(np.float64)


def figures(probabilities: Floats, targets: NDArray[np.int64], threshold: float) -> dict[str, float | None]:
    """Return every figure of one model by torchmetrics.

    probabilities float64 [n], targets int64 [n]. A figure that is undefined (no positives, no negatives, or
    nothing called positive) is None.
    """
    preds, target = torch.tensor(probabilities), torch.tensor(targets)
    called = (preds >= threshold).int()
    positives, negatives = int(target.sum()), int((1 - target).sum())
    values: dict[str, float | None] = dict.fromkeys(FIGURES)
    if len(targets):
        values["accuracy"] = float(binary_accuracy(called, target))
        values["brier"] = float(mean_squared_error(preds, target.double()))
        values["calibration_error"] = float(
            binary_calibration_error(preds, target, n_bins=CALIBRATION_BINS, norm="l1")
        )
    if positives:
        values["recall"] = float(binary_recall(called, target))
    if negatives:
        values["specificity"] = float(binary_specificity(called, target))
    if int(called.sum()):
        values["precision"] = float(binary_precision(called, target))
    if positives and negatives:
        values["auroc"] = float(binary_auroc(preds, target))
        values["auprc"] = float(binary_average_precision(preds, target))
    return values


def weighted_figures(
    probabilities: Floats, targets: NDArray[np.int64], threshold: float, weights: Floats
) -> dict[str, Floats]:
    """Return every figure for every row of weights float64 [resamples, n], as float64 [resamples].

    Undefined figures are NaN. Equal to ``figures`` on images repeated as often as their weight says.
    """
    positive = targets.astype(np.float64)
    called = (probabilities >= threshold).astype(np.float64)
    tp, fp = weights @ (called * positive), weights @ (called * (1 - positive))
    fn, tn = weights @ ((1 - called) * positive), weights @ ((1 - called) * (1 - positive))
    total = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc, auprc = _weighted_ranking(probabilities, positive, weights)
        return {
            "recall": tp / (tp + fn),
            "precision": tp / (tp + fp),
            "specificity": tn / (tn + fp),
            "accuracy": (tp + tn) / total,
            "auroc": auroc,
            "auprc": auprc,
            "brier": weights @ np.square(probabilities - positive) / total,
            "calibration_error": _weighted_calibration_error(probabilities, positive, weights),
        }


def _weighted_ranking(probabilities: Floats, positive: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return AUROC and average precision for each row of weights; equal scores form one step."""
    _, group = np.unique(-probabilities, return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(groups))
    pos = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    neg = np.add.reduceat((weights * (1 - positive))[:, order], starts, axis=1)
    pos_above, neg_above = pos.cumsum(1), neg.cumsum(1)
    all_pos, all_neg = pos_above[:, -1], neg_above[:, -1]
    auroc = (neg * (pos_above - pos / 2)).sum(1) / (all_pos * all_neg)
    called = pos_above + neg_above
    precision = np.divide(pos_above, called, out=np.zeros_like(called), where=called > 0)
    auprc = (pos * precision).sum(1) / all_pos
    auprc[(all_pos == 0) | (all_neg == 0)] = np.nan
    return auroc, auprc


def _weighted_calibration_error(probabilities: Floats, positive: Floats, weights: Floats) -> Floats:
    # torchmetrics works on float32 edges; the same edges put the same image into the same bin.
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)
    bins = torch.bucketize(torch.from_numpy(probabilities), edges, right=True).numpy() - 1
    member = np.eye(CALIBRATION_BINS + 1)[bins]
    gap = weights @ (member * (probabilities - positive)[:, None])
    return np.asarray(np.abs(gap).sum(1) / weights.sum(1))


def score_models(
    models: Sequence[Floats],
    thresholds: Sequence[float],
    held_out: HeldOut,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Scores:
    """Return the mean figures of one or more models on the same images, with 95% intervals.

    models are probabilities, float64 [n] each. The interval is the percentile bootstrap over patients of the
    mean over the models, so that models are not mistaken for independent evidence. A figure undefined for a
    model is left out of the mean; undefined for all, it is None.
    """
    if not len(held_out.targets):
        return {name: {"value": None, "low": None, "high": None} for name in FIGURES}
    points = [figures(p, held_out.targets, t) for p, t in zip(models, thresholds, strict=True)]
    weights = held_out.resample(generator, resamples)
    draws = [
        weighted_figures(p, held_out.targets, t, weights) for p, t in zip(models, thresholds, strict=True)
    ]
    scores: Scores = {}
    for name in FIGURES:
        defined = [index for index, point in enumerate(points) if point[name] is not None]
        if not defined:
            scores[name] = {"value": None, "low": None, "high": None}
            continue
        mean = np.mean([draws[index][name] for index in defined], axis=0)
        mean = mean[np.isfinite(mean)]
        low, high = np.quantile(mean, [0.025, 0.975]) if len(mean) else (None, None)
        scores[name] = {
            "value": float(np.mean([points[index][name] for index in defined])),
            "low": None if low is None else float(low),
            "high": None if high is None else float(high),
        }
    return scores
