"""Score histograms: they add up, and what follows from them is exact to a bin."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc

from nescient_fl.lesion.counts import BINS, LARGEST_LOGIT, ScoreCounts

WIDTH = 2 * LARGEST_LOGIT / BINS

Scored = tuple[NDArray[np.float64], NDArray[np.float32]]


def counts_of(logits: list[float], targets: list[int]) -> ScoreCounts:
    return ScoreCounts.of(np.array(logits, np.float64), np.array(targets, np.float32))


@st.composite
def scored(draw: st.DrawFn, least: int = 0) -> Scored:
    pairs = draw(
        st.lists(
            st.tuples(
                st.floats(-12, 12) | st.sampled_from([-LARGEST_LOGIT, 0.0, WIDTH, LARGEST_LOGIT]), st.integers(0, 1)
            ),
            min_size=least,
            max_size=60,
        )
    )
    return np.array([logit for logit, _ in pairs]), np.array([target for _, target in pairs], np.float32)


def same(one: ScoreCounts, other: ScoreCounts) -> bool:
    return (
        np.array_equal(one.positives, other.positives)
        and np.array_equal(one.negatives, other.negatives)
        and one.loss_sum == pytest.approx(other.loss_sum, abs=1e-9)
    )


@given(scored(), st.integers(1, 5))
def test_the_sum_of_parts_is_the_count_of_the_whole(images: Scored, parts: int) -> None:
    logits, targets = images
    pieces = [ScoreCounts.of(logits[part::parts], targets[part::parts]) for part in range(parts)]
    assert same(sum(pieces, ScoreCounts.empty()), ScoreCounts.of(logits, targets))
    assert ScoreCounts.of(logits, targets).images == len(logits)


@settings(deadline=None)
@given(scored(least=2))
def test_auroc_is_torchmetrics_on_the_bins_and_near_it_on_the_scores(images: Scored) -> None:
    logits, targets = images
    found = ScoreCounts.of(logits, targets).auroc
    positives, negatives = logits[targets > 0.5], logits[targets < 0.5]
    if not len(positives) or not len(negatives):
        assert found is None
        return
    exact = float(binary_auroc(torch.from_numpy(logits).sigmoid(), torch.from_numpy(targets).int()))
    # A pair can be misjudged only when its two scores share a bin, and then by half a pair.
    bins = np.clip(np.floor((logits + LARGEST_LOGIT) / WIDTH), 0, BINS - 1)
    shared = (bins[targets > 0.5][:, None] == bins[targets < 0.5][None, :]).sum()
    assert found is not None
    assert abs(found - exact) <= shared / 2 / (len(positives) * len(negatives)) + 1e-6


@given(scored(least=1), st.integers(0, 511))
def test_recall_at_a_bins_edge_is_exact(images: Scored, place: int) -> None:
    logits, targets = images
    edge = -LARGEST_LOGIT + place * WIDTH
    threshold = 1 / (1 + np.exp(-edge))
    found = ScoreCounts.of(logits, targets).recall(threshold)
    # Scores beyond the ends join the end bins, so every positive is at or above the lowest edge.
    inside = np.clip(logits[targets > 0.5], -LARGEST_LOGIT, np.nextafter(LARGEST_LOGIT, 0))
    assert found == (pytest.approx((inside >= edge - 1e-9).mean()) if len(inside) else None)


@given(scored(least=1), st.floats(0.01, 1.0))
def test_the_operating_point_reaches_the_target_and_no_higher_edge_does(images: Scored, target: float) -> None:
    counts = ScoreCounts.of(*images)
    if not counts.positives.sum():
        with pytest.raises(ValueError, match="no positive"):
            counts.threshold_for_recall(target)
        return
    threshold = counts.threshold_for_recall(target)
    assert 0 < threshold < 1
    assert (counts.recall(threshold) or 0) >= target - 1e-9
    edge = np.log(threshold / (1 - threshold))
    higher = 1 / (1 + np.exp(-(edge + WIDTH)))
    assert (counts.recall(higher) or 0) < target


@given(scored(least=1))
def test_the_loss_is_the_mean_cross_entropy(images: Scored) -> None:
    logits, targets = images
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(targets).double()
    )
    assert ScoreCounts.of(logits, targets).loss == pytest.approx(float(expected), abs=1e-9)


def test_small_counts_by_hand() -> None:
    counts = counts_of([-1.0, 0.5, 2.0, -2.0, 1.0], [1, 1, 1, 0, 0])
    assert (counts.positives.sum(), counts.negatives.sum()) == (3, 2)
    assert counts.positives[int((2.0 + LARGEST_LOGIT) / WIDTH)] == 1
    assert counts.recall(0.5) == pytest.approx(2 / 3)
    assert counts.auroc == pytest.approx(4 / 6)
    assert counts.threshold_for_recall(0.6) == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_nothing_counted_is_none_not_nan() -> None:
    empty = ScoreCounts.empty()
    assert (empty.images, empty.loss, empty.auroc, empty.recall()) == (0, None, None, None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="diverged"):
        counts_of([0.0, bad], [0, 1])


def test_the_standard_error_of_auroc_by_hand() -> None:
    counts = counts_of([1.0, 3.0, -1.0, 2.0], [1, 1, 0, 0])
    # Area 3/4; q1 = (3/4) / (5/4) = 3/5, q2 = 2 (9/16) / (7/4) = 9/14; variance
    # (3/16 + (3/5 - 9/16) + (9/14 - 9/16)) / 4.
    variance = (3 / 16 + 3 / 5 - 9 / 16 + 9 / 14 - 9 / 16) / 4
    assert counts.auroc == pytest.approx(0.75)
    assert counts.auroc_error == pytest.approx(math.sqrt(variance))
    assert ScoreCounts.empty().auroc_error is None


def test_a_later_model_takes_the_place_unless_it_is_worse_by_more_than_chance() -> None:
    def with_area(found: int, of: int = 100) -> ScoreCounts:
        # Negatives all at 0; positives above them but for some below.
        return counts_of([0.0] * of + [1.0] * found + [-1.0] * (of - found), [0] * of + [1] * of)

    kept = with_area(90)
    assert kept.auroc == pytest.approx(0.9)
    assert kept.auroc_error == pytest.approx(0.0225, abs=0.0005)
    assert with_area(95).supersedes(kept)
    assert kept.supersedes(kept)
    assert with_area(88).supersedes(kept)
    assert not with_area(87).supersedes(kept)


def test_counts_without_both_classes_never_take_a_place() -> None:
    one_class, both = counts_of([4.0], [1]), counts_of([0.5, -0.5], [0, 1])
    assert one_class.supersedes(None)
    assert not one_class.supersedes(both)
    assert both.supersedes(one_class)
