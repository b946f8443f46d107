"""Correlated randomness: right, different every time, good once, and useless in parts."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.material import Material, MaterialRequest, deal
from nescient_fl.mpc.randomness import fresh_stream

REQUEST = MaterialRequest(squares=(2, 5), comparisons=64, ands=7)
REQUESTS = st.builds(
    MaterialRequest,
    squares=st.tuples(st.integers(0, 4), st.integers(0, 6)),
    comparisons=st.integers(0, 2).map(lambda groups: 64 * groups),
    ands=st.integers(0, 9),
)


@settings(max_examples=30)
@given(REQUESTS, st.integers(2, 4))
def test_only_the_last_party_gets_more_than_a_seed(request: MaterialRequest, parties: int) -> None:
    blobs = deal(request, parties, fresh_stream())
    corrections = request.squares[0] + request.comparisons + request.ands
    assert [len(blob) for blob in blobs] == [32] * (parties - 1) + [32 + 8 * corrections]
    for rank, blob in enumerate(blobs):
        Material.from_blob(request, rank, parties, blob)


@given(REQUESTS)
def test_a_request_comes_back(request: MaterialRequest) -> None:
    assert MaterialRequest.from_json(request.to_json()) == request


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["squares", "comparisons", "ands", "more"]), JSON)
def test_a_request_of_another_kind_is_refused_or_comes_back(field: str, value: Any) -> None:
    values = json.loads(REQUEST.to_json()) | {field: value}
    try:
        read = MaterialRequest.from_json(json.dumps(values))
    except MaterialError:
        return
    assert json.loads(read.to_json()) == values


@given(st.text() | JSON.map(json.dumps) | st.just("[" * 100_000))
def test_text_that_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(MaterialError):
        MaterialRequest.from_json(text)


def test_two_dealings_have_nothing_in_common() -> None:
    first, second = (deal(REQUEST, 2, fresh_stream()) for _ in range(2))
    assert first[0] != second[0]
    one, other = (np.frombuffer(blobs[1], "<i8") for blobs in (first, second))
    assert (one == other).sum() == 0


def test_corrections_are_uniform_so_the_last_party_learns_nothing_of_the_others() -> None:
    request = MaterialRequest(squares=(500, 8), comparisons=64 * 20, ands=4000)
    corrections = np.frombuffer(deal(request, 2, fresh_stream())[1][32:], np.uint8)
    counts = np.bincount(corrections, minlength=256)
    expected = len(corrections) / 256
    # Chi-square with 255 degrees of freedom exceeds 420 once in 10^9.
    assert ((counts - expected) ** 2 / expected).sum() < 420


def test_a_changed_part_spoils_what_it_gives() -> None:
    # Semi-honest: nothing notices a dealer that lies; the answers are wrong, not other people's data.
    blobs = deal(REQUEST, 2, fresh_stream())
    spoilt = bytes([blobs[0][0] ^ 1]) + blobs[0][1:]
    held = [Material.from_blob(REQUEST, rank, 2, blob) for rank, blob in enumerate([spoilt, blobs[1]])]
    squares = [material.take_squares(2) for material in held]
    masks = squares[0][0] + squares[1][0]
    assert not np.array_equal(np.square(masks).sum(axis=1), squares[0][1] + squares[1][1])


def test_material_shows_nothing_of_itself() -> None:
    blob = deal(REQUEST, 2, fresh_stream())[0]
    material = Material.from_blob(REQUEST, 0, 2, blob)
    assert blob.hex() not in repr(material)
    assert str(int(material.take_squares(1)[0][0, 0])) not in repr(material)


@pytest.mark.parametrize(
    "sizes", [((3,), (4,)), ((2, 2), (4,)), ((8,), (8,))], ids=["of two shapes", "of two ranks", "of too many"]
)
def test_triples_that_were_not_asked_for_are_refused(sizes: Any) -> None:
    material = Material.from_blob(REQUEST, 0, 2, deal(REQUEST, 2, fresh_stream())[0])
    with pytest.raises(MaterialError):
        material.generate_binary_triple(*sizes)


def test_comparisons_come_by_the_64() -> None:
    material = Material.from_blob(REQUEST, 0, 2, deal(REQUEST, 2, fresh_stream())[0])
    with pytest.raises(MaterialError, match="groups of 64"):
        material.take_comparisons(63)
