"""What each role receives, and what happens to inputs, messages and requests that are out of bounds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nescient_fl.mpc.errors import EncodingError, MaterialError, QueryLimitError, RangeError, SessionAborted
from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER
from nescient_fl.mpc.inference.owners import LOGITS, SET_UP, run_data_owner, run_model_owner, sort_by_plan
from nescient_fl.mpc.inference.plan import Linear
from tests.mpc.in_memory import InMemoryExchange, _Table, run_parties
from tests.mpc.inference.networks import LESION, SMALL, dealt, lesion_network, plain, score, smooth, two_convolutions

NETWORK, INPUTS = two_convolutions(), smooth(4, SMALL)


def chi_square(messages: list[bytes]) -> float:
    """Return how far the bytes are from uniform, in standard deviations of a chi-square of 255 degrees."""
    values = np.frombuffer(b"".join(messages), np.uint8)
    expected = len(values) / 256
    statistic = float(((np.bincount(values, minlength=256) - expected) ** 2 / expected).sum())
    return (statistic - 255) / np.sqrt(2 * 255)


def got(end: InMemoryExchange) -> list[bytes]:
    return [answers[1 - end.rank] for answers in end.seen]


@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_everything_that_the_model_owner_gets_is_uniform_whatever_the_image(shade: float) -> None:
    calibration = smooth(1, LESION)
    made = dealt(lesion_network(trained=False), calibration, 1, 1)
    outcome = score(made, np.full((1, *LESION), shade, np.float32))
    greeting, *messages = got(outcome.ends[MODEL_OWNER])
    assert b"images" in greeting
    for message in (message for message in messages if len(message) > 20_000):
        assert chi_square([message]) < 6
    assert chi_square(messages) < 6
    # The logit goes the other way only: the last message to the model owner is empty.
    assert messages[-1] == b""
    assert sum(map(len, messages)) > 1_000_000


def test_everything_that_the_data_owner_gets_is_uniform_whatever_the_weights() -> None:
    inputs = smooth(1, LESION)
    networks = [lesion_network(trained=True), lesion_network(trained=False)]
    for parameter in networks[0].parameters():
        parameter.requires_grad_(False).zero_()
    for network in networks:
        outcome = score(dealt(network, inputs, 1, 1), inputs)
        _, weights, *messages = got(outcome.ends[DATA_OWNER])
        assert len(weights) > 200_000
        assert chi_square([weights]) < 6
        assert chi_square(messages) < 6


def test_the_masked_weights_are_all_the_weights_that_travel_and_are_other_ones_in_each_delivery() -> None:
    inputs = smooth(2, SMALL)
    shown = []
    for _ in range(2):
        made = dealt(NETWORK, inputs, 2, 1)
        outcome = score(made, inputs)
        message = got(outcome.ends[DATA_OWNER])[1]
        steps = [(number, step) for number, step in enumerate(made.plan.steps) if isinstance(step, Linear)]
        assert len(message) == sum(made.weights.layers[n].matrix.size * -(-step.ring // 8) for n, step in steps)
        shown.append(np.frombuffer(message, np.uint8))
    assert (shown[0] == shown[1]).mean() < 0.05


def test_the_model_owner_learns_how_many_images_there_were_and_no_more() -> None:
    made = dealt(NETWORK, INPUTS, 3, 2)

    def party(end: InMemoryExchange) -> Any:
        if end.rank == MODEL_OWNER:
            return run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], 0)
        return run_data_owner(end, made.plan, INPUTS, made.sources[DATA_OWNER], 0)

    summary, scores = run_parties(2, party)
    assert (summary.images, summary.batches) == (4, 2)
    assert set(summary.counts) == set(scores.summary.counts)
    assert {SET_UP, LOGITS} < set(summary.counts)
    assert not hasattr(summary, "logits")
    assert summary.online.bytes_sent == scores.summary.online.bytes_received
    assert summary.online.rounds == scores.summary.online.rounds


def out_of_bounds(change: Callable[[NDArray[Any]], None]) -> NDArray[Any]:
    inputs = INPUTS.copy()
    change(inputs)
    return inputs


CHANGES: list[Callable[[NDArray[Any]], None]] = [
    lambda x: x.__setitem__((2, 1, 3, 4), 1000.0),
    lambda x: x.__setitem__((2, 0, 18, 21), -50.0),
    lambda x: x.__setitem__((2, 0, 0, 0), np.nan),
    lambda x: x.__setitem__((2, 0, 0, 0), np.inf),
    lambda x: x.__setitem__((2, 0, 0, 0), 1e30),
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_out_of_bounds_is_named_and_nothing_is_sent(change: Callable[[NDArray[Any]], None]) -> None:
    made = dealt(NETWORK, INPUTS, 2, 2)
    end = InMemoryExchange(DATA_OWNER, _Table(2))
    with pytest.raises(RangeError, match="out of the plan's bounds") as error:
        run_data_owner(end, made.plan, out_of_bounds(change), made.sources[DATA_OWNER], 0)
    assert error.value.images == (2,)
    assert end.sent == []
    assert made.sources[DATA_OWNER].numbers() == [0, 1]


def test_images_are_sorted_by_the_first_plan_that_is_wide_enough() -> None:
    narrow, _ = compile_network(NETWORK, SMALL, INPUTS)
    wide, _ = compile_network(NETWORK, SMALL, INPUTS, bounds=(-500.0, 500.0))
    inputs = np.concatenate([INPUTS, INPUTS[:1] * 30, INPUTS[:1] * 1e6, INPUTS[:1] * np.nan])
    found = sort_by_plan([narrow, wide], inputs)
    assert [numbers.tolist() for numbers in found] == [[0, 1, 2, 3], [4], [5, 6]]


def test_the_wide_plan_scores_what_the_narrow_one_refuses() -> None:
    wide = dealt(NETWORK, INPUTS * 30, 1, 1)
    found = score(wide, INPUTS[:1] * 30).scores.logits
    np.testing.assert_allclose(found, plain(NETWORK, INPUTS[:1] * 30), atol=1e-3)


def test_inputs_of_another_shape_are_refused() -> None:
    made = dealt(NETWORK, INPUTS, 2, 2)
    for inputs in (INPUTS[0], INPUTS[:, :1], INPUTS[..., :-1]):
        with pytest.raises(EncodingError, match="shape"):
            sort_by_plan([made.plan], inputs)


def test_a_data_owner_that_asks_for_too_many_images_is_refused_by_both() -> None:
    made = dealt(NETWORK, INPUTS, 2, 2)
    errors: list[str] = []

    def party(end: InMemoryExchange) -> None:
        try:
            if end.rank == MODEL_OWNER:
                run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], 0, most_images=3)
            else:
                run_data_owner(end, made.plan, INPUTS, made.sources[DATA_OWNER], 0)
        except QueryLimitError as error:
            errors.append(str(error))

    run_parties(2, party)
    assert errors == ["4 images are asked for, 3 are left of the limit"] * 2
    assert made.sources[MODEL_OWNER].numbers() == [0, 1]


def test_roles_go_by_rank() -> None:
    made = dealt(NETWORK, INPUTS, 2, 1)

    def swapped(end: InMemoryExchange) -> Any:
        if end.rank == MODEL_OWNER:
            return run_data_owner(end, made.plan, INPUTS, made.sources[DATA_OWNER], 0)
        return run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], 0)

    with pytest.raises(MaterialError, match="first party"):
        run_parties(2, swapped)


def test_images_scored_twice_come_back_once_and_in_order() -> None:
    made = dealt(NETWORK, INPUTS, 3, 3)
    scores = score(made, INPUTS, repeats=4).scores
    assert (scores.summary.images, scores.summary.batches) == (4, 3)
    np.testing.assert_allclose(scores.logits, plain(NETWORK, INPUTS), atol=1e-3)
    with pytest.raises(MaterialError, match="repeated"):
        run_data_owner(InMemoryExchange(DATA_OWNER, _Table(2)), made.plan, INPUTS, made.sources[1], 0, repeats=5)


class Meddler(InMemoryExchange):
    """Passes all messages on but one, which it changes."""

    def __init__(self, end: InMemoryExchange, number: int, change: Callable[[bytes], bytes]) -> None:
        super().__init__(end.rank, end._table)
        self._number, self._change = number, change

    def exchange(self, payload: bytes) -> list[bytes]:
        if len(self.sent) == self._number:
            payload = self._change(payload)
        return super().exchange(payload)


@pytest.mark.parametrize("meddling", [MODEL_OWNER, DATA_OWNER])
@pytest.mark.parametrize(
    "change", [lambda m: m + b"\0", lambda m: m[:-1], lambda _: b""], ids=["long", "short", "none"]
)
def test_a_message_of_the_wrong_length_ends_the_session_at_every_step(
    meddling: int, change: Callable[[bytes], bytes]
) -> None:
    inputs = INPUTS[:1]
    clean = score(dealt(NETWORK, inputs, 1, 1), inputs)
    steps = [number for number, message in enumerate(clean.ends[meddling].sent) if change(message) != message]
    assert len(steps) > 5
    for step in steps:
        made = dealt(NETWORK, inputs, 1, 1)

        def party(end: InMemoryExchange, step: int = step, made: Any = made) -> Any:
            used = Meddler(end, step, change) if end.rank == meddling else end
            if end.rank == MODEL_OWNER:
                return run_model_owner(used, made.plan, made.weights, made.sources[MODEL_OWNER], 0)
            return run_data_owner(used, made.plan, inputs, made.sources[DATA_OWNER], 0)

        with pytest.raises(SessionAborted):
            run_parties(2, party)


def test_a_logit_that_makes_no_sense_is_an_error_and_no_score() -> None:
    made = dealt(NETWORK, INPUTS[:1], 1, 1)
    last = len(score(dealt(NETWORK, INPUTS[:1], 1, 1), INPUTS[:1]).ends[MODEL_OWNER].sent) - 1

    def party(end: InMemoryExchange) -> Any:
        if end.rank == MODEL_OWNER:
            used = Meddler(end, last, lambda message: message[:7] + bytes([message[7] ^ 64]) + message[8:])
            return run_model_owner(used, made.plan, made.weights, made.sources[MODEL_OWNER], 0)
        return run_data_owner(end, made.plan, INPUTS[:1], made.sources[DATA_OWNER], 0)

    with pytest.raises(RangeError, match="logit"):
        run_parties(2, party)
