"""The discrete Gaussian: exact where it can be counted, right in its moments where not, and in the opened sum."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nescient_fl.mpc import noise, party
from nescient_fl.mpc.noise import discrete_gaussian
from nescient_fl.mpc.randomness import SecretStream, fresh_stream
from nescient_fl.sealed_vector import noise_for
from tests.mpc.federation_in_memory import METRICS, TERMS, UPDATE, Federation, vector_of

SEED = bytes(range(32))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7])
def test_small_noise_has_the_discrete_gaussians_frequencies(sigma: float) -> None:
    count = 60_000
    drawn = discrete_gaussian(SecretStream(SEED), sigma, count)
    support = np.arange(-40, 41)
    expected = np.exp(-(support**2) / (2 * sigma**2))
    expected *= count / expected.sum()
    often = expected > 10
    found = np.array([(drawn == value).sum() for value in support[often]])
    chi_square = ((found - expected[often]) ** 2 / expected[often]).sum()
    degrees = often.sum() - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees) + 10


@pytest.mark.parametrize("sigma", [1e4, 2.0**35])
def test_large_noise_has_the_gaussians_moments(sigma: float) -> None:
    drawn = discrete_gaussian(SecretStream(SEED), sigma, 60_000) / sigma
    assert abs(drawn.mean()) < 5 / 60_000**0.5
    assert drawn.std() == pytest.approx(1, abs=0.015)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.25)
    assert (np.abs(drawn) < 1).mean() == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), 2.0**45])
def test_noise_that_cannot_be(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(SecretStream(SEED), sigma, 1)


def chi_square(drawn: NDArray[np.int64], sigma_squared: float) -> tuple[float, int]:
    """Compare frequencies with the discrete Gaussian's; bins of fewer than ten are left out."""
    support = np.arange(-60, 61)
    expected = np.exp(-(support**2) / (2 * sigma_squared))
    expected *= len(drawn) / expected.sum()
    often = expected > 10
    found = np.array([(drawn == value).sum() for value in support[often]])
    return float(((found - expected[often]) ** 2 / expected[often]).sum()), int(often.sum()) - 1


def test_the_comparison_of_frequencies_can_fail() -> None:
    rounded = np.rint(discrete_gaussian(SecretStream(SEED), 1000.0, 60_000) / 1000 * 1.05).astype(np.int64)
    found, degrees = chi_square(rounded, 1.0)
    assert found > degrees + 5 * np.sqrt(2 * degrees) + 10


def test_noise_is_never_the_same_twice_and_not_torchs() -> None:
    first, second = (discrete_gaussian(fresh_stream(), 1e6, 1000) for _ in range(2))
    assert (first == second).mean() < 0.01


def test_a_sigma_of_the_largest_size_fits_the_ring() -> None:
    drawn = discrete_gaussian(SecretStream(SEED), float(noise.LARGEST_SIGMA), 20_000)
    assert np.abs(drawn).max() < 2**50
    assert (drawn / noise.LARGEST_SIGMA).std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("parties", [2, 3])
def test_each_party_adds_noise_of_full_variance_to_the_opened_sum(
    tmp_path: Path, parties: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, parties=parties)
    # The clip leaves room in the norm bound; the noise is not part of what is checked.
    terms = replace(TERMS, update_noise=3000.0, metrics_noise=700.0)
    words = [vector_of(number) for number in range(5)]
    own: list[NDArray[np.int64]] = []
    draw = party._noise
    monkeypatch.setattr(party, "_noise", lambda terms: own.append(draw(terms)) or own[-1].copy())
    request = federation.request(terms=terms)
    reports = [federation.report(site, word, request) for site, word in zip(federation.sites, words, strict=True)]
    results = federation.open(request, reports)
    assert len(own) == parties
    np.testing.assert_array_equal(results[0].total - np.sum(words, axis=0), np.sum(own, axis=0))
    for drawn in own:
        assert drawn[UPDATE] == 0
        assert drawn[:UPDATE].std() == pytest.approx(3000, rel=6 / (2 * UPDATE) ** 0.5)
        assert drawn[UPDATE + 1 :].std() == pytest.approx(700, rel=6 / (2 * METRICS) ** 0.5)
        assert abs(drawn[:UPDATE].mean()) < 6 * 3000 / UPDATE**0.5


def test_the_noise_of_the_opened_sum_has_the_variance_of_all_parties_together(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    words = [vector_of(number) for number in range(5)]
    total = np.sum(words, axis=0)
    noises = []
    for model in range(12):
        request = federation.request(model=model + 1, terms=replace(TERMS, update_noise=1.0))
        reports = [federation.report(site, word, request) for site, word in zip(federation.sites, words, strict=True)]
        noises.append((federation.open(request, reports)[0].total - total)[:UPDATE])
    drawn = np.concatenate(noises)
    assert abs(drawn.mean()) < 5 * (2 / len(drawn)) ** 0.5
    assert drawn.var() == pytest.approx(2, rel=5 * (2 / len(drawn)) ** 0.5)
    # The sum of two discrete Gaussians of variance 1, by their convolution.
    support = np.arange(-12, 13)
    single = np.exp(-(support**2) / 2)
    single /= single.sum()
    both = np.convolve(single, single)
    values = np.arange(-24, 25)
    expected = both * len(drawn)
    often = expected > 10
    found = np.array([(drawn == value).sum() for value in values[often]])
    square = float(((found - expected[often]) ** 2 / expected[often]).sum())
    degrees = int(often.sum()) - 1
    assert square < degrees + 5 * np.sqrt(2 * degrees) + 10


def test_the_two_noises_share_the_multipliers_budget() -> None:
    # A report of zeros instead moves the update by the clip and rounding, and the counts by their norm.
    for multiplier, clip, bits, words, length in ((1.3, 8.0, 16, 1000, 1700), (5.0, 0.5, 12, 0, 700)):
        update, metrics = noise_for(multiplier, clip, bits, words, length)
        moved = clip * 2**bits + words**0.5 / 2
        assert (moved / update) ** 2 + (4096 / metrics) ** 2 <= 1 / multiplier**2
        assert (moved / update) ** 2 + (4096 / metrics) ** 2 >= 0.999 / multiplier**2
