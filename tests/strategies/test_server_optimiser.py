"""The server's optimisers over two rounds, by hand-checked numbers."""

import math

import pytest
import torch

from nescient_fl.lesion.network import Weights
from strategies.momentum import with_momentum
from strategies.server_optimiser import FIRST_MOMENT, SECOND_MOMENT, VELOCITY, ServerOptimiser


def tensors(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def two_rounds(optimiser: ServerOptimiser, first: float, second: float) -> list[tuple[float, dict[str, Weights]]]:
    """Move one weight from 0 by a mean update of ``first``, then of ``second``."""
    weights, memory, found = tensors(0.0), {}, []
    for update in (first, second):
        averaged = {"w": weights["w"] + update}
        weights, memory = optimiser.step(weights, averaged, memory)
        found.append((float(weights["w"]), memory))
    return found


def test_without_momentum_it_is_the_average_itself() -> None:
    averaged = tensors(1.5, -0.25)
    weights, velocity = with_momentum(tensors(1.0, 0.0), averaged, None, 0.0)
    assert weights is averaged
    assert velocity is None
    for optimiser in (ServerOptimiser(), ServerOptimiser("avgm", momentum=0.0)):
        weights, memory = optimiser.step(tensors(1.0, 0.0), averaged, {})
        assert weights is averaged
        assert memory == {}


def test_momentum_adds_up_steps_and_lets_them_decay() -> None:
    (first, velocity), (second, later) = two_rounds(ServerOptimiser("avgm", momentum=0.5), 1.0, 0.25)
    assert (first, velocity[VELOCITY]["w"].tolist()) == (1.0, [1.0])
    # 0.5 * 1 + 0.25
    assert (second, later[VELOCITY]["w"].tolist()) == (1.75, [0.75])


def test_adam_by_hand() -> None:
    (first, moments), (second, later) = two_rounds(ServerOptimiser("adam", learning_rate=0.1), 1.0, 0.5)
    # m = 0.1 * 1; v = 0.99 * 1e-6 + 0.01 * 1
    assert moments[FIRST_MOMENT]["w"].item() == pytest.approx(0.1)
    assert moments[SECOND_MOMENT]["w"].item() == pytest.approx(0.01000099)
    assert first == pytest.approx(0.1 * 0.1 / (math.sqrt(0.01000099) + 1e-3))
    # m = 0.9 * 0.1 + 0.1 * 0.5; v = 0.99 * 0.01000099 + 0.01 * 0.25
    assert later[FIRST_MOMENT]["w"].item() == pytest.approx(0.14)
    assert later[SECOND_MOMENT]["w"].item() == pytest.approx(0.0124009801)
    assert second == pytest.approx(first + 0.1 * 0.14 / (math.sqrt(0.0124009801) + 1e-3))


def test_yogi_by_hand() -> None:
    (first, moments), (second, later) = two_rounds(ServerOptimiser("yogi", learning_rate=0.1), 1.0, 0.05)
    # The first update is larger than the second moment, which grows: v = 1e-6 + 0.01 * 1.
    assert moments[SECOND_MOMENT]["w"].item() == pytest.approx(0.010001)
    assert first == pytest.approx(0.1 * 0.1 / (math.sqrt(0.010001) + 1e-3))
    # The second is smaller, so it shrinks by a hundredth of the update, not of itself: v - 0.01 * 0.0025.
    assert later[FIRST_MOMENT]["w"].item() == pytest.approx(0.095)
    assert later[SECOND_MOMENT]["w"].item() == pytest.approx(0.009976)
    assert second == pytest.approx(first + 0.1 * 0.095 / (math.sqrt(0.009976) + 1e-3))


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_each_weight_has_a_step_of_its_own(name: str) -> None:
    optimiser = ServerOptimiser(name, learning_rate=0.1)
    moved, memory = optimiser.step(tensors(0.0, 0.0, 0.0), tensors(1.0, -0.01, 0.0), {})
    big, small, none = moved["w"].tolist()
    assert none == 0.0
    # A hundred times the update gives not much more of a step.
    assert 0 < -small < big < 10 * -small
    assert memory[FIRST_MOMENT]["w"].dtype == moved["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "sgd"}, "no server optimiser 'sgd'"),
        ({"name": "avgm", "momentum": 1.0}, "no momentum of 1.0"),
        ({"name": "avg", "momentum": 0.5}, "avg takes no momentum"),
        ({"name": "adam", "momentum": 0.5, "learning_rate": 0.1}, "adam takes no momentum"),
        ({"name": "adam"}, "adam takes no learning rate of 0.0"),
        ({"name": "avgm", "learning_rate": 0.1}, "avgm takes no learning rate"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerOptimiser(**options)  # type: ignore[arg-type]
