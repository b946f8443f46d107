"""Score histograms: validation figures in a form that can be summed, and so aggregated securely.

A site never sends scores. It counts its validation images by logit, positives and negatives apart; counts of
several sites add up, and recall, AUROC and the operating point follow from the sum, exact to a bin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nescient_fl.lesion.weighted import weighted_ranking

BINS = 384
LARGEST_LOGIT = 6.0
"""Logits are counted in 384 equal bins from -6 to 6, 1/32 wide; what lies outside joins the end bins."""

_EDGES = np.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, BINS + 1)


@dataclass(frozen=True)
class ScoreCounts:
    """Validation images of one or more sites, counted by logit.

    positives and negatives int64 [384]; loss_sum is the sum of binary cross-entropies in nats.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    loss_sum: float

    @classmethod
    def empty(cls) -> "ScoreCounts":
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), 0.0)

    @classmethod
    def of(cls, logits: NDArray[np.float64], targets: NDArray[np.float32]) -> "ScoreCounts":
        """Count logits float64 [n] by targets [n] of 0 and 1.

        Raises ValueError for a logit that is not finite: a model that diverged must not look like a score.
        """
        if not np.isfinite(logits).all():
            raise ValueError("the model's scores are not finite: training diverged")
        inside = np.clip(logits, -LARGEST_LOGIT, np.nextafter(LARGEST_LOGIT, 0))
        is_positive = targets > 0.5
        positives, _ = np.histogram(inside[is_positive], _EDGES)
        negatives, _ = np.histogram(inside[~is_positive], _EDGES)
        loss = np.logaddexp(0, np.where(is_positive, -logits, logits)).sum()
        return cls(positives.astype(np.int64), negatives.astype(np.int64), float(loss))

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        return ScoreCounts(
            self.positives + other.positives, self.negatives + other.negatives, self.loss_sum + other.loss_sum
        )

    @property
    def images(self) -> int:
        return int(self.positives.sum() + self.negatives.sum())

    @property
    def loss(self) -> float | None:
        """Mean binary cross-entropy in nats, None without images."""
        return self.loss_sum / self.images if self.images else None

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve, two scores in one bin counting as equal; None without both classes."""
        if not self.positives.sum() or not self.negatives.sum():
            return None
        levels = np.tile(np.arange(BINS, dtype=np.float64), 2)
        is_positive = np.repeat([1.0, 0.0], BINS)
        counts = np.concatenate([self.positives, self.negatives]).astype(np.float64)
        auroc, _ = weighted_ranking(levels, is_positive, counts[None, :])
        return float(auroc[0])

    @property
    def auroc_error(self) -> float | None:
        """Standard error of ``auroc`` over images (Hanley and McNeil, Radiology 143, 1982); None without it."""
        area = self.auroc
        if area is None:
            return None
        positives, negatives = int(self.positives.sum()), int(self.negatives.sum())
        above_both = area / (2 - area)  # a positive scores above two negatives
        below_both = 2 * area**2 / (1 + area)  # a negative scores below two positives
        variance = area * (1 - area) + (positives - 1) * (above_both - area**2)
        variance += (negatives - 1) * (below_both - area**2)
        return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))

    def supersedes(self, earlier: "ScoreCounts | None") -> bool:
        """Say whether a model with these counts takes the place of one of an earlier round.

        It was trained longer and with smaller steps, so it does unless its AUROC is lower by more than a standard
        error: on a hundred lesions AUROC moves by hundredths from round to round, and the highest of many rounds,
        like the lowest loss, is a lucky one. Counts without both classes never take a place.
        """
        if earlier is None:
            return True
        if self.auroc is None:
            return False
        if earlier.auroc is None or earlier.auroc_error is None:
            return True
        return self.auroc >= earlier.auroc - earlier.auroc_error

    def recall(self, threshold: float = 0.5) -> float | None:
        """Share of positives scored at or above a threshold that lies on a bin's edge; None without any."""
        total = self.positives.sum()
        first = int(np.searchsorted(_EDGES, _logit(threshold) - 1e-9))
        return float(self.positives[first:].sum() / total) if total else None

    def threshold_for_recall(self, target: float) -> float:
        """Return the highest bin edge, as a score in (0, 1), at which recall is at least ``target``.

        Raises ValueError without positives.
        """
        total = self.positives.sum()
        if not total:
            raise ValueError("no positive validation image: there is no threshold to choose")
        found = np.cumsum(self.positives[::-1])[::-1] / total
        edge = _EDGES[int(np.flatnonzero(found >= target - 1e-12).max())]
        return float(1 / (1 + np.exp(-edge)))


def _logit(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))
