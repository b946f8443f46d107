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

from nescient_fl.lesion.weighted import CALIBRATION_BINS, weighted_figures

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
    # Imported here: it takes seconds, and only scoring needs it.
    from torchmetrics.functional import classification as tm
    from torchmetrics.functional.regression import mean_squared_error

    preds, target = torch.tensor(probabilities), torch.tensor(targets)
    called = (preds >= threshold).int()
    positives, negatives = int(target.sum()), int((1 - target).sum())
    values: dict[str, float | None] = dict.fromkeys(FIGURES)
    if len(targets):
        values["accuracy"] = float(tm.binary_accuracy(called, target))
        values["brier"] = float(mean_squared_error(preds, target.double()))
        values["calibration_error"] = float(
            tm.binary_calibration_error(preds, target, n_bins=CALIBRATION_BINS, norm="l1")
        )
    if positives:
        values["recall"] = float(tm.binary_recall(called, target))
    if negatives:
        values["specificity"] = float(tm.binary_specificity(called, target))
    if int(called.sum()):
        values["precision"] = float(tm.binary_precision(called, target))
    if positives and negatives:
        values["auroc"] = float(tm.binary_auroc(preds, target))
        values["auprc"] = float(tm.binary_average_precision(preds, target))
    return values


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
    draws = [weighted_figures(p, held_out.targets, t, weights) for p, t in zip(models, thresholds, strict=True)]
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
