"""Secret streams, noise and the privacy ledger."""

import pickle
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.mpc.noise import discrete_gaussian
from nescient_fl.mpc.privacy import BudgetSpent, PrivacyBudget, PrivacyLedger, noise_multiplier_for
from nescient_fl.mpc.randomness import SecretStream, derive_key, fresh_seed, fresh_stream

SEED = bytes(range(32))


def test_the_stream_is_that_of_the_standard() -> None:
    # NIST SP 800-38A's AES-256 key; its block for a zero counter, from FIPS 197's cipher: E(k, 0).
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert SecretStream(key).take_bytes(16).hex() == "e568f68194cf76d6174d4cc04310a854"


def test_every_bit_of_the_seed_counts() -> None:
    streams = {SecretStream(SEED).take_bytes(32)}
    for bit in range(256):
        flipped = bytearray(SEED)
        flipped[bit // 8] ^= 1 << bit % 8
        streams.add(SecretStream(bytes(flipped)).take_bytes(32))
    assert len(streams) == 257


@settings(deadline=None)  # megabytes, on a machine that may be busy
@given(st.lists(st.integers(0, 5000) | st.sampled_from([1 << 20, (1 << 20) + 1]), max_size=5))
def test_pieces_follow_each_other_without_gap_or_overlap(sizes: list[int]) -> None:
    stream = SecretStream(SEED)
    pieces = b""
    for index, size in enumerate(sizes):
        if index % 2:
            pieces += stream.take_bytes(8 * size)
        else:
            pieces += stream.take_int64(size).astype("<i8").tobytes()
    assert pieces == SecretStream(SEED).take_bytes(8 * sum(sizes))


def test_a_tensor_is_filled_in_place_with_the_same_words() -> None:
    tensor = torch.zeros(3, 5, dtype=torch.int64)
    assert SecretStream(SEED).fill(tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), SecretStream(SEED).take_int64(3, 5))
    for bad in (torch.zeros(3), torch.zeros(4, 4, dtype=torch.int64).t()):
        with pytest.raises(ValueError, match="contiguous int64"):
            SecretStream(SEED).fill(bad)


def test_two_labels_and_two_seeds_give_two_keys() -> None:
    keys = {derive_key(SEED, b"a"), derive_key(SEED, b"b"), derive_key(SEED[::-1], b"a"), SEED}
    assert len(keys) == 4
    assert derive_key(SEED, b"a") == derive_key(SEED, b"a")


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 1000, 2**62, 3 * 2**60])
def test_integers_below_a_bound_are_in_range_and_even(bound: int) -> None:
    drawn = SecretStream(SEED).below(bound, 20_000)
    assert drawn.min() >= 0
    assert drawn.max() < bound
    assert drawn.mean() == pytest.approx((bound - 1) / 2, rel=0.03, abs=1e-9)


def test_bounds_that_cannot_be() -> None:
    for bound in (0, 2**62 + 1):
        with pytest.raises(ValueError, match="bound"):
            SecretStream(SEED).below(bound, 1)


def test_bits_are_bits() -> None:
    bits = SecretStream(SEED).take_bits(10_001)
    assert bits.shape == (10_001,)
    assert set(bits.tolist()) == {0, 1}
    assert bits.mean() == pytest.approx(0.5, abs=0.02)


def test_seeds_are_fresh_and_streams_show_nothing() -> None:
    assert fresh_seed() != fresh_seed()
    assert fresh_stream().take_bytes(16) != fresh_stream().take_bytes(16)
    assert SEED.hex() not in repr(SecretStream(SEED))
    with pytest.raises(TypeError):
        pickle.dumps(SecretStream(SEED))
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(b"short")


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


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), 2.0**41])
def test_noise_that_cannot_be(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(SecretStream(SEED), sigma, 1)


def test_the_ledger_is_dp_accountings_own_answer() -> None:
    budget = PrivacyBudget(8.0, 1e-5, 2.5)
    for sums in (1, 5, 17):
        accountant = RdpAccountant()
        for _ in range(sums):
            accountant.compose(dp_accounting.GaussianDpEvent(2.5))
        assert budget.spent(sums) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert budget.spent(0) == 0


def test_the_noise_is_just_enough_for_the_budget() -> None:
    multiplier = noise_multiplier_for(4.0, 1e-5, 10)
    assert 3.9 < PrivacyBudget(4.0, 1e-5, multiplier).spent(10) <= 4.0
    assert PrivacyBudget(4.0, 1e-5, multiplier).spent(11) > 4.0


def test_a_sum_is_paid_for_once_and_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    budget = PrivacyBudget(4.0, 1e-5, noise_multiplier_for(4.0, 1e-5, 2))
    ledger = PrivacyLedger(tmp_path / "privacy.jsonl", budget)
    first = ledger.charge("one")
    assert ledger.charge("one") == first
    # A resumed run reads what was spent from the file.
    resumed = PrivacyLedger(tmp_path / "privacy.jsonl", budget)
    assert resumed.epsilon == first < resumed.charge("two")
    before = (tmp_path / "privacy.jsonl").read_bytes()
    with pytest.raises(BudgetSpent, match="privacy budget is spent"):
        resumed.charge("three")
    assert (tmp_path / "privacy.jsonl").read_bytes() == before
    assert resumed.keys == ["one", "two"]


def test_a_damaged_ledger_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    path.write_text('{"sum": "one"')
    with pytest.raises(UserError, match="damaged"):
        PrivacyLedger(path, PrivacyBudget(1.0, 1e-5, 5.0)).charge("two")
