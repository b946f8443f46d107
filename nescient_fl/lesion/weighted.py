"""Figures of images that count several times, many weightings at once.

torchmetrics, whose figures these are, takes no weights and takes seconds to import. A test holds the two
equal on images that are really repeated.
"""

import numpy as np
import torch
from numpy.typing import NDArray

CALIBRATION_BINS = 15

Floats = NDArray[np.float64]


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
        auroc, auprc = weighted_ranking(probabilities, positive, weights)
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


def weighted_ranking(probabilities: Floats, positive: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return AUROC and average precision, float64 [resamples], for each row of weights.

    Equal scores form one step. Undefined without both classes: NaN.
    """
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
