"""Federated averaging by hand, and to the same bits in whatever order answers come."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.averaging import Contribution, average

GLOBAL = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.5]])}


def contribution(site: str, images: int, a: list[float], b: float) -> Contribution:
    return Contribution(site, images, {"a": torch.tensor(a), "b": torch.tensor([[b]])})


def test_the_mean_is_weighted_by_images() -> None:
    found = average(GLOBAL, [contribution("x", 10, [1.0, 0.0], 4.0), contribution("y", 30, [-1.0, 2.0], 0.0)])
    assert found["a"].tolist() == [1 - 0.5, 2 + 1.5]
    assert found["b"].tolist() == [[0.5 + 1.0]]
    assert found["a"].dtype == torch.float32
    assert list(found) == ["a", "b"]


def test_the_global_model_and_the_updates_are_left_alone() -> None:
    given_update = contribution("x", 1, [1.0, 1.0], 1.0)
    average(GLOBAL, [given_update])
    assert GLOBAL["a"].tolist() == [1.0, 2.0]
    assert given_update.update["a"].tolist() == [1.0, 1.0]


@given(st.integers(1, 9), st.integers(0, 2**32), st.randoms())
def test_the_order_of_answers_changes_no_bit(sites: int, seed: int, order: object) -> None:
    generator = torch.Generator().manual_seed(seed)
    contributions = [
        Contribution(f"site-{n}", 1 + 7 * n, {"a": torch.randn(50, generator=generator)}) for n in range(sites)
    ]
    weights = {"a": torch.randn(50, generator=generator)}
    expected = average(weights, contributions)["a"]
    order.shuffle(contributions)  # type: ignore[attr-defined]
    assert torch.equal(average(weights, contributions)["a"], expected)


def test_small_updates_are_not_lost_beside_many_images() -> None:
    found = average({"a": torch.tensor([0.0])}, [Contribution("x", 10**9, {"a": torch.tensor([1e-8])})])
    assert found["a"].item() == pytest.approx(1e-8)


def test_a_site_without_images_weighs_nothing() -> None:
    both = average(GLOBAL, [contribution("x", 5, [1.0, 1.0], 1.0), contribution("y", 0, [9.0, 9.0], 9.0)])
    assert torch.equal(both["a"], average(GLOBAL, [contribution("x", 5, [1.0, 1.0], 1.0)])["a"])


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="no weight"):
        average(GLOBAL, [])
    with pytest.raises(ValueError, match="no weight"):
        average(GLOBAL, [contribution("x", 0, [1.0, 1.0], 1.0)])
    with pytest.raises(ValueError, match="twice"):
        average(GLOBAL, [contribution("x", 1, [1.0, 1.0], 1.0), contribution("x", 2, [1.0, 1.0], 1.0)])
