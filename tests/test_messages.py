"""What sites and the coordinator say to each other comes out as it went in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.lesion.counts import BINS, ScoreCounts
from nescient_fl.lesion.network import PARAMETERS, Weights, build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES, recipe_to_json
from nescient_fl.messages import (
    NODE,
    ORDER,
    PROTOCOL,
    RoundOrder,
    SiteReport,
    node_content,
    order_content,
    payload_bytes,
    read_node,
    read_order,
    read_report,
    report_content,
)

ORDERED = RoundOrder(1, 20, 2, 7, recipe_to_json(RECIPES["default"]), True)
WEIGHTS: Weights = {"b": torch.tensor([[1.0, float("nan")]]), "a": torch.tensor([-0.0, 1e-45])}


def bits(weights: Weights) -> list[tuple[str, bytes]]:
    return [(name, value.numpy().tobytes()) for name, value in weights.items()]


@given(
    st.builds(
        RoundOrder,
        round=st.integers(1, 2**31),
        rounds=st.integers(1, 2**31),
        local_epochs=st.integers(1, 100),
        seed=st.integers(0, 2**63),
        recipe=st.text(),
        train=st.booleans(),
    )
)
def test_an_order_comes_out_as_it_went_in(order: RoundOrder) -> None:
    found, weights = read_order(order_content(order, WEIGHTS))
    assert found == order
    assert bits(weights) == bits(WEIGHTS)


@settings(deadline=None)
@given(
    st.builds(
        SiteReport,
        site=st.text(),
        images=st.integers(0, 2**40),
        loss=st.floats(allow_nan=False),
        accuracy=st.floats(0, 1),
        seconds=st.floats(0, 1e6),
    ),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_a_report_comes_out_as_it_went_in(report: SiteReport, seed: int, trained: bool) -> None:
    generator = np.random.default_rng(seed)
    counts = ScoreCounts(generator.integers(0, 2**40, BINS), generator.integers(0, 9, BINS), float(generator.random()))
    update = WEIGHTS if trained else None
    found, found_counts, found_update = read_report(report_content(report, counts, update))
    assert found == report
    assert np.array_equal(found_counts.positives, counts.positives)
    assert np.array_equal(found_counts.negatives, counts.negatives)
    assert found_counts.loss_sum == counts.loss_sum
    assert (found_update is None) == (not trained)
    if found_update is not None:
        assert bits(found_update) == bits(WEIGHTS)


def test_a_model_keeps_its_hash_on_the_way() -> None:
    weights = get_weights(build_network(seed=1))
    _, found = read_order(order_content(ORDERED, weights))
    assert weights_sha256(found) == weights_sha256(weights)
    assert list(found) == list(weights)


def test_a_model_costs_little_more_than_its_numbers() -> None:
    weights = get_weights(build_network(seed=1))
    size = payload_bytes(order_content(ORDERED, weights))
    assert 4 * PARAMETERS < size < 4 * PARAMETERS + 4000


def test_payload_bytes_by_hand() -> None:
    content = node_content("icu-1")
    assert payload_bytes(content) == len("name") + len("icu-1") + len("role") + len("site") + len("protocol") + len("1")
    assert payload_bytes(RecordDict()) == 0


def test_a_sites_name_comes_out_as_it_went_in() -> None:
    assert read_node(node_content("Zürich: 1")) == ("Zürich: 1", "site")


def test_another_version_of_the_protocol_is_refused() -> None:
    order, name = order_content(replace(ORDERED, seed=1), WEIGHTS), node_content("icu-1")
    order.config_records[ORDER]["protocol"] = PROTOCOL + 1
    name.config_records[NODE]["protocol"] = PROTOCOL + 1
    with pytest.raises(ValueError, match="protocol 3"):
        read_order(order)
    with pytest.raises(ValueError, match="protocol 3"):
        read_node(name)
