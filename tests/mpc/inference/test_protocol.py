"""The protocol on shares equals its plain twin, number by number, and the network within what is promised."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, Hand, weight_mask
from nescient_fl.mpc.inference.evaluate import Weights, deal, evaluate
from nescient_fl.mpc.inference.fixed_point import Words, encode_integers, to_ring, to_signed
from nescient_fl.mpc.inference.plan import Linear
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.twin import simulate
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.randomness import fresh_seed
from tests.mpc.in_memory import InMemoryExchange, run_parties
from tests.mpc.inference.networks import (
    LESION,
    SMALL,
    dealt,
    lesion_network,
    plain,
    score,
    smooth,
    two_convolutions,
)


def traced(network: nn.Sequential, inputs: NDArray[Any]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return the integers after every step, as the protocol's shares add up and as the twin computes them."""
    plan, weights = compile_network(network, inputs.shape[1:], inputs)
    mask_seed, seeds = fresh_seed(), (fresh_seed(), fresh_seed())
    corrections = b"".join(deal(plan, len(inputs), mask_seed, seeds))
    known: tuple[dict[int, Weights], dict[int, Weights]] = ({}, {})
    for number, step in enumerate(plan.steps):
        if isinstance(step, Linear):
            layer = weights.layers[number]
            known[0][number] = Weights(RingMatrix(layer.matrix, step.ring, layer.bits), to_ring(layer.bias, step.ring))
            shown = to_ring(layer.matrix, step.ring) - weight_mask(mask_seed, number, *layer.matrix.shape, step.ring)
            known[1][number] = Weights(RingMatrix(shown, step.ring))
    words = to_ring(encode_integers(inputs, plan.input_fraction), plan.states[0].ring)

    def party(end: InMemoryExchange) -> list[Words]:
        trace: list[Words] = []
        hand = Hand(end.rank, seeds[end.rank], corrections if end.rank == MODEL_OWNER else b"")
        own = words if end.rank == DATA_OWNER else None
        evaluate(Wire(end), hand, plan, known[end.rank], len(inputs), own, trace)
        hand.finish()
        return trace

    shares = run_parties(2, party)
    rings = [state.ring for state in plan.states[1:]]
    found = [to_signed(a + b, ring) for a, b, ring in zip(*shares, rings, strict=True)]

    def low_bits(number: int, shape: tuple[int, ...], shift: int) -> NDArray[np.int64]:
        cut = shares[DATA_OWNER][number - 1].astype(np.uint64) & np.uint64((1 << shift) - 1)
        return cut.astype(np.int64).reshape(shape)

    expected: list[NDArray[np.int64]] = []
    simulate(plan, weights.layers, inputs, low_bits, expected)
    return found, expected


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (lesion_network(trained=True), smooth(2, LESION)),
        (two_convolutions(), smooth(5, SMALL)),
    ],
    ids=["lesion", "two convolutions"],
)
def test_every_number_of_the_protocol_is_the_twins(network: nn.Sequential, inputs: NDArray[Any]) -> None:
    found, expected = traced(network, inputs)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.reshape(theirs.shape), theirs)


@pytest.mark.parametrize("trained", [False, True])
def test_the_lesion_network_keeps_its_promises(trained: bool) -> None:
    network, inputs = lesion_network(trained), smooth(4, LESION)
    outcome = score(dealt(network, inputs, images=2, batches=2), inputs)
    assert np.abs(outcome.scores.logits - plain(network, inputs)).max() < 1e-3
    for count in outcome.counts:
        assert count.rounds == 2 * 41
        assert count.bytes_sent / 4 < 1.9e6


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Draw a network of up to two convolutions with any pooling between, and its input's shape."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(9, 17)), draw(st.integers(9, 17)))
    layers: list[nn.Module] = []
    channels = shape[0]
    for _ in range(draw(st.integers(0, 2))):
        outputs = draw(st.integers(1, 3))
        kernel, stride = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 2)] * 2))
        padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
        layers.append(nn.Conv2d(channels, outputs, kernel, stride, padding, bias=draw(st.booleans())))
        channels = outputs
        layers += draw(st.sampled_from(FOLLOWERS))(channels)
    image = torch.zeros(1, *shape)
    try:
        size = nn.Sequential(*layers, nn.Flatten()).eval()(image).shape[1]
    except RuntimeError:  # a window larger than what is left
        reject()
    layers += [nn.Flatten(), nn.Linear(size, 4), *draw(st.sampled_from([[], [nn.ReLU()]])), nn.Linear(4, 2)]
    return nn.Sequential(*layers).eval(), shape


FOLLOWERS: list[Callable[[int], list[nn.Module]]] = [
    lambda _: [],
    lambda _: [nn.ReLU()],
    lambda n: [nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2)],
    lambda _: [nn.MaxPool2d((2, 3), stride=(1, 2)), nn.ReLU(), nn.AvgPool2d(2)],
    lambda _: [nn.AvgPool2d(2, stride=1), nn.MaxPool2d(2), nn.ReLU(), nn.ReLU()],
    lambda _: [nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2, stride=1)],
    lambda _: [nn.AvgPool2d((3, 1)), nn.ReLU(), nn.AvgPool2d((1, 2)), nn.ReLU()],
    lambda _: [nn.MaxPool2d(2), nn.AvgPool2d(2)],
]


@given(networks(), st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_any_network_of_these_layers_is_scored(made: tuple[nn.Sequential, tuple[int, int, int]], batch: int) -> None:
    network, shape = made
    inputs = smooth(3, shape)
    outcome = score(dealt(network, inputs, images=batch, batches=3), inputs)
    np.testing.assert_allclose(outcome.scores.logits, plain(network, inputs), atol=1e-3)


def test_a_network_with_two_convolutions_is_scored_too() -> None:
    network, inputs = two_convolutions(), smooth(7, SMALL)
    outcome = score(dealt(network, inputs, images=3, batches=3), inputs)
    np.testing.assert_allclose(outcome.scores.logits, plain(network, inputs), atol=1e-3)
