"""The network: its size, its initial weights, and the hash that stands for a model."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import (
    FRAME,
    PARAMETERS,
    NetworkOptions,
    Weights,
    build_network,
    get_weights,
    set_weights,
    weights_sha256,
)


def equal(one: Weights, other: Weights) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("options", [NetworkOptions(), NetworkOptions(activation="gelu"), NetworkOptions(dropout=0.5)])
def test_has_the_write_ups_number_of_parameters(options: NetworkOptions) -> None:
    network = build_network(options, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS == 102_825
    assert network.eval()(torch.zeros(2, 1, *FRAME)).shape == (2, 1)


def test_the_seed_alone_decides_the_initial_weights() -> None:
    first = get_weights(build_network(seed=5))
    torch.manual_seed(99)
    torch.randn(10)
    assert equal(first, get_weights(build_network(NetworkOptions(dropout=0.3), seed=5)))
    assert not equal(first, get_weights(build_network(seed=6)))


def test_initial_weights_lie_within_the_usual_bound() -> None:
    weights = get_weights(build_network(seed=2))
    for name, inputs in (("convolution", 100), ("dense1", 1560), ("dense2", 64), ("dense3", 32)):
        for kind in ("weight", "bias"):
            largest = float(weights[f"{name}.{kind}"].abs().max())
            assert 0 < largest <= inputs**-0.5


def test_weights_taken_out_do_not_follow_the_network() -> None:
    network = build_network(seed=1)
    taken = get_weights(network)
    before = {name: value.clone() for name, value in taken.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert equal(taken, before)
    set_weights(network, taken)
    assert equal(get_weights(network), before)


def test_weights_of_other_shapes_are_refused() -> None:
    network = build_network(seed=1)
    weights = get_weights(network)
    with pytest.raises(RuntimeError, match="dense1"):
        set_weights(network, {**weights, "dense1.weight": torch.zeros(3, 3)})
    with pytest.raises(RuntimeError, match=r"dense3\.bias"):
        set_weights(network, {name: value for name, value in weights.items() if name != "dense3.bias"})


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_hash_changes_with_any_single_bit(data: st.DataObject) -> None:
    weights = get_weights(build_network(seed=3))
    name = data.draw(st.sampled_from(sorted(weights)))
    place = data.draw(st.integers(0, weights[name].numel() - 1))
    bit = data.draw(st.integers(0, 31))
    changed = {key: value.clone() for key, value in weights.items()}
    changed[name].view(torch.int32).view(-1)[place] ^= 1 << bit if bit < 31 else -(2**31)
    assert weights_sha256(changed) != weights_sha256(weights)


def test_hash_is_of_names_shapes_and_values_not_of_their_order() -> None:
    weights = get_weights(build_network(seed=3))
    assert weights_sha256(dict(reversed(weights.items()))) == weights_sha256(weights)
    assert weights_sha256({"a": torch.zeros(6)}) != weights_sha256({"b": torch.zeros(6)})
    assert weights_sha256({"a": torch.zeros(6)}) != weights_sha256({"a": torch.zeros(2, 3)})
    assert weights_sha256({"a": torch.tensor([0.0])}) != weights_sha256({"a": torch.tensor([-0.0])})


def test_hash_of_known_weights_stays_what_it_is() -> None:
    weights = {"b": torch.tensor([1.0, -2.5]), "a": torch.tensor([[0.5]])}
    text = b"a(1, 1)" + bytes.fromhex("0000003f") + b"b(2,)" + bytes.fromhex("0000803f000020c0")
    assert weights_sha256(weights) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("values", [{"activation": "tanh"}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_options_that_cannot_be_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError):
        NetworkOptions(**values)  # type: ignore[arg-type]
