"""Terms of a sum: what cannot be is refused where it is made, and every field is bound to every report."""

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nescient_fl.lesion.counts import BINS
from nescient_fl.mpc.errors import BoundError, HeaderError, MpcError
from nescient_fl.mpc.norm_check import LARGEST_BOUND, NormBound
from nescient_fl.mpc.terms import Terms, binding, fraction_bits_for

TERMS = Terms(dimension=300, update_words=200, fraction_bits=12, clip=8.0, weight_max=512, minimum=3, update_noise=2.0)

OTHER: dict[str, Any] = {
    "dimension": 301,
    "update_words": 199,
    "fraction_bits": 11,
    "clip": 7.5,
    "weight_max": 256,
    "minimum": 4,
    "strict_membership": True,
    "update_noise": 2.5,
    "metrics_noise": 0.5,
}


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 200},
        {"dimension": 2**20 + 1},
        {"update_words": -1},
        {"fraction_bits": 17},
        {"fraction_bits": 5},
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"clip": 1e9},
        {"weight_max": 0},
        {"weight_max": 500},
        {"weight_max": 2**20},
        {"minimum": 1},
        {"update_noise": -1.0},
        {"update_noise": float("nan")},
        {"update_noise": float("inf")},
        {"metrics_noise": 2.0**45},
    ],
    ids=str,
)
def test_terms_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(BoundError):
        replace(TERMS, **change)


def test_every_field_is_tried() -> None:
    assert set(OTHER) == {field.name for field in fields(Terms)}


@pytest.mark.parametrize("field", OTHER)
def test_every_field_is_bound_to_the_report(field: str) -> None:
    assert binding("m" * 64, b"order", replace(TERMS, **{field: OTHER[field]})) != binding("m" * 64, b"order", TERMS)


def test_model_and_order_are_bound_to_the_report() -> None:
    bound = {
        binding("m" * 64, b"order", TERMS),
        binding("n" * 64, b"order", TERMS),
        binding("m" * 64, b"ordes", TERMS),
        binding("m" * 64, b"order\x1f", TERMS),
        binding("m" * 63, b"morder", TERMS),
    }
    assert len(bound) == 5
    assert binding("m" * 64, b"order", replace(TERMS)) in bound


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    words = draw(st.integers(0, 2**19))
    weight_max = 1 << draw(st.integers(0, 12))
    clip = draw(st.floats(1e-3, 100))
    try:
        bits = fraction_bits_for(clip, weight_max)
    except BoundError:
        assume(False)
    noise = st.floats(0, 2.0**44)
    return Terms(
        words + draw(st.integers(1, 2000)), words, bits, clip, weight_max, draw(st.integers(2, 99)),
        draw(st.booleans()), draw(noise), draw(noise),
    )  # fmt: skip


@given(terms())
def test_terms_come_back_as_they_were_sent_and_their_bound_can_be_checked(sent: Terms) -> None:
    assert Terms.from_json(sent.to_json()) == sent
    assert 1 <= sent.bound <= LARGEST_BOUND
    NormBound(sent.bound, sent.update_words, sent.weight_max)


@given(terms())
def test_the_bound_has_room_for_an_honest_report(sent: Terms) -> None:
    # The clipped, weighted update, rounded; three sums of 2^21, the weight, and counts of a million images in a bin.
    update = sent.clip * sent.weight_max * 2**sent.fraction_bits * (1 + 2.0**-20) + sent.update_words**0.5 / 2
    beside = (3 * 2.0**42 + sent.weight_max**2 + 2.0**40 * min(2 * BINS, 1)) ** 0.5
    assert (update * (sent.update_words > 0)) ** 2 + beside**2 <= sent.bound**2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(OTHER)), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(list(OTHER)), JSON)
def test_a_field_of_another_kind_is_refused(field: str, value: Any) -> None:
    values = asdict(TERMS) | {field: value}
    try:
        read = Terms.from_json(json.dumps(values))
    except MpcError:
        return
    assert asdict(read) == values
    assert {type(entry) for entry in asdict(read).values()} <= {int, float, bool}


@given(st.text() | JSON.map(json.dumps) | st.just("[" * 100_000) | st.just("{" * 100_000))
def test_text_that_is_no_terms_is_refused(text: str) -> None:
    with pytest.raises(HeaderError, match="cannot be read"):
        Terms.from_json(text)


@pytest.mark.parametrize(
    ("clip", "weight_max", "bits"), [(8.0, 512, 13), (8.0, 1, 16), (1.0, 1024, 15), (8.0, 2**16, 6), (108.0, 1, 16)]
)
def test_as_many_bits_of_fraction_as_the_norm_check_allows(clip: float, weight_max: int, bits: int) -> None:
    assert fraction_bits_for(clip, weight_max) == bits
    Terms(10, 5, bits, clip, weight_max, 3)
    if bits < 16:
        with pytest.raises(BoundError, match="unsound"):
            Terms(10, 5, bits + 1, clip, weight_max, 3)


def test_a_clip_that_leaves_no_precision_is_refused() -> None:
    with pytest.raises(BoundError, match=r"13\.6 at most"):
        fraction_bits_for(14.0, 2**16)


def test_a_sum_with_any_noise_is_private() -> None:
    assert TERMS.private
    assert not replace(TERMS, update_noise=0.0).private
    assert replace(TERMS, update_noise=0.0, metrics_noise=1.0).private
