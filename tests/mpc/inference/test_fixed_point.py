"""Rings, what is sent of them, truncation, and exact products by floating point."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.mpc.errors import EncodingError, SessionAborted
from nescient_fl.mpc.inference.fixed_point import (
    bit_planes,
    draw_words,
    encode_integers,
    from_wire,
    shift_share,
    to_ring,
    to_signed,
    to_wire,
    unpack_bits,
    word_type,
)
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.windows import cells, patches
from nescient_fl.mpc.randomness import fresh_stream


@given(st.integers(1, 64), st.integers(-(2**63), 2**63 - 1))
def test_an_integer_comes_back_from_any_ring_that_holds_it(bits: int, number: int) -> None:
    value = number % (1 << bits) - (1 << bits - 1)
    assert int(to_signed(to_ring(np.array([value], np.int64), bits), bits)[0]) == value


@pytest.mark.parametrize("bits", [1, 8, 21, 24, 32, 33, 40, 64])
def test_words_travel_in_as_few_bytes_as_their_ring_needs(bits: int) -> None:
    words = draw_words(fresh_stream(), (3, 50), bits)
    payload = to_wire(words, bits)
    assert len(payload) == 150 * -(-bits // 8)
    np.testing.assert_array_equal(to_signed(from_wire(payload, (3, 50), bits), bits), to_signed(words, bits))
    with pytest.raises(SessionAborted, match="belong"):
        from_wire(payload[:-1], (3, 50), bits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**51])
def test_what_no_ring_holds_is_refused(value: float) -> None:
    with pytest.raises(EncodingError, match="finite"):
        encode_integers(np.array([0.0, value]), 12)


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_rings_have_from_1_to_64_bits(bits: int) -> None:
    with pytest.raises(EncodingError, match="bits"):
        word_type(bits)


@given(
    st.sampled_from([(32, 10, 22), (40, 18, 21), (48, 16, 32), (64, 20, 44), (64, 63, 1), (24, 3, 9)]),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
)
@settings(deadline=None)
def test_cutting_shares_loses_the_carry_and_never_wraps(sizes: tuple[int, int, int], numbers: list[int]) -> None:
    ring, shift, bits = sizes
    # Values whose rest fits the smaller ring, at both of its ends too.
    half = 1 << (shift + bits - 1)
    values = [number % (2 * half) - half for number in [*numbers, 0, -1, half - 1, half]]
    whole = to_ring(np.array(values, np.int64), ring)
    mask = draw_words(fresh_stream(), whole.shape, ring)
    low = (1 << shift) - 1
    carries = [int((int(a) & low) + (int(b) & low) > low) for a, b in zip(whole - mask, mask, strict=True)]
    cut = shift_share(whole - mask, ring, shift, bits) + shift_share(mask, ring, shift, bits)
    expected = [((value >> shift) - carry) % (1 << bits) for value, carry in zip(values, carries, strict=True)]
    assert [int(word) % (1 << bits) for word in cut] == expected


def test_cutting_more_than_there_is_fails() -> None:
    with pytest.raises(EncodingError, match="do not leave"):
        shift_share(np.zeros(1, np.uint32), 32, 10, 23)


def test_bit_planes_by_hand() -> None:
    planes = bit_planes(np.array([1, 2, 7, 8], np.uint32), 1, 3)
    assert planes.shape == (3, 1)
    assert [unpack_bits(plane, 4).tolist() for plane in planes] == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("bits", [24, 32, 40, 64])
@pytest.mark.parametrize("signed", [None, 10, 18, 30])
def test_products_are_exact_in_the_ring(bits: int, signed: int | None) -> None:
    stream = fresh_stream()
    values = draw_words(stream, (3, 2, 9, 8), bits)
    if signed is None:
        weights = draw_words(stream, (5, 24), bits)
    else:
        weights = stream.below(2**signed - 1, 5 * 24).reshape(5, 24) - 2 ** (signed - 1) + 1
    _check_product(weights, values, bits, signed)


@pytest.mark.parametrize("bits", [24, 32, 40, 54, 64])
@pytest.mark.parametrize("signed", [None, 10, 18, 30])
def test_products_of_the_largest_words_are_exact(bits: int, signed: int | None) -> None:
    values = np.full((1, 2, 9, 8), (1 << bits) - 1, word_type(bits))
    weights = np.full((5, 24), 2 ** (signed - 1) - 1) if signed else np.full((5, 24), (1 << bits) - 1, np.uint64)
    _check_product(weights, values, bits, signed)
    if signed:
        _check_product(-weights, values, bits, signed)


def _check_product(weights: NDArray[Any], values: NDArray[Any], bits: int, signed: int | None) -> None:
    found = RingMatrix(weights, bits, signed).times_windows(values, (4, 3), (2, 1))
    columns = patches(values, (4, 3), (2, 1))
    expected = [
        [sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) % (1 << bits) for column in columns.T]
        for row in weights
    ]
    assert [[int(word) % (1 << bits) for word in row] for row in found] == expected


def test_windows_by_hand() -> None:
    values = np.arange(12).reshape(1, 1, 3, 4)
    assert patches(values, (2, 2), (1, 2)).T.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [4, 5, 8, 9], [6, 7, 10, 11]]
    assert cells(values, (2, 2), (1, 2))[:, 0, 0, 1, 1].tolist() == [6, 7, 10, 11]
