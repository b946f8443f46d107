"""Comparisons, selection and changes of ring, on every pair of shares where there are few and at the edges else."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.mpc.inference.carry import Circuit, Joint, sign
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, BitProducts, BitTimesBit, BitTimesWord, Hand
from nescient_fl.mpc.inference.fixed_point import Words, draw_words, to_ring, to_signed, unpack_bits, word_type
from nescient_fl.mpc.inference.maximum import correlations as maximum_correlations
from nescient_fl.mpc.inference.maximum import largest
from nescient_fl.mpc.inference.plan import Lift, MaxPool, Relu
from nescient_fl.mpc.inference.rectify import correlations as rectify_correlations
from nescient_fl.mpc.inference.rectify import lift, rectify
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.randomness import fresh_seed, fresh_stream
from tests.mpc.in_memory import InMemoryExchange, run_parties

Part = Callable[[Wire, Hand], Words]


def together(correlations: Iterable[BitProducts | BitTimesBit | BitTimesWord], part: Part) -> list[Words]:
    """Deal, and run both parties' parts. Returns their shares of the result."""
    seeds = fresh_seed(), fresh_seed()
    dealing = Hand(MODEL_OWNER, seeds[0]), Hand(DATA_OWNER, seeds[1])
    corrections = b"".join(correlation.deal(*dealing) for correlation in correlations)

    def party(end: InMemoryExchange) -> Words:
        hand = Hand(end.rank, seeds[end.rank], corrections if end.rank == MODEL_OWNER else b"")
        result = part(Wire(end), hand)
        hand.finish()
        return result

    return run_parties(2, party)


def shared(values: Iterable[int], ring: int) -> list[Words]:
    whole = to_ring(np.array(list(values), np.int64), ring)
    mask = draw_words(fresh_stream(), whole.shape, ring)
    return [whole - mask, mask]


def signs(shares: list[Words], width: int) -> list[int]:
    circuit = Circuit(len(shares[0]), width)
    parts = together(circuit.correlations(), lambda wire, hand: sign(wire, hand, circuit, shares[hand.rank])[0])
    return [int(bit) for bit in unpack_bits(parts[0] ^ parts[1], len(shares[0]))]


@pytest.mark.parametrize("width", [3, 5])
def test_the_sign_is_right_for_every_pair_of_shares(width: int) -> None:
    every = np.arange(1 << width, dtype=np.uint32)
    pairs = [np.repeat(every, len(every)), np.tile(every, len(every))]
    negative = (pairs[0] + pairs[1]) >> (width - 1) & 1
    assert signs(pairs, width) == [int(bit) for bit in negative]


@pytest.mark.parametrize("width", [7, 9, 11, 21, 33, 35, 63])
def test_the_sign_is_right_at_the_edges(width: int) -> None:
    top = 1 << (width - 1)
    values = [0, 1, -1, 2, -2, top - 1, -top, top // 2, -top // 2, top // 2 - 1]
    for _ in range(8):
        assert signs(shared(values, width), width) == [int(value < 0) for value in values]


@given(st.sampled_from([9, 19, 31, 41]), st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=150))
@settings(max_examples=25, deadline=None)
def test_the_sign_of_any_numbers(width: int, numbers: list[int]) -> None:
    values = [number % (1 << width) - (1 << width - 1) for number in numbers]
    assert signs(shared(values, width), width) == [int(value < 0) for value in values]


@pytest.mark.parametrize("width", [2, 4, 1, -3])
def test_a_width_that_the_circuit_is_not_for_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        Circuit(5, width)


def test_rounds_grow_with_the_logarithm_of_the_width() -> None:
    assert [Circuit(1, width).rounds for width in (3, 9, 11, 33, 35)] == [1, 2, 3, 3, 4]


def test_a_joint_opens_each_input_once_and_needs_only_products_of_some_target() -> None:
    joint = Joint(2, lowest=True)
    assert (joint.inputs, joint.targets) == (2, (frozenset({0, 1}),))
    full = Joint(4, lowest=False)
    assert full.inputs == 7
    assert [len(target) for target in full.targets] == [4, 3, 2, 4]
    assert all(any(part <= target for target in full.targets) for part in full.products)


@given(st.lists(st.integers(-(2**20), 2**20 - 1), min_size=1, max_size=70))
@settings(max_examples=15, deadline=None)
def test_relu_into_a_larger_ring(values: list[int]) -> None:
    step = Relu("relu", 21, 48)
    shares = shared([*values, 0, -1, 1, 2**20 - 1, -(2**20)], 21)
    parts = together(
        rectify_correlations(step, len(shares[0])), lambda wire, hand: rectify(wire, hand, step, shares[hand.rank])
    )
    expected = np.maximum([*values, 0, -1, 1, 2**20 - 1, -(2**20)], 0)
    np.testing.assert_array_equal(to_signed(parts[0] + parts[1], 48), expected)


def test_a_lift_keeps_every_value_of_its_range() -> None:
    step = Lift("lift", 9, 64)
    values = np.arange(-(2**7), 2**7)
    shares = shared(values, 9)
    parts = together(
        rectify_correlations(step, len(values)), lambda wire, hand: lift(wire, hand, step, shares[hand.rank])
    )
    np.testing.assert_array_equal(to_signed(parts[0] + parts[1], 64), values)


@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((1, 5), (1, 1)), ((1, 1), (1, 1))])
def test_the_largest_of_every_window(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    step = MaxPool("pool", kernel, stride, 11)
    values = fresh_stream().below(1023, 2 * 3 * 7 * 9).reshape(2, 3, 7, 9) - 512
    rows = [
        [
            values[:, :, r : r + kernel[0], c : c + kernel[1]].max(axis=(2, 3))
            for c in range(0, 10 - kernel[1], stride[1])
        ]
        for r in range(0, 8 - kernel[0], stride[0])
    ]
    expected = np.array(rows).transpose(2, 3, 0, 1)
    shares = [part.reshape(values.shape) for part in shared(values.ravel(), 11)]
    windows = expected.size
    parts = together(
        maximum_correlations(step, windows, 11), lambda wire, hand: largest(wire, hand, step, shares[hand.rank], 11)
    )
    np.testing.assert_array_equal(to_signed(parts[0] + parts[1], 11), expected)


def test_what_a_party_shows_of_its_share_is_as_likely_1_as_0_whatever_the_share() -> None:
    circuit = Circuit(64 * 200, 21)
    shares = [np.zeros(circuit.count, word_type(21)), np.zeros(circuit.count, word_type(21))]
    seen: list[NDArray[np.uint8]] = []

    def part(wire: Wire, hand: Hand) -> Words:
        result, _ = sign(wire, hand, circuit, shares[hand.rank])
        session = wire._session
        assert isinstance(session, InMemoryExchange)
        seen.extend(np.unpackbits(np.frombuffer(message, np.uint8)) for message in session.sent)
        return result

    together(circuit.correlations(), part)
    assert len(seen) == 2 * circuit.rounds
    for bits in seen:
        assert abs(float(bits.mean()) - 0.5) < 6 * 0.5 / np.sqrt(len(bits))
