"""The dealer's material: used once, bound to its plan, delivery and number, and checked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.inference.agreement import _parse
from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, Hand
from nescient_fl.mpc.inference.evaluate import correlations, deal
from nescient_fl.mpc.inference.material import Delivery, Material, deal_batch, new_delivery
from nescient_fl.mpc.inference.owners import run_data_owner, run_model_owner
from nescient_fl.mpc.randomness import fresh_seed, fresh_stream
from tests.mpc.in_memory import InMemoryExchange, run_parties
from tests.mpc.inference.networks import SMALL, Dealt, dealt, score, smooth, two_convolutions

NETWORK, INPUTS = two_convolutions(), smooth(4, SMALL)
PLAN, WEIGHTS = compile_network(NETWORK, SMALL, INPUTS)


def batch(number: int = 0, images: int = 2) -> tuple[Material, Material]:
    delivery, seed = new_delivery(PLAN, images, 8, fresh_stream())
    return deal_batch(PLAN, delivery, seed, number, fresh_stream())


def test_the_data_owner_gets_a_seed_and_the_model_owner_the_corrections() -> None:
    model_owner, data_owner = batch()
    assert len(data_owner.open()[1]) == 0
    assert len(model_owner.open()[1]) > 1000


def test_both_hands_take_exactly_what_was_dealt() -> None:
    seeds = fresh_seed(), fresh_seed()
    corrections = b"".join(deal(PLAN, 3, fresh_seed(), seeds))

    def take(given: bytes) -> None:
        hand = Hand(MODEL_OWNER, seeds[0], given)
        for correlation in correlations(PLAN, 3):
            correlation.take(hand)
        hand.finish()

    take(corrections)
    with pytest.raises(MaterialError, match="longer"):
        take(corrections + b"\0")
    with pytest.raises(MaterialError, match="shorter"):
        take(corrections[:-1])


def test_corrections_are_uniform_to_who_does_not_know_the_other_seed() -> None:
    # The masks of the weights are fixed; the corrections hide them behind the data owner's stream.
    seed = fresh_seed()
    corrections = np.frombuffer(b"".join(deal(PLAN, 40, seed, (fresh_seed(), fresh_seed()))), np.uint8)
    counts = np.bincount(corrections, minlength=256)
    expected = len(corrections) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 400  # 255 degrees of freedom: 6 sigma


def test_material_comes_back_from_its_bytes() -> None:
    for material in batch(number=7):
        again = Material.from_bytes(material.to_bytes())
        assert (again.delivery, again.number, again.rank) == (material.delivery, 7, material.rank)
        assert again.open() == material.open()


def test_material_opens_once() -> None:
    material, _ = batch()
    material.hand()
    with pytest.raises(MaterialError, match="used before"):
        material.hand()


def test_no_byte_of_material_can_change() -> None:
    for blob in (material.to_bytes() for material in batch()):
        start = blob.index(b"\n", 40) + 1
        for place in (0, 5, start + 3, start + 31, len(blob) - 1):
            damaged = bytearray(blob)
            damaged[place] ^= 1
            with pytest.raises(MaterialError):
                Material.from_bytes(bytes(damaged))
        with pytest.raises(MaterialError):
            Material.from_bytes(blob[:-1])


@given(st.binary(max_size=300))
def test_bytes_that_are_no_material_are_refused(blob: bytes) -> None:
    for whole in (blob, b"nescient inference material 2\n" + blob):
        with pytest.raises(MaterialError):
            Material.from_bytes(whole)


@pytest.mark.parametrize("name", ["", "xyz", "ab" * 15, "../" * 10 + "ab", "AB" * 16])
def test_a_delivery_has_a_name_that_is_no_path(name: str) -> None:
    with pytest.raises(MaterialError, match="hexadecimal"):
        Delivery(name, "ab" * 32, 4, 1)


@pytest.mark.parametrize("images", [0, -1, 1025, True, 2.0])
def test_a_batch_has_a_size(images: Any) -> None:
    with pytest.raises(MaterialError, match="images"):
        Delivery("ab" * 16, "ab" * 32, images, 1)


@pytest.mark.parametrize("batches", [0, -1, (1 << 20) + 1, True, 2.0, None])
def test_a_delivery_has_a_number_of_batches(batches: Any) -> None:
    with pytest.raises(MaterialError, match="batches"):
        Delivery("ab" * 16, "ab" * 32, 2, batches)


def spoiled(made: Dealt, number: int, place: float | None) -> None:
    """Replace a batch by one of which a correction is wrong, or one too many (2), or the data owner's seed (None)."""
    for source in made.sources:
        source._batches.pop(number)
    delivery = made.sources[0].delivery
    good, other = deal_batch(made.plan, delivery, made.mask_seed, number, fresh_stream())
    seed, corrections = good.open()
    changed = bytearray(corrections)
    if place == 2.0:
        changed.append(0)
    elif place is None:
        other = Material(delivery, number, DATA_OWNER, fresh_seed())
    else:
        changed[int(place * (len(changed) - 1))] ^= 1
    made.sources[MODEL_OWNER].add(Material(delivery, number, MODEL_OWNER, seed + bytes(changed)))
    made.sources[DATA_OWNER].add(other)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0, 2.0, None])
