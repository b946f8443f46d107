"""Curves and counts of the report."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.lesion.curves import (
    calibration_curve,
    confusion,
    precision_recall_curve,
    roc_curve,
    sigmoid,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.3])
TARGETS = np.array([1, 0, 1, 0])


def many(images: int = 3000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, images)
    return sigmoid(generator.normal(targets, 1.0)), targets


def test_sigmoid_does_not_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = sigmoid(np.array([-1e4, -1.0, 0.0, 1.0, 1e4]))
    assert values == pytest.approx([0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1])


def test_roc_by_hand() -> None:
    curve = roc_curve(SCORES, TARGETS, "federated")
    assert curve == {"label": "federated", "x": [0, 0, 0.5, 0.5, 1], "y": [0, 0.5, 0.5, 1, 1]}


def test_precision_recall_by_hand() -> None:
    curve = precision_recall_curve(SCORES, TARGETS, "pooled")
    assert curve["x"] == [0, 0.5, 0.5, 1, 1]
    assert curve["y"] == [1, 1, 0.5, pytest.approx(2 / 3, abs=1e-5), 0.5]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    scores, targets = many()
    roc, pr = roc_curve(scores, targets, "a"), precision_recall_curve(scores, targets, "b")
    for curve in (roc, pr):
        assert len(curve["x"]) == len(curve["y"]) <= 201
        assert curve["x"] == sorted(curve["x"])
        assert (curve["x"][0], curve["x"][-1]) == (0, 1)
    assert (roc["y"][0], roc["y"][-1]) == (0, 1)
    assert pr["y"][0] == 1
    assert pr["y"][-1] == pytest.approx(targets.mean(), abs=1e-5)
    # Thinned to 201 points the curve still has the area of the whole one.
    area = np.trapezoid(roc["y"], roc["x"])
    whole = (scores[targets == 1][:, None] > scores[targets == 0][None, :]).mean()
    assert area == pytest.approx(whole, abs=2e-3)


def test_confusion_by_hand() -> None:
    assert confusion(SCORES, TARGETS, 0.8) == {"tp": 1, "fp": 1, "tn": 1, "fn": 1}
    assert confusion(SCORES, TARGETS, 0.0) == {"tp": 2, "fp": 2, "tn": 0, "fn": 0}
    assert confusion(SCORES, TARGETS, 1.0) == {"tp": 0, "fp": 0, "tn": 2, "fn": 2}


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=30), st.floats(0, 1))
def test_confusion_counts_every_image_once(images: list[tuple[float, int]], threshold: float) -> None:
    scores, targets = np.array([s for s, _ in images]), np.array([t for _, t in images])
    found = confusion(scores, targets, threshold)
    assert found["tp"] + found["fn"] == targets.sum()
    assert found["fp"] + found["tn"] == len(targets) - targets.sum()
    assert found["tp"] == sum(s >= threshold and t == 1 for s, t in images)


def test_calibration_groups_by_hand() -> None:
    scores, targets = np.arange(20)[::-1] / 20, np.array([1, 0] * 10)
    groups = calibration_curve(scores, targets)
    assert [group["count"] for group in groups] == [2] * 10
    assert [group["observed"] for group in groups] == [0.5] * 10
    assert groups[0]["mean_score"] == pytest.approx(0.025)
    assert groups[9]["mean_score"] == pytest.approx(0.925)


def test_fewer_images_than_groups_leave_no_empty_group() -> None:
    assert [group["count"] for group in calibration_curve(SCORES, TARGETS)] == [1, 1, 1, 1]
