"""Fixed point and additive shares: exact, uniform, and never the same twice."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nescient_fl.mpc.errors import EncodingError
from nescient_fl.mpc.shares import Split, decode, encode, expand, join, split

Words = NDArray[np.int64]


@given(arrays(np.int64, st.integers(0, 40)), st.integers(2, 5))
def test_shares_add_up_to_the_secret(secret: Words, parties: int) -> None:
    shared = split(secret, parties)
    assert len(shared.seeds) == parties - 1
    np.testing.assert_array_equal(join([*(expand(s, len(secret)) for s in shared.seeds), shared.last]), secret)


def test_the_shares_of_one_secret_are_uniform_and_never_the_same() -> None:
    first, second = split(np.full(20_000, 7), 2), split(np.full(20_000, 7), 2)
    assert first.seeds != second.seeds
    for words in (first.last, expand(first.seeds[0], 20_000)):
        counts = np.bincount(words.view(np.uint8), minlength=256)
        # Chi-square with 255 degrees of freedom exceeds 420 once in 10^9.
        assert ((counts - 625.0) ** 2 / 625).sum() < 420


def test_fixed_point_by_hand() -> None:
    np.testing.assert_array_equal(encode(np.array([1.5, -0.25, 0.0]), 2), [6, -1, 0])
    np.testing.assert_array_equal(decode(np.array([6, -1, 0]), 2), [1.5, -0.25, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**46, -(2.0**46)])
def test_what_the_ring_cannot_hold_is_refused(bad: float) -> None:
    with pytest.raises(EncodingError):
        encode(np.array([0.0, bad]), 16)


def test_a_secret_is_not_shared_with_one_party() -> None:
    with pytest.raises(ValueError, match="two parties"):
        split(np.zeros(3, np.int64), 1)

    with pytest.raises(ValueError, match="two parties"):
        split(np.zeros(3, np.int64), 0)


def test_the_secret_itself_stays_as_it_was() -> None:
    secret = np.arange(9)
    split(secret, 3)
    np.testing.assert_array_equal(secret, np.arange(9))


@given(st.integers(6, 16), arrays(np.float64, 7, elements=st.floats(-1e6, 1e6)))
def test_what_is_encoded_comes_back_to_half_a_unit(bits: int, values: NDArray[np.float64]) -> None:
    back = decode(encode(values, bits), bits)
    assert np.abs(back - values).max() <= 2.0 ** -(bits + 1) * (1 + 1e-9)


@given(st.lists(arrays(np.float64, 5, elements=st.floats(-100, 100)), min_size=2, max_size=6))
def test_the_sum_of_codes_is_the_code_of_the_sum_but_for_rounding(values: list[NDArray[np.float64]]) -> None:
    total = decode(join([encode(value, 16) for value in values]), 16)
    assert np.abs(total - np.sum(values, axis=0)).max() <= len(values) * 2.0**-17 * (1 + 1e-9) + 1e-9


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(6, 16))
def test_every_float_is_encoded_well_or_refused_without_being_shown(value: float, bits: int) -> None:
    if abs(value) * 2**bits < 2**62 - 512:
        assert abs(int(encode(np.array([value]), bits)[0]) - value * 2**bits) <= 0.5
    else:
        with pytest.raises(EncodingError) as refused:
            encode(np.array([value]), bits)
        assert repr(value) not in str(refused.value)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 50))
def test_a_seed_stands_for_the_keystream_of_the_cipher(seed: bytes, count: int) -> None:
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    np.testing.assert_array_equal(expand(seed, count), np.frombuffer(stream, "<i8"))


def test_shares_do_not_show_themselves() -> None:
    shared = split(np.arange(4), 2)
    assert isinstance(shared, Split)
    assert shared.seeds[0].hex() not in repr(shared)
    assert str(int(shared.last[0])) not in repr(shared)
    assert repr(shared.seeds[0]) not in repr(shared)


def test_any_parties_but_one_hold_nothing_of_the_secret() -> None:
    # Two secrets that could not differ more; what the last of three parties holds, with another's share, is as
    # uniform for the one as for the other.
    count = 20_000
    for secret in (np.zeros(count, np.int64), np.full(count, -(2**63))):
        shared = split(secret, 3)
        seen = shared.last + expand(shared.seeds[0], count)
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        assert ((counts - 625.0) ** 2 / 625).sum() < 420
