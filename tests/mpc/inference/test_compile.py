"""What the compiler takes, what it refuses by name, and that its widths and scales hold."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nescient_fl.lesion.network import NetworkOptions, build_network
from nescient_fl.mpc.errors import PlanError, RangeError
from nescient_fl.mpc.inference.bounds import LayerWeights, intervals, width_for
from nescient_fl.mpc.inference.compile import compile_network, encode_weights
from nescient_fl.mpc.inference.layers import read_network
from nescient_fl.mpc.inference.plan import Linear, MaxPool, Plan, Relu, Truncate
from nescient_fl.mpc.inference.twin import simulate
from tests.mpc.inference.networks import LESION, SMALL, dealt, lesion_network, plain, score, smooth, two_convolutions


class Surprise(nn.Module):
    """A layer that nobody knows."""


TAIL = (nn.Flatten(), nn.Linear(4 * 17 * 20, 1))
FIRST = nn.Conv2d(2, 4, 3)

REFUSED: list[tuple[str, list[nn.Module], str]] = [
    ("an unknown layer", [FIRST, Surprise(), *TAIL], r"1 \(Surprise\).*there are Conv2d"),
    ("another activation", [FIRST, nn.GELU(), *TAIL], r"1 \(GELU\)"),
    ("a sigmoid at the end", [FIRST, *TAIL, nn.Sigmoid()], r"3 \(Sigmoid\)"),
    ("another normalisation", [FIRST, nn.GroupNorm(2, 4), *TAIL], r"1 \(GroupNorm\)"),
    ("a network in a network", [FIRST, nn.Sequential(nn.ReLU()), *TAIL], r"1 \(Sequential\)"),
    ("ReLU first", [nn.ReLU(), FIRST, *TAIL], r"0 \(ReLU\).*first layer"),
    ("ReLU last", [FIRST, *TAIL, nn.ReLU()], "must end with a Linear"),
    ("groups", [nn.Conv2d(2, 4, 3, groups=2), *TAIL], r"0 \(Conv2d\).*groups"),
    ("dilation", [nn.Conv2d(2, 4, 3, dilation=2), *TAIL], r"0 \(Conv2d\).*dilation"),
    ("padding by name", [nn.Conv2d(2, 4, 3, padding="same"), *TAIL], r"0 \(Conv2d\).*padding"),
    ("reflection", [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), *TAIL], r"0 \(Conv2d\).*padding"),
    ("channels that do not fit", [nn.Conv2d(3, 4, 3), *TAIL], r"0 \(Conv2d\).*3 channels"),
    ("values that do not fit", [FIRST, nn.Flatten(), nn.Linear(7, 1)], r"2 \(Linear\).*7 values"),
    ("no Flatten", [FIRST, nn.Linear(20, 1)], r"1 \(Linear\).*Flatten"),
    ("a late convolution", [nn.Flatten(), nn.Conv2d(836, 1, 1)], r"1 \(Conv2d\).*after Flatten"),
    ("Flatten of a part", [FIRST, nn.Flatten(2), nn.Linear(340, 1)], r"1 \(Flatten\)"),
    ("a padded pool", [FIRST, nn.MaxPool2d(2, padding=1), *TAIL], r"1 \(MaxPool2d\).*padding"),
    ("a pool that rounds up", [FIRST, nn.AvgPool2d(2, ceil_mode=True), *TAIL], r"1 \(AvgPool2d\).*ceil_mode"),
    ("a pool that tells where", [FIRST, nn.MaxPool2d(2, return_indices=True), *TAIL], "return_indices"),
    ("another divisor", [FIRST, nn.AvgPool2d(2, divisor_override=3), *TAIL], "divisor_override"),
    ("late normalisation", [FIRST, nn.ReLU(), nn.BatchNorm2d(4), *TAIL], r"2 \(BatchNorm2d\).*directly after"),
    ("no statistics", [FIRST, nn.BatchNorm2d(4, track_running_stats=False), *TAIL], "running statistics"),
    ("maxima of averages of ReLU", [FIRST, nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), *TAIL], r"3 \(MaxPool2d\)"),
    ("ReLU of averages of maxima", [FIRST, nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ReLU(), *TAIL], r"3 \(ReLU\)"),
    ("a window too large", [FIRST, nn.MaxPool2d(50), *TAIL], r"1 \(MaxPool2d\).*larger"),
    ("a kernel too large", [nn.Conv2d(2, 4, 30), *TAIL], r"0 \(Conv2d\).*larger"),
    ("nothing", [], "must end with a Linear"),
]


@pytest.mark.parametrize(("layers", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_computed_is_refused_by_name(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_network(nn.Sequential(*layers), SMALL)


def test_only_a_sequence_of_layers_is_taken() -> None:
    with pytest.raises(PlanError, match="Sequential"):
        read_network(nn.Linear(3, 1), (3, 1, 1))
    with pytest.raises(PlanError, match="GELU"):
        read_network(build_network(NetworkOptions(activation="gelu"), seed=1), LESION)


def test_the_lesion_network_is_convolved_only_where_pooling_looks() -> None:
    block = read_network(lesion_network(trained=False), LESION)[0]
    assert block.crop == (319, 367)
    assert block.relu == "activation (ReLU)"
    assert [window.kernel for window in block.largest] == [(8, 8)]


def test_padding_below_is_dropped_where_pooling_does_not_look() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(2, 1))
    block = read_network(network, (1, 4, 9))[0]
    # Rows 0..3 of the padded convolution need row 4, which is padding; its columns 0..7 need no padding at 9.
    assert (block.crop, block.pads) == ((4, 9), (1, 1, 1, 0))


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (lesion_network(trained=False), smooth(3, LESION)),
        (lesion_network(trained=True), smooth(3, LESION)),
        (two_convolutions(), smooth(6, SMALL)),
    ],
    ids=["lesion", "lesion, larger weights", "two convolutions"],
)
def test_the_twin_is_close_to_torch(network: nn.Sequential, inputs: Any) -> None:
    plan, weights = compile_network(network, inputs.shape[1:], inputs[:2])
    found = simulate(plan, weights.layers, inputs)
    assert np.abs(found - plain(network, inputs)).max() < 1e-3


def test_a_network_of_any_depth_of_dense_layers() -> None:
    torch.manual_seed(4)
    layers = nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Identity(), nn.Linear(9, 3), nn.Linear(3, 2)
    network = nn.Sequential(*layers)
    inputs = smooth(8, (1, 3, 4))
    plan, weights = compile_network(network, (1, 3, 4), inputs)
    np.testing.assert_allclose(simulate(plan, weights.layers, inputs), plain(network, inputs), atol=1e-3)
    np.testing.assert_allclose(
        score(dealt(network, inputs, 4, 2), inputs).scores.logits, plain(network, inputs), atol=1e-3
    )


def test_no_input_within_bounds_leaves_a_width_and_the_bounds_are_met() -> None:
    # The twin raises when a value leaves its width; the worst inputs are the signs of the weights themselves.
    network = lesion_network(trained=False)
    plan, weights = compile_network(network, LESION, smooth(2, LESION))
    low, high = plan.low / 2**plan.input_fraction, plan.high / 2**plan.input_fraction
    kernels = weights.layers[0].matrix.reshape(8, 10, 10)
    extremes = []
    for kernel in kernels:
        for sign in (1, -1):
            tile = np.tile(np.where(kernel * sign > 0, high, low), (32, 39))
            extremes.append(tile[None])
    found = simulate(plan, weights.layers, np.stack([*extremes, np.full(LESION, low), np.full(LESION, high)]))
    assert np.abs(found).max() * 2**plan.output_fraction <= plan.output_bound


@pytest.mark.parametrize("bound", [1.0, 1.4, 1.9, 3.9])
def test_linear_layers_alone_hold_the_largest_inputs(bound: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    inputs = np.array([[bound, bound], [-bound, -bound], [bound, 0.0]]).reshape(3, 1, 1, 2)
    plan, weights = compile_network(network, (1, 1, 2), inputs, bounds=(-bound, bound))
    expected = inputs.sum(axis=(1, 2, 3)) + 2
    np.testing.assert_allclose(simulate(plan, weights.layers, inputs)[:, 0], expected, atol=1e-3)


def test_a_ring_holds_what_comes_into_it_even_where_less_comes_out() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        for parameter in (network[1].weight, network[5].weight):
            parameter.copy_(torch.full_like(parameter, 100.0))
        for parameter in network[3].parameters():
            parameter.zero_()
    inputs = smooth(2, (1, 3, 4))
    made = dealt(network, inputs, 2, 1)
    rings = [(step.width, step.ring) for step in made.plan.steps if isinstance(step, Relu)]
    assert all(width < ring for width, ring in rings)
    np.testing.assert_allclose(score(made, inputs).scores.logits, plain(network, inputs), atol=1e-3)


def test_intervals_by_hand() -> None:
    steps = (
        Linear("a", (2, 2), (0, 0, 0, 0), (1, 1), (1, 1), 1, 0, 64),
        Truncate("a", 1, 64),
        MaxPool("b", (2, 2), (2, 2), 63),
        Relu("c", 63, 64),
    )
    weights = {0: LayerWeights(np.array([[3, -2]]), np.array([5]))}
    linear, cut, pooled, rectified = intervals(steps, weights, (2, 2, 2), -4, 10)
    assert (round(linear.low.min()), round(linear.high.max())) == (-4 * 3 - 2 * 10 + 5, 3 * 10 + 2 * 4 + 5)
    assert (cut.low.min(), cut.high.max()) == (-14, 22)
    assert pooled.spread == 36
    assert (rectified.low.min(), rectified.high.max()) == (0, 22)


def test_a_width_holds_what_it_is_for() -> None:
    assert [width_for(size) for size in (0, 1, 3, 4, 15, 16, 2**20)] == [3, 3, 3, 5, 5, 7, 23]


def test_what_is_out_of_bounds_is_never_scored_by_the_twin() -> None:
    inputs = smooth(2, SMALL)
    plan, weights = compile_network(two_convolutions(), SMALL, inputs)
    with pytest.raises(RangeError, match="input"):
        simulate(plan, weights.layers, inputs * 10)
    larger = {
        number: LayerWeights(layer.matrix * 50, layer.bias) if number == 0 else layer
        for number, layer in weights.layers.items()
    }
    with pytest.raises(RangeError, match="out of the plan's bounds"):
        simulate(plan, larger, inputs)


def test_a_wide_plan_takes_what_the_narrow_one_refuses() -> None:
    network, inputs = two_convolutions(), smooth(3, SMALL)
    plan, weights = compile_network(network, SMALL, inputs, bounds=(-100.0, 100.0))
    found = simulate(plan, weights.layers, inputs * 20)
    np.testing.assert_allclose(found, plain(network, inputs * 20), atol=1e-2)


def test_a_plan_tells_nothing_of_weights_but_widths() -> None:
    inputs = smooth(2, SMALL)
    plan, _ = compile_network(two_convolutions(), SMALL, inputs)
    network = two_convolutions()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    other, _ = compile_network(network, SMALL, inputs)
    text = json.loads(plan.to_json())
    assert set(text) == {
        *("format", "input_shape", "input_fraction", "low", "high", "output_fraction", "output_bound", "steps"),
    }
    shapes = [{k: v for k, v in step.items() if k not in ("width", "ring", "bits")} for step in text["steps"]]
    others = json.loads(other.to_json())["steps"]
    assert shapes == [{k: v for k, v in step.items() if k not in ("width", "ring", "bits")} for step in others]


def test_bounds_are_the_calibrations_times_the_factor_outwards_to_quarters() -> None:
    inputs = np.zeros((2, *SMALL))
    inputs[0, 0, 0, 0], inputs[1, 1, 5, 5] = 1.01, -0.6
    plan, _ = compile_network(two_convolutions(), SMALL, inputs, safety=2.0)
    scale = 2**plan.input_fraction
    assert (plan.low / scale, plan.high / scale) == (-1.25, 2.25)


def test_calibration_inputs_must_fit() -> None:
    for inputs in (np.zeros((0, *SMALL)), np.zeros((2, 1, 19, 22)), np.full((1, *SMALL), np.nan)):
        with pytest.raises(PlanError, match="calibration"):
            compile_network(two_convolutions(), SMALL, inputs)
    with pytest.raises(PlanError, match="safety"):
        compile_network(two_convolutions(), SMALL, smooth(1, SMALL), safety=0.5)


def test_a_network_too_sensitive_for_fixed_point_is_refused() -> None:
    with pytest.raises(PlanError, match="not within"):
        compile_network(two_convolutions(), SMALL, smooth(3, SMALL), tolerance=1e-12)


def test_a_network_with_values_too_large_is_refused() -> None:
    network = two_convolutions()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e5)
    with pytest.raises(PlanError, match="too large"):
        compile_network(network, SMALL, smooth(3, SMALL))


def test_weights_are_encoded_anew_for_a_plan_they_fit() -> None:
    network, inputs = two_convolutions(), smooth(3, SMALL)
    plan, weights = compile_network(network, SMALL, inputs)
    again = encode_weights(network, Plan.from_json(plan.to_json()))
    assert again.plan_digest == weights.plan_digest == plan.digest
    for number, layer in weights.layers.items():
        np.testing.assert_array_equal(again.layers[number].matrix, layer.matrix)
    with torch.no_grad():
        first = network[0]
        assert isinstance(first, nn.Conv2d)
        first.weight.mul_(30)
    with pytest.raises(PlanError, match="too narrow"):
        encode_weights(network, plan)
    shorter = nn.Sequential(nn.Flatten(), nn.Linear(836, 1))
    with pytest.raises(PlanError, match="another network"):
        encode_weights(shorter, plan)


def plan_text() -> str:
    return compile_network(two_convolutions(), SMALL, smooth(2, SMALL))[0].to_json()


PLAN = plan_text()


def test_a_plan_comes_back_from_its_text() -> None:
    plan = Plan.from_json(PLAN)
    assert plan.to_json() == PLAN
    assert len(plan.digest) == 64


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_plan_is_refused_or_still_a_plan(data: st.DataObject) -> None:
    values = json.loads(PLAN)
    target = data.draw(st.sampled_from([values, *values["steps"]]))
    key = data.draw(st.sampled_from(sorted(target)))
    strange = st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(max_size=5),
        st.integers(-(2**70), 2**70),
        st.lists(st.integers(-5, 2**40), max_size=4),
        st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    )
    target[key] = data.draw(strange)
    try:
        plan = Plan.from_json(json.dumps(values))
    except PlanError:
        return
    assert Plan.from_json(plan.to_json()) == plan


@given(st.text(max_size=200))
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_endless_text_is_refused_unread() -> None:
    with pytest.raises(PlanError, match="long"):
        Plan.from_json("[" * (1 << 21))
    with pytest.raises(PlanError):
        Plan.from_json("[" * 100_000)
