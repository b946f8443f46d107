"""Curves and counts that the report draws: ROC, precision-recall, calibration, confusion."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LARGEST_CURVE = 201
CALIBRATION_GROUPS = 10

Floats = NDArray[np.float64]
Curve = dict[str, Any]


def sigmoid(logits: Floats) -> Floats:
    """Return scores in (0, 1) of logits, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def roc_curve(probabilities: Floats, targets: NDArray[np.int64], label: str) -> Curve:
    """Return false positive rate x and true positive rate y from (0, 0) to (1, 1), at most 201 points."""
    from torchmetrics.functional.classification import binary_roc

    x, y, _ = binary_roc(torch.tensor(probabilities), torch.tensor(targets))
    return _thin(x.numpy(), y.numpy(), label)


def precision_recall_curve(probabilities: Floats, targets: NDArray[np.int64], label: str) -> Curve:
    """Return recall x and precision y from recall 0 to recall 1, at most 201 points."""
    from torchmetrics.functional.classification import binary_precision_recall_curve

    precision, recall, _ = binary_precision_recall_curve(torch.tensor(probabilities), torch.tensor(targets))
    return _thin(recall.numpy()[::-1], precision.numpy()[::-1], label)


def _thin(x: NDArray[Any], y: NDArray[Any], label: str) -> Curve:
    keep = np.unique(np.linspace(0, len(x) - 1, LARGEST_CURVE).round().astype(int))
    return {
        "label": label,
        "x": [round(float(value), 5) for value in x[keep]],
        "y": [round(float(value), 5) for value in y[keep]],
    }


def calibration_curve(probabilities: Floats, targets: NDArray[np.int64]) -> list[dict[str, float | int]]:
    """Return mean score and observed share of positives in ten groups of about equal size, by score."""
    order = np.argsort(probabilities, kind="stable")
    groups = [group for group in np.array_split(order, CALIBRATION_GROUPS) if len(group)]
    return [
        {
            "mean_score": float(probabilities[group].mean()),
            "observed": float(targets[group].mean()),
            "count": len(group),
        }
        for group in groups
    ]


def confusion(probabilities: Floats, targets: NDArray[np.int64], threshold: float) -> dict[str, int]:
    """Return tp, fp, tn and fn; a score at the threshold is called positive."""
    from torchmetrics.functional.classification import binary_confusion_matrix

    called = torch.from_numpy((probabilities >= threshold).astype(np.int64))
    (tn, fp), (fn, tp) = binary_confusion_matrix(called, torch.tensor(targets)).tolist()
    return {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
