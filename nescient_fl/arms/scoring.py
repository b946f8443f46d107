"""The arms' models on the same held-out patients: the ``arms`` part of metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.arms.data import StudyData
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.curves import (
    calibration_curve,
    confusion,
    precision_recall_curve,
    roc_curve,
    sigmoid,
)
from nescient_fl.lesion.metrics import Floats, HeldOut, score_models
from nescient_fl.lesion.network import Weights, build_network, set_weights, weights_sha256
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.lesion.training import predict_logits
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.seeds import numpy_generator

_OPERATING = ("recall", "precision", "specificity", "accuracy")


@dataclass(frozen=True)
class ArmModel:
    """One trained model of an arm.

    Attributes:
        label: the site it belongs to, or the arm's name.
        weights: the model chosen on validation.
        counts: its validation score counts; the operating point comes from them.
        sites: the sites whose patients it serves.
    """

    label: str
    weights: Weights
    counts: ScoreCounts
    sites: tuple[str, ...]


@dataclass(frozen=True)
class ArmRun:
    """How an arm was trained: history as metrics.json has it, image passes, seconds."""

    history: list[dict[str, Any]]
    image_passes: int
    seconds: float


class Scorer:
    """Scores models on a study's held-out patients, each model once."""

    def __init__(self, data: StudyData, recipe: Recipe, device: torch.device, seed: int, target_recall: float) -> None:
        self._examples = data.examples("test")
        self.device = device
        self._recipe, self._seed = recipe, seed
        self._known: dict[str, Floats] = {}
        self._target_recall = target_recall
        table = data.table.iloc[self._examples.rows]
        self._sites = table["site"].to_numpy(str)
        keys = patient_keys(table).to_numpy(str)
        _, patients = np.unique(keys, return_inverse=True)
        self._held_out = HeldOut(table["target"].to_numpy(np.int64), patients.astype(np.int64))

    @property
    def rows(self) -> NDArray[np.int64]:
        """Cache rows of the held-out images, int64 [n], in the order of every model's scores."""
        return self._examples.rows

    def probabilities(self, weights: Weights) -> Floats:
        """Return a model's scores of the held-out images, float64 [n]."""
        key = weights_sha256(weights)
        if key not in self._known:
            network = build_network(self._recipe.network, seed=0).to(self.device)
            set_weights(network, weights)
            self._known[key] = sigmoid(predict_logits(network, self._examples, self._recipe, self.device))
        return self._known[key]

    def threshold(self, counts: ScoreCounts) -> float:
        """Return the operating point that validation chose for the target recall."""
        return counts.threshold_for_recall(self._target_recall)

    def score_arm(self, models: Sequence[ArmModel], run: ArmRun) -> dict[str, Any]:
        """Return the ARM object of metrics.json for one arm's models; see docs/design.md."""
        scores = [self.probabilities(model.weights) for model in models]
        thresholds = [self.threshold(model.counts) for model in models]
        halves = [0.5] * len(models)
        targets = self._held_out.targets
        pooled = list(zip(models, scores, thresholds, strict=True))
        recalls = [model.counts.recall(threshold) for model, _, threshold in pooled]
        return {
            "test": self._scores(scores, halves, self._held_out),
            "operating_point": {
                "threshold": thresholds[0] if len(models) == 1 else None,
                "validation_recall": float(np.mean([r for r in recalls if r is not None])),
                **self._operating(scores, thresholds, self._held_out),
            },
            "confusion": {
                "half": _mean_counts([confusion(p, targets, 0.5) for p in scores]),
                "operating_point": _mean_counts([confusion(p, targets, t) for _, p, t in pooled]),
            },
            "curves": {
                "roc": [roc_curve(p, targets, model.label) for model, p, _ in pooled],
                "pr": [precision_recall_curve(p, targets, model.label) for model, p, _ in pooled],
                "calibration": calibration_curve(np.concatenate(scores), np.tile(targets, len(scores))),
            },
            "history": run.history,
            "image_passes": run.image_passes,
            "seconds": round(run.seconds, 3),
            "sites": [self._site(site, p, model, threshold) for model, p, threshold in pooled for site in model.sites],
        }

    def _scores(self, scores: Sequence[Floats], thresholds: Sequence[float], held_out: HeldOut) -> Any:
        # The same resamples of patients for every arm: their intervals differ by the models alone.
        generator = numpy_generator(self._seed, "bootstrap", len(held_out.targets))
        return score_models(scores, thresholds, held_out, generator)

    def _operating(self, scores: Sequence[Floats], thresholds: Sequence[float], held_out: HeldOut) -> dict[str, Any]:
        figures = self._scores(scores, thresholds, held_out)
        return {name: figures[name] for name in _OPERATING}

    def _site(self, site: str, scores: Floats, model: ArmModel, threshold: float) -> dict[str, Any]:
        mine = self._sites == site
        held_out = HeldOut(self._held_out.targets[mine], self._held_out.patients[mine])
        return {
            "site": site,
            "images": int(mine.sum()),
            "positives": int(held_out.targets.sum()),
            "test": self._scores([scores[mine]], [0.5], held_out),
            "operating_point": {
                "threshold": threshold,
                "validation_recall": model.counts.recall(threshold),
                **self._operating([scores[mine]], [threshold], held_out),
            },
        }


def describe_scores(logits: Floats, threshold: float | None, held_out: HeldOut, seed: int) -> dict[str, Any]:
    """Return every figure at 0.5, and those that a threshold changes at the operating point, null without one."""
    probabilities = sigmoid(logits)

    def scores(at: float) -> dict[str, Any]:
        generator = numpy_generator(seed, "bootstrap", len(held_out.targets))
        return score_models([probabilities], [at], held_out, generator)

    point = None
    if threshold is not None:
        found = scores(threshold)
        point = {"threshold": threshold, **{name: found[name] for name in _OPERATING}}
    return {"half": scores(0.5), "operating_point": point}


def _mean_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    return {name: float(np.mean([count[name] for count in counts])) for name in ("tp", "fp", "tn", "fn")}
