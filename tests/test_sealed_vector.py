"""One site's round as words: it adds up, it decodes, and an honest one always fits the norm bound."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.lesion.counts import BINS, ScoreCounts
from nescient_fl.lesion.network import build_network, get_weights
from nescient_fl.mpc.shares import encode
from nescient_fl.mpc.terms import Terms, fraction_bits_for
from nescient_fl.sealed_vector import (
    COARSE,
    METRIC_WORDS,
    PRIVATE_NORM,
    clip_update,
    dimension,
    flatten,
    metric_words,
    noise_for,
    private_metric_words,
    read_sum,
    shapes_of,
    update_words,
)

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


def terms_for(weight_max: int = 64, train: bool = True, noise: float = 0.0, clip: float = 8.0) -> Terms:
    words = update_words(SHAPES) if train else 0
    return Terms(
        dimension=words + 1 + METRIC_WORDS,
        update_words=words,
        fraction_bits=fraction_bits_for(clip, weight_max),
        clip=clip,
        weight_max=weight_max,
        minimum=3,
        metrics_noise=noise,
    )


def counts_of(seed: int, images: int = 50, loss: float = 0.6) -> ScoreCounts:
    drawn = np.random.default_rng(seed)
    bins = drawn.integers(0, BINS, images)
    positives, negatives = (np.bincount(part, minlength=BINS).astype(np.int64) for part in (bins[::2], bins[1::2]))
    return ScoreCounts(positives, negatives, loss * images)


def update_of(seed: int) -> dict[str, torch.Tensor]:
    drawn = np.random.default_rng(seed)
    return {name: torch.from_numpy(np.asarray(drawn.normal(size=shape), np.float32)) for name, shape in SHAPES.items()}


def words_of(seed: int, weight: int, terms: Terms) -> np.ndarray:
    update = encode(flatten(clip_update(update_of(seed), terms.clip), weight), terms.fraction_bits)
    metrics = metric_words(counts_of(seed), 0.3 * weight, 0.8 * weight, terms.weight_max)
    return np.concatenate([update, [weight], metrics])


def test_the_networks_vector_has_as_many_words_as_the_design_says() -> None:
    shapes = shapes_of(get_weights(build_network(seed=0)))
    assert update_words(shapes) == 102_825
    assert dimension(shapes) == 102_825 + 1 + METRIC_WORDS
    assert dimension(None) == 1 + METRIC_WORDS
    assert list(shapes) == sorted(shapes)


def test_a_sum_over_sites_decodes_to_the_sum_of_what_they_gave() -> None:
    terms, weights = terms_for(), (10, 64, 33)
    total = np.sum([words_of(seed, weight, terms) for seed, weight in enumerate(weights)], axis=0)
    read = read_sum(total, SHAPES, terms)
    assert read.weight == sum(weights)
    assert read.update is not None
    for name, shape in SHAPES.items():
        expected = sum(w * update_of(seed)[name].double().numpy() for seed, w in enumerate(weights))
        assert read.update[name].shape == shape
        np.testing.assert_allclose(read.update[name], expected, atol=3 * 2.0 ** -(terms.fraction_bits + 1))
    np.testing.assert_array_equal(read.counts.positives, sum(counts_of(seed).positives for seed in range(3)))
    np.testing.assert_array_equal(read.counts.negatives, sum(counts_of(seed).negatives for seed in range(3)))
    assert read.counts.loss_sum == pytest.approx(3 * 0.6 * 50, abs=3 / 1024)
    assert read.loss == pytest.approx(0.3 * sum(weights), abs=3 / 1024)
    assert read.accuracy == pytest.approx(0.8 * sum(weights), abs=3 / 1024)


def test_a_round_that_only_scores_has_no_update() -> None:
    terms = terms_for(train=False)
    words = np.concatenate([[7], metric_words(counts_of(1), 0.0, 0.0, terms.weight_max)])
    read = read_sum(words, None, terms)
    assert read.update is None
    assert read.weight == 7
    np.testing.assert_array_equal(read.counts.positives, counts_of(1).positives)


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit this model"):
        read_sum(np.zeros(5, np.int64), SHAPES, terms_for())


@given(st.floats(0.01, 20), st.integers(0, 50))
def test_a_clipped_update_has_the_norm_and_the_direction(clip: float, seed: int) -> None:
    update = update_of(seed)
    clipped = clip_update(update, clip)
    before, after = (np.concatenate([part[name].numpy().ravel() for name in SHAPES]) for part in (update, clipped))
    norm = float(np.linalg.norm(before.astype(np.float64)))
    if norm <= clip:
        assert clipped is update
        return
    assert float(np.linalg.norm(after.astype(np.float64))) == pytest.approx(clip, rel=1e-6)
    np.testing.assert_allclose(after * (norm / clip), before, rtol=1e-5)


@settings(max_examples=60)
@given(
    st.integers(0, 16),
    st.floats(0.05, 100),
    st.integers(1, 400_000),
    st.floats(0, 1e6) | st.just(float("nan")) | st.just(float("inf")),
)
def test_an_honest_report_is_within_the_bound_however_large_the_site_and_lost_the_model(
    power: int, clip: float, images: int, loss: float
) -> None:
    weight_max = 1 << power
    clip = min(clip, 1.7 * 2**25 / 2**6 / weight_max)
    terms = terms_for(weight_max, clip=clip)
    update = {name: value * 1e4 for name, value in update_of(3).items()}
    weight = min(images, weight_max)
    counts = ScoreCounts(
        np.bincount([1], minlength=BINS).astype(np.int64) * images, np.zeros(BINS, np.int64), loss * images
    )
    words = np.concatenate(
        [
            encode(flatten(clip_update(update, clip), weight), terms.fraction_bits),
            [weight],
            metric_words(counts, loss * images, images, weight_max),
        ]
    )
    assert float(np.linalg.norm(words.astype(np.float64))) <= terms.bound
    scored = terms_for(weight_max, train=False, clip=clip)
    assert float(np.linalg.norm(words[update_words(SHAPES) :].astype(np.float64))) <= scored.bound


@pytest.mark.parametrize(("weight_max", "step"), [(1, 1024), (512, 1024), (1024, 512), (2**16, 8)])
def test_losses_of_large_sites_are_told_coarser_and_read_the_same_way(weight_max: int, step: int) -> None:
    terms = terms_for(weight_max, clip=0.5)
    counts = ScoreCounts(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), 3.0)
    metrics = metric_words(counts, 1.5, 2.25, weight_max)
    assert metrics[-3:].tolist() == [3 * step, int(1.5 * step), round(2.25 * step)]
    read = read_sum(np.concatenate([np.zeros(update_words(SHAPES), np.int64), [1], metrics]), SHAPES, terms)
    assert (read.counts.loss_sum, read.loss, read.accuracy) == (3.0, 1.5, 2.25)


@given(st.integers(0, 5000), st.integers(0, 30))
def test_a_private_histogram_has_one_norm_whatever_the_sites_size(images: int, seed: int) -> None:
    words = private_metric_words(counts_of(seed, images))
    assert words.shape == (METRIC_WORDS,)
    norm = float(np.linalg.norm(words.astype(np.float64)))
    assert norm <= PRIVATE_NORM
    assert norm > 0.99 * PRIVATE_NORM or images == 0
    assert (words[-3:] == 0).all()
    assert np.count_nonzero(words) <= 2 * COARSE


def test_a_private_sum_tells_shapes_and_nothing_that_noise_drowned() -> None:
    terms = terms_for(weight_max=1, noise=5.0)
    metrics = private_metric_words(counts_of(1, 500))
    metrics[:5] -= 100_000  # noise below zero
    read = read_sum(np.concatenate([np.zeros(update_words(SHAPES), np.int64), [3], metrics]), SHAPES, terms)
    assert (read.counts.positives >= 0).all()
    assert (read.counts.loss_sum, read.loss, read.accuracy) == (0.0, 0.0, 0.0)
    assert np.count_nonzero(read.counts.positives) <= COARSE
    # The bins that sites never fill hold noise alone, and are left out.
    assert np.count_nonzero(read.counts.negatives) <= COARSE


def test_an_update_and_zeros_differ_by_less_than_the_noise_is_made_for() -> None:
    clip, bits = 1.0, 16
    update = {"a": torch.full((50_000,), 3.7)}
    words = encode(flatten(clip_update(update, clip), 1), bits)
    update_noise, _ = noise_for(1.0, clip, bits, len(words), len(words) + 1 + METRIC_WORDS)
    assert float(np.linalg.norm(words.astype(np.float64))) <= update_noise * (1 - 1 / 20) ** 0.5
