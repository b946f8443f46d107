"""Counting errors, flips and failures, on scores made up by hand and on the twin."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nescient_fl.mpc.errors import RangeError
from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.mpc.inference.fidelity import Fidelity, compare
from nescient_fl.mpc.inference.twin import simulate
from tests.mpc.inference.networks import SMALL, dealt, plain, score, smooth, two_convolutions

NETWORK = two_convolutions()
NARROW, WEIGHTS = compile_network(NETWORK, SMALL, smooth(4, SMALL), bounds=(-10.0, 10.0))
WIDE, _ = compile_network(NETWORK, SMALL, smooth(4, SMALL), bounds=(-100.0, 100.0))


def marked(*values: float) -> NDArray[np.float64]:
    """Return inputs whose pixels all have one value."""
    return np.ones((len(values), *SMALL)) * np.array(values)[:, None, None, None]


def first(inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Score by the first pixel."""
    return inputs[:, 0, 0, :1].astype(np.float64)


def test_scores_are_counted_by_hand() -> None:
    def narrow(inputs: NDArray[Any]) -> NDArray[np.float64]:
        if (inputs == 7).any():
            raise RangeError("wrapped")
        return first(inputs) + 0.5

    batches = [marked(1.0, 7.0, 2.8), marked(50.0, 1000.0), marked(np.nan), marked(7.0)]
    found = compare([(NARROW, narrow), (WIDE, first)], first, batches, threshold=3.0)
    assert found == Fidelity(
        images=3,
        largest_error=0.5,
        mean_error=pytest.approx(1 / 3),  # type: ignore[arg-type]
        flipped=1,
        by_plan=(2, 1),
        wrapped=2,
        refused=2,
    )


def test_nothing_to_compare() -> None:
    assert compare([(NARROW, first)], first, []) == Fidelity(0, 0.0, 0.0, 0, (0,), 0, 0)


def test_twin_and_protocol_are_compared_alike() -> None:
    inputs = smooth(6, SMALL)
    batches = [inputs[:4], inputs[4:]]

    def network(images: NDArray[Any]) -> NDArray[np.float64]:
        return plain(NETWORK, images)

    by_twin = compare([(NARROW, lambda images: simulate(NARROW, WEIGHTS.layers, images))], network, batches)
    made = dealt(NETWORK, inputs, 2, 3)
    by_protocol = compare([(made.plan, lambda images: score(made, images).scores.logits)], network, batches)
    for found in (by_twin, by_protocol):
        assert (found.images, found.wrapped, found.refused) == (6, 0, 0)
        assert 0 < found.mean_error <= found.largest_error < 1e-3