def test_a_dealer_whose_batches_do_not_fit_is_found_out_before_anything_is_masked(place: float | None) -> None:
    made = dealt(NETWORK, INPUTS, 2, 3)
    for number in range(3):
        spoiled(made, number, place)
    ends: dict[int, InMemoryExchange] = {}
    errors: dict[int, MaterialError] = {}

    def party(end: InMemoryExchange) -> None:
        ends[end.rank] = end
        try:
            if end.rank == MODEL_OWNER:
                run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], 1)
            else:
                run_data_owner(end, made.plan, INPUTS, made.sources[DATA_OWNER], 1)
        except MaterialError as error:
            errors[end.rank] = error

    run_parties(2, party)
    assert all("does not fit together" in str(errors[rank]) for rank in (MODEL_OWNER, DATA_OWNER))
    # Greeting, two of the coins, seed and verdict: no masked weight and no masked input was shown.
    assert [len(end.sent) for end in ends.values()] == [5, 5]
    assert max(len(message) for message in ends[MODEL_OWNER].sent[1:]) <= 32


def test_one_spoiled_batch_is_found_out_when_it_is_chosen() -> None:
    found = 0
    for _ in range(12):
        made = dealt(NETWORK, INPUTS, 2, 2)
        spoiled(made, 1, 0.3)
        try:
            score(made, INPUTS[:2], sacrifice=1)
        except MaterialError:
            found += 1
    # It is one of two: all or none would each come once in 4096 times.
    assert 0 < found < 12


def test_one_spoiled_batch_is_always_found_out_by_scoring_every_image_twice() -> None:
    made = dealt(NETWORK, INPUTS, 2, 4)
    batch = made.sources[MODEL_OWNER]._batches[2]
    seed, corrections = batch.open()
    # What comes last are the shares of the last layer's products: one logit of one image becomes 1 larger.
    words = np.frombuffer(corrections, np.uint8).copy()
    words[-8:].view(np.uint64)[:] += np.uint64(1 << made.plan.output_fraction)
    made.sources[MODEL_OWNER]._batches[2] = Material(batch.delivery, 2, MODEL_OWNER, seed + words.tobytes())
    with pytest.raises(MaterialError, match="two scores of one image"):
        score(made, INPUTS, repeats=len(INPUTS))


def test_parties_of_different_terms_part_before_they_begin() -> None:
    made, other = dealt(NETWORK, INPUTS, 2, 3), dealt(NETWORK, INPUTS, 2, 3)
    cases: list[tuple[str, Callable[[Any], Any]]] = [
        ("delivery", lambda end: run_data_owner(end, made.plan, INPUTS, other.sources[1], 0)),
        ("sacrifice", lambda end: run_data_owner(end, made.plan, INPUTS, made.sources[1], 1)),
    ]
    for message, data_owner in cases:

        def party(end: InMemoryExchange, data_owner: Callable[[Any], Any] = data_owner) -> Any:
            if end.rank == MODEL_OWNER:
                return run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], 0)
            return data_owner(end)

        with pytest.raises(MaterialError, match=message):
            run_parties(2, party)
    assert made.sources[0].numbers() == [0, 1, 2]


@given(st.binary(max_size=200))
def test_a_greeting_that_is_none_ends_the_session(payload: bytes) -> None:
    with pytest.raises(SessionAborted):
        _parse(payload)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '{"protocol": 1}',
        '{"protocol":1,"plan":"a","delivery":"b","batch":true,"sacrifice":0,"images":1,"numbers":[]}',
        '{"protocol":1,"plan":"a","delivery":"b","batch":1,"sacrifice":-1,"images":1,"numbers":[]}',
        '{"protocol":1,"plan":"a","delivery":"b","batch":1,"sacrifice":0,"images":1e9,"numbers":[]}',
        '{"protocol":1,"plan":3,"delivery":"b","batch":1,"sacrifice":0,"images":1,"numbers":[]}',
        '{"protocol":1,"plan":"a","delivery":"b","batch":1,"sacrifice":0,"images":1,"numbers":"ab"}',
        '{"protocol":1,"plan":"a","delivery":"b","batch":1,"sacrifice":0,"images":1,"numbers":[],"more":1}',
    ],
)
def test_a_strange_greeting_ends_the_session(text: str) -> None:
    with pytest.raises(SessionAborted):
        _parse(text.encode())
