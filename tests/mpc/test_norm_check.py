"""The norm check: honest reports pass, and nothing else, however its words wrap around."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nescient_fl.mpc.bit_slices import bit_planes, pack, unpack
from nescient_fl.mpc.comparison import ANDS_PER_WORD, in_range, open_bits
from nescient_fl.mpc.crypten_bridge import crypten_party
from nescient_fl.mpc.errors import BoundError, MaterialError, SessionAborted
from nescient_fl.mpc.material import Material, MaterialRequest, deal
from nescient_fl.mpc.norm_check import (
    LARGEST_BOUND,
    NormBound,
    check_norms,
    draw_sketch,
    material_for,
    project,
    sketch,
    toss_coins,
)
from nescient_fl.mpc.randomness import SecretStream, fresh_stream
from nescient_fl.mpc.shares import expand, split
from tests.mpc.in_memory import InMemoryExchange, run_parties

Words = NDArray[np.int64]

BOUND, LENGTH, WEIGHT_MAX = 2**24, 2001, 1024
WEIGHT = LENGTH - 1


def words_of(stream: SecretStream, *shape: int) -> Words:
    return stream.take_int64(*shape)


def honest(count: int, norm: float = 0.99 * BOUND, seed: int = 1) -> Words:
    """Return reports of a norm and of different shapes: dense, sparse, and one coordinate alone."""
    stream = SecretStream(bytes([seed]) * 32)
    reports = []
    for number in range(count):
        values = words_of(stream, LENGTH).astype(np.float64)
        if number % 3 == 1:
            values[20:] = 0
        if number % 3 == 2:
            values[1:] = 0
        values[WEIGHT] = 0
        reports.append(np.rint(values * (norm / np.linalg.norm(values))).astype(np.int64))
        reports[-1][WEIGHT] = 1 + number % WEIGHT_MAX
    return np.stack(reports)


def checked(reports: Words, parties: int = 2) -> list[bool]:
    request = material_for(len(reports))
    blobs = deal(request, parties, fresh_stream())
    shared = [split(report, parties) for report in reports]
    shares = [np.stack([expand(s.seeds[rank], LENGTH) for s in shared]) for rank in range(parties - 1)]
    shares.append(np.stack([s.last for s in shared]))

    def party(end: InMemoryExchange) -> list[bool]:
        material = Material.from_blob(request, end.rank, parties, blobs[end.rank])
        with crypten_party(end, material):
            bound = NormBound(BOUND, WEIGHT, WEIGHT_MAX)
            return check_norms(end, shares[end.rank], bound, material).tolist()

    answers = run_parties(parties, party)
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


@pytest.mark.parametrize("parties", [2, 3])
def test_honest_reports_of_every_shape_pass(parties: int) -> None:
    assert checked(honest(66), parties) == [True] * 66


def wrapping_squares() -> Words:
    """Return words whose squares add up to a multiple of 2^64: four coordinates of 2^31."""
    report = honest(1)[0]
    report[:WEIGHT] = 0
    report[:4] = 2**31
    return report


def changed(index: Any, value: Any) -> Words:
    report = honest(1)[0]
    report[index] = value
    return report


@pytest.mark.parametrize(
    "report",
    [
        np.concatenate([(honest(1)[0][:WEIGHT] * 2.5).astype(np.int64), [7]]),
        np.concatenate([honest(1)[0][:WEIGHT] * 100, [7]]),
        changed(5, -(2**63)),
        changed([5, 77], -(2**63)),
        changed(slice(0, 2000), -(2**63)),
        changed(5, 2**62),
        changed(5, 2**32),
        changed([3, 4], [2**40, -(2**40)]),
        wrapping_squares(),
        np.concatenate([words_of(SecretStream(b"g" * 32), WEIGHT), [7]]),
        changed(WEIGHT, 0),
        changed(WEIGHT, -1),
        changed(WEIGHT, WEIGHT_MAX + 1),
        changed(WEIGHT, -(2**63)),
    ],
    ids=["x2.5", "x100", "2^63", "two 2^63", "all 2^63", "2^62", "2^32", "cancelling", "squares wrap", "garbage"]
    + ["weight 0", "weight -1", "weight + 1", "weight -2^63"],
)
def test_a_dishonest_report_is_refused_and_its_neighbours_are_not(report: Words) -> None:
    reports = honest(4)
    reports[1] = report
    assert checked(reports) == [True, False, True, True]


def test_the_wrapping_example_really_wraps() -> None:
    assert int(np.square(wrapping_squares()[:WEIGHT]).sum(dtype=np.int64)) == 0


def test_the_largest_weight_is_still_honest() -> None:
    assert checked(changed(WEIGHT, WEIGHT_MAX)[None]) == [True]


@given(arrays(np.int64, (3, 40)), arrays(np.int64, (40, 5), elements=st.integers(-1, 1)))
def test_projections_are_exact_modulo_two_to_the_64(vectors: Words, coefficients: Words) -> None:
    np.testing.assert_array_equal(project(vectors, coefficients.astype(np.float64)), vectors @ coefficients)


def test_a_sketch_is_linear_and_keeps_every_coordinate() -> None:
    coins = SecretStream(b"s" * 32)
    buckets, signs = draw_sketch(coins, 500, 64)
    vectors = coins.take_int64(2, 500)
    by_hand = np.zeros((2, 64), np.int64)
    for place in range(500):
        by_hand[:, buckets[place]] += signs[place] * vectors[:, place]
    other = draw_sketch(coins, 500, 64)
    np.testing.assert_array_equal(sketch(vectors, [other, (buckets, signs)], 64)[1], by_hand)
    summed = sketch([vectors[0] + vectors[1]], [(buckets, signs)], 64)[0]
    np.testing.assert_array_equal(summed, by_hand[:1] + by_hand[1:])


def test_at_most_one_place_hides_a_coordinate_that_is_too_large() -> None:
    # The lemma of docs/security.md: others fixed, a coordinate beyond 4A leaves all buckets within 2A in one
    # bucket at most.
    limit = 2**20
    others = np.zeros(16, np.int64)
    others[3] = -(4 * limit + 5)
    hidden = 0
    for bucket in range(16):
        for sign in (-1, 1):
            placed = others.copy()
            placed[bucket] += sign * (4 * limit + 5)
            hidden += bool((np.abs(placed) <= 2 * limit).all())
    assert hidden == 1


@pytest.mark.parametrize("bound", [0, LARGEST_BOUND + 1])
def test_bounds_under_which_the_check_proves_nothing_are_refused(bound: int) -> None:
    with pytest.raises(BoundError):
        NormBound(bound, 0, 1)
    with pytest.raises(BoundError, match="power of two"):
        NormBound(5, 0, 3)


def test_coins_of_who_changes_its_mind_are_refused() -> None:
    def party(end: InMemoryExchange) -> bytes:
        if end.rank == 0:
            return toss_coins(end)
        end.exchange(b"\0" * 32)
        end.exchange(b"\1" * 32)
        return b""

    with pytest.raises(SessionAborted, match="rank 1 changed its coins"):
        run_parties(2, party)


def range_checked(values: list[int], bits: list[int], parties: int) -> list[bool]:
    padded = np.zeros(-(-len(values) // 64) * 64, np.int64)
    padded[: len(values)] = np.array(values, np.int64)
    each = np.zeros(len(padded), np.int64)
    each[: len(values)] = bits
    groups = len(padded) // 64
    request = MaterialRequest(comparisons=64 * groups, ands=groups * ANDS_PER_WORD)
    blobs = deal(request, parties, fresh_stream())
    shared = split(padded, parties)
    shares = [*(expand(seed, len(padded)) for seed in shared.seeds), shared.last]

    def party(end: InMemoryExchange) -> list[bool]:
        material = Material.from_blob(request, end.rank, parties, blobs[end.rank])
        with crypten_party(end, material):
            answer = open_bits(in_range(end.rank, shares[end.rank], each, material))
        assert len(end.seen) == 8  # one opening, six levels, the answer
        return unpack(answer)[: len(values)].astype(bool).tolist()

    return run_parties(parties, party)[0]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 62), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)),
        min_size=1,
        max_size=20,
    ),
    st.integers(2, 3),
)
def test_the_range_gate_is_comparison_of_integers(cases: list[tuple[int, int]], parties: int) -> None:
    values, bits = [], []
    for power, value in cases:
        edge = 2**power
        for near in (value, edge - 1, edge, -1, 0, -edge):
            values.append((near + 2**63) % 2**64 - 2**63)
            bits.append(power)
    expected = [0 <= value < 2**power for value, power in zip(values, bits, strict=True)]
    assert range_checked(values, bits, parties) == expected


@given(arrays(np.int64, 128))
def test_bits_side_by_side_come_back(values: Words) -> None:
    planes = bit_planes(values)
    assert planes.shape == (64, 2)
    rebuilt = np.zeros(128, np.uint64)
    for place in range(64):
        rebuilt |= unpack(planes[place]).astype(np.uint64) << np.uint64(place)
    np.testing.assert_array_equal(rebuilt.view(np.int64), values)
    with pytest.raises(ValueError, match="groups of 64"):
        pack(np.zeros(63, np.uint8))


@pytest.mark.parametrize("parties", [2, 3])
def test_the_dealers_material_is_what_it_claims(parties: int) -> None:
    request = MaterialRequest(squares=(2, 5), comparisons=64, ands=7)
    blobs = deal(request, parties, fresh_stream())
    assert [len(blob) for blob in blobs[:-1]] == [32] * (parties - 1)
    held = [Material.from_blob(request, rank, parties, blob) for rank, blob in enumerate(blobs)]
    squares = [material.take_squares(2) for material in held]
    masks = sum(mask for mask, _ in squares)
    np.testing.assert_array_equal(np.square(masks).sum(axis=1), sum(total for _, total in squares))
    words = [material.take_comparisons(64) for material in held]
    planes = np.bitwise_xor.reduce([bits for _, bits in words])
    np.testing.assert_array_equal(planes, bit_planes(np.add.reduce([word for word, _ in words])))
    triples = [material.generate_binary_triple((7,), (7,)) for material in held]
    a, b, c = (np.bitwise_xor.reduce([triple[part].share.numpy() for triple in triples]) for part in range(3))
    np.testing.assert_array_equal(a & b, c)


def test_material_is_handed_out_once() -> None:
    request = MaterialRequest(squares=(1, 2), comparisons=64, ands=3)
    material = Material.from_blob(request, 0, 2, deal(request, 2, fresh_stream())[0])
    material.take_squares(1)
    material.take_comparisons(64)
    material.generate_binary_triple((2,), (2,))
    for take in (
        lambda: material.take_squares(1),
        lambda: material.take_comparisons(64),
        lambda: material.generate_binary_triple((2,), (2,)),
    ):
        with pytest.raises(MaterialError, match="used up"):
            take()


@pytest.mark.parametrize("cut", [-1, 1])
def test_material_of_another_length_is_refused(cut: int) -> None:
    request = MaterialRequest(ands=3)
    blob = deal(request, 2, fresh_stream())[1]
    with pytest.raises(MaterialError, match="not what was asked for"):
        Material.from_blob(request, 1, 2, blob[:cut] if cut < 0 else blob + b"x")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"squares": [1], "comparisons": 0, "ands": 0}', '{"squares":[0,0],"comparisons":1,"ands":0}']
    + ['{"squares":[0,0],"comparisons":0,"ands":1e3}', '{"squares":[0,0],"comparisons":0,"ands":9999999999}'],
)
def test_requests_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(MaterialError):
        MaterialRequest.from_json(text)
