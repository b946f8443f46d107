"""Figures and their intervals: against torchmetrics, and by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.lesion.metrics import FIGURES, HeldOut, figures, score_models, weighted_figures

SCORES = np.array([0.9, 0.8, 0.7, 0.3])
TARGETS = np.array([1, 0, 1, 0])

Weighted = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], float]


@st.composite
def weighted_images(draw: st.DrawFn) -> Weighted:
    """Scores with ties and with values on the edges of calibration bins; weights from 0 to 3."""
    tied = st.sampled_from([0.0, 0.2, 1 / 3, 0.4, 0.5, 2 / 3, 0.8, 1.0])
    images = draw(
        st.lists(st.tuples(tied | st.floats(0, 1), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=25)
    )
    scores, targets, weights = (np.array(column) for column in zip(*images, strict=True))
    return scores.astype(np.float64), targets.astype(np.int64), weights.astype(np.float64), draw(tied)


@settings(deadline=None, max_examples=200)
@given(weighted_images())
def test_weighted_figures_are_torchmetrics_on_repeated_images(images: Weighted) -> None:
    scores, targets, weights, threshold = images
    repeats = weights.astype(int)
    if not repeats.sum():
        return
    expected = figures(np.repeat(scores, repeats), np.repeat(targets, repeats), threshold)
    found = weighted_figures(scores, targets, threshold, weights[None])
    for name in FIGURES:
        value = float(found[name][0])
        if expected[name] is None:
            assert np.isnan(value), name
        else:
            assert value == pytest.approx(expected[name], abs=2e-6), name


def test_figures_by_hand() -> None:
    found = figures(SCORES, TARGETS, 0.75)
    assert found == {
        "recall": pytest.approx(1 / 2),
        "precision": pytest.approx(1 / 2),
        "specificity": pytest.approx(1 / 2),
        "accuracy": pytest.approx(1 / 2),
        "auroc": pytest.approx(3 / 4),
        "auprc": pytest.approx((1 + 2 / 3) / 2),
        "brier": pytest.approx((0.1**2 + 0.8**2 + 0.3**2 + 0.3**2) / 4),
        "calibration_error": pytest.approx((0.1 + 0.8 + 0.3 + 0.3) / 4),
    }


def test_a_score_at_the_threshold_is_called_positive() -> None:
    assert figures(SCORES, TARGETS, 0.7)["recall"] == 1
    assert figures(SCORES, TARGETS, 0.3)["specificity"] == 0


def test_undefined_figures_are_none() -> None:
    only_positives = figures(SCORES, np.ones(4, np.int64), 0.95)
    assert [name for name in FIGURES if only_positives[name] is None] == [
        "precision",
        "specificity",
        "auroc",
        "auprc",
    ]
    nothing = figures(np.empty(0), np.empty(0, np.int64), 0.5)
    assert set(nothing.values()) == {None}


def test_arrays_that_cannot_be_written_give_no_warning() -> None:
    """A table's column is such an array, and a warning would stand amid the study's own view."""
    scores, targets = SCORES.copy(), TARGETS.copy()
    scores.flags.writeable = targets.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures(scores, targets, 0.75)["recall"] == 0.5


def held_out(images: int = 200, each: int = 4) -> tuple[NDArray[np.float64], HeldOut]:
    """Scores of patients with ``each`` images that are all alike."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(images // each), each)
    targets = (patients % 2).astype(np.int64)
    scores = generator.uniform(0, 0.8, images // each)[patients] + 0.2 * targets
    return scores, HeldOut(targets, patients)


def test_resampling_takes_whole_patients() -> None:
    _, images = held_out()
    weights = images.resample(np.random.default_rng(0), 50)
    by_patient = weights.reshape(50, 50, 4)
    assert (by_patient == by_patient[:, :, :1]).all()
    assert (by_patient[:, :, 0].sum(1) == 50).all()
    assert len({tuple(row) for row in weights}) == 50


def test_patients_need_not_be_numbered_in_order() -> None:
    images = HeldOut(np.array([1, 0, 1]), np.array([70, 3, 70]))
    weights = images.resample(np.random.default_rng(0), 30)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert set(weights.sum(1)) <= {2.0, 3.0, 4.0, 1.0}


def test_intervals_bracket_the_value_and_repeat_under_a_seed() -> None:
    scores, images = held_out()
    first = score_models([scores], [0.5], images, np.random.default_rng(1))
    again = score_models([scores], [0.5], images, np.random.default_rng(1))
    assert first == again
    for name in FIGURES:
        low, value, high = (first[name][key] for key in ("low", "value", "high"))
        assert low is not None
        assert value is not None
        assert high is not None
        assert low <= value <= high, name
        assert high > low


def test_the_interval_is_that_of_patients_not_of_images() -> None:
    scores, images = held_out(400, each=8)
    as_if_independent = HeldOut(images.targets, np.arange(400))

    def width(of: HeldOut) -> float:
        interval = score_models([scores], [0.5], of, np.random.default_rng(1))["auroc"]
        assert interval["low"] is not None
        assert interval["high"] is not None
        return interval["high"] - interval["low"]

    # Eight equal images a patient: the honest interval is about sqrt(8) times as wide.
    assert width(images) > 2 * width(as_if_independent)


def test_several_models_are_averaged_image_by_image() -> None:
    scores, images = held_out()
    generator = np.random.default_rng
    one = score_models([scores], [0.5], images, generator(1))
    other = score_models([1 - scores], [0.5], images, generator(1))
    both = score_models([scores, 1 - scores], [0.5, 0.5], images, generator(1))
    assert both["auroc"]["value"] == pytest.approx(((one["auroc"]["value"] or 0) + (other["auroc"]["value"] or 0)) / 2)
    # The two AUROCs add up to one on every resample, so their mean does not vary at all.
    assert both["auroc"]["low"] == pytest.approx(0.5)
    assert both["auroc"]["high"] == pytest.approx(0.5)


def test_a_figure_undefined_for_one_model_is_left_out_of_the_mean() -> None:
    scores, images = held_out()
    found = score_models([scores, scores * 0], [0.5, 0.5], images, np.random.default_rng(1))
    alone = score_models([scores], [0.5], images, np.random.default_rng(1))
    assert found["precision"]["value"] == pytest.approx(alone["precision"]["value"])
    assert found["recall"]["value"] == pytest.approx((alone["recall"]["value"] or 0) / 2)


def test_figures_that_cannot_be_are_null() -> None:
    null = {"value": None, "low": None, "high": None}
    images = HeldOut(np.ones(4, np.int64), np.arange(4))
    found = score_models([SCORES], [0.5], images, np.random.default_rng(1))
    assert found["auroc"] == null
    assert found["recall"]["value"] == 0.75
    empty = HeldOut(np.empty(0, np.int64), np.empty(0, np.int64))
    assert score_models([np.empty(0)], [0.5], empty, np.random.default_rng(1)) == dict.fromkeys(FIGURES, null)
