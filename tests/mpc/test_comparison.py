"""Comparisons on shares: the answers are those of integers, and what is opened on the way is uniform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.mpc.bit_slices import unpack
from nescient_fl.mpc.comparison import ANDS_PER_WORD, all_of, in_range, open_bits
from nescient_fl.mpc.crypten_bridge import crypten_party
from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.material import Material, MaterialRequest, deal
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.shares import expand, split
from tests.mpc.in_memory import InMemoryExchange, run_parties

Words = NDArray[np.int64]


def shares_of(values: Words, parties: int) -> list[Words]:
    shared = split(values, parties)
    return [*(expand(seed, len(values)) for seed in shared.seeds), shared.last]


def xor_shares(words: Words, parties: int) -> list[Words]:
    rest = [fresh_stream().take_int64(*words.shape) for _ in range(parties - 1)]
    return [*rest, np.bitwise_xor.reduce([words, *rest])]


def compared(values: Words, bits: Words, parties: int = 2) -> tuple[list[bool], list[InMemoryExchange]]:
    groups = len(values) // 64
    request = MaterialRequest(comparisons=64 * groups, ands=groups * ANDS_PER_WORD)
    blobs = deal(request, parties, fresh_stream())
    shares, ends = shares_of(values, parties), []

    def party(end: InMemoryExchange) -> list[bool]:
        ends.append(end)
        material = Material.from_blob(request, end.rank, parties, blobs[end.rank])
        with crypten_party(end, material):
            return unpack(open_bits(in_range(end.rank, shares[end.rank], bits, material))).astype(bool).tolist()

    answers = run_parties(parties, party)
    assert all(answer == answers[0] for answer in answers)
    return answers[0], sorted(ends, key=lambda end: end.rank)


@pytest.mark.parametrize("parties", [2, 3, 4])
@pytest.mark.parametrize("power", [0, 1, 30, 61, 62])
def test_the_edges_of_a_range(parties: int, power: int) -> None:
    edge = 2**power
    cases = [0, 1, edge - 1, edge, edge + 1, -1, -edge, 2**62, 2**63 - 1, -(2**63), -(2**62)]
    values = np.zeros(64, np.int64)
    values[: len(cases)] = cases
    answer, _ = compared(values, np.full(64, power), parties)
    assert answer == [0 <= int(value) < edge for value in values]


def test_what_is_opened_on_the_way_is_uniform_whatever_the_value() -> None:
    count = 64 * 100
    for value in (0, -1, 2**40):
        _, ends = compared(np.full(count, value), np.full(count, 20))
        masked = np.add.reduce([np.frombuffer(payload, "<i8") for payload in ends[0].seen[0]])
        assert len(masked) == count
        counts = np.bincount(masked.view(np.uint8), minlength=256)
        expected = 8 * count / 256
        # Chi-square with 255 degrees of freedom exceeds 420 once in 10^9.
        assert ((counts - expected) ** 2 / expected).sum() < 420
        for exchange in ends[0].seen[1:7]:  # six levels of the tree: masked factors
            opened = np.bitwise_xor.reduce([np.frombuffer(payload, "<i8") for payload in exchange])
            ones = np.unpackbits(opened.view(np.uint8)).mean()
            assert abs(ones - 0.5) < 6 / (2 * (64 * len(opened)) ** 0.5)


def test_one_comparison_more_than_was_dealt_for_is_refused() -> None:
    request = MaterialRequest(comparisons=64, ands=ANDS_PER_WORD)
    blobs = deal(request, 2, fresh_stream())

    def party(end: InMemoryExchange) -> None:
        material = Material.from_blob(request, end.rank, 2, blobs[end.rank])
        with crypten_party(end, material):
            in_range(end.rank, np.zeros(64, np.int64), np.full(64, 5), material)
            in_range(end.rank, np.zeros(64, np.int64), np.full(64, 5), material)

    with pytest.raises(MaterialError, match="used up"):
        run_parties(2, party)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(2, 3), st.integers(0, 2**32))
def test_all_of_is_the_and_of_all(rows: int, parties: int, seed: int) -> None:
    # Mostly ones, or the product would be nothing but zeros.
    drawn = np.random.default_rng(seed).random((rows, 128)) < 0.8
    words = np.packbits(drawn, axis=1, bitorder="little").view("<i8").astype(np.int64)
    shares = xor_shares(words, parties)
    request = MaterialRequest(ands=(rows - 1) * 2)
    blobs = deal(request, parties, fresh_stream())

    def party(end: InMemoryExchange) -> Words:
        material = Material.from_blob(request, end.rank, parties, blobs[end.rank])
        with crypten_party(end, material):
            return open_bits(all_of(shares[end.rank]))

    for answer in run_parties(parties, party):
        np.testing.assert_array_equal(answer, np.bitwise_and.reduce(words, axis=0))
