"""Tuning under encryption takes the steps of its plain twin; it learns what it is for and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from in_memory import run_parties

from nescient_fl.mpc.errors import EncodingError, MaterialError, SessionAborted
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.tuning import (
    LARGEST_LOGIT,
    SIGMOID_ERROR,
    TuningMaterial,
    TuningPlan,
    deal_tuning,
    sigmoid_polynomial,
    tune_as_data_owner,
    tune_as_model_owner,
    tune_in_clear,
)

PLAN = TuningPlan(images=40, features=5, steps=12, rate=1.0, decay=0.01)


def example(seed: int = 0) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(seed)
    labels = (np.arange(40) % 2).astype(np.float64)
    features = generator.standard_normal((40, 5)) * 0.4 + labels[:, None] * 0.5
    features[:, -1] = 1.0
    return features, labels, generator.standard_normal(5) * 0.3


def tune(plan: TuningPlan, features: Any, labels: Any, weights: Any, spoil: int | None = None) -> tuple[Any, Any]:
    """Tune in memory. Returns the model owner's result and everything that the parties saw."""
    seed, corrections, other = deal_tuning(plan, fresh_stream())
    if spoil is not None:
        corrections = corrections[:spoil]

    def party(exchange: Any) -> Any:
        if exchange.rank == 0:
            return tune_as_model_owner(exchange, plan, weights, TuningMaterial(plan, seed, corrections)), exchange
        return tune_as_data_owner(exchange, plan, features, labels, TuningMaterial(plan, other, None)), exchange

    return tuple(run_parties(2, party))  # type: ignore[return-value]


def test_the_result_is_the_plain_twins_within_fixed_point() -> None:
    features, labels, weights = example()
    (tuned, _), (learned, _) = tune(PLAN, features, labels, weights)
    plain = tune_in_clear(PLAN, features, labels, weights)
    assert learned is None
    assert np.abs(plain - weights).max() > 0.2, "the steps change something"
    assert np.abs(tuned - plain).max() <= 2e-3
    # The polynomial bends the path a little; the exact sigmoid leads to much the same place.
    assert np.abs(plain - tune_in_clear(PLAN, features, labels, weights, exact=True)).max() <= 0.1


def test_tuning_lowers_the_loss() -> None:
    features, labels, weights = example(1)
    (tuned, _), _ = tune(PLAN, features, labels, weights)

    def loss(values: Any) -> float:
        logits = features @ values
        return float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean())

    assert loss(tuned) < loss(weights) - 0.05


def test_the_polynomial_keeps_its_bound() -> None:
    t = np.linspace(-1, 1, 4001)
    approximate = 0.5 + t * np.polyval(sigmoid_polynomial()[::-1], t * t)
    assert np.abs(approximate - 1 / (1 + np.exp(-LARGEST_LOGIT * t))).max() <= SIGMOID_ERROR


def test_what_travels_is_masked_afresh_each_time() -> None:
    # A million features of nothing: whatever of them shows is plain to see.
    plan = replace(PLAN, steps=2)
    labels = np.zeros(40)
    (_, first), (_, second) = tune(plan, np.zeros((40, 5)), labels, np.zeros(5))
    for end in (first, second):
        large = [sent for sent in end.sent if len(sent) % 8 == 0 and len(sent) > 80]
        words = np.concatenate([np.frombuffer(sent, "<u8") for sent in large])
        assert len(set(words.tolist())) == len(words)
        assert abs(float(np.mean(words >> np.uint64(63))) - 0.5) < 0.1
    # Of the result the data owner is told nothing: the last that the model owner sends is empty.
    assert first.sent[-1] == b""
    assert len(second.sent[-1]) == 40


@pytest.mark.parametrize(
    "change",
    [{"images": 19}, {"images": 5000}, {"features": 0}, {"steps": 0}, {"steps": 10**6}, {"rate": 0.0}, {"decay": 2.0}],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MaterialError):
        replace(PLAN, **change)


def test_what_is_too_large_or_not_finite_is_refused_before_anything_is_sent() -> None:
    features, labels, _ = example()
    material = TuningMaterial(PLAN, bytes(32), None)
    for bad in (np.nan, np.inf, 100.0):
        spoilt = features.copy()
        spoilt[3, 2] = bad
        with pytest.raises(EncodingError):
            tune_as_data_owner(None, PLAN, spoilt, labels, material)  # type: ignore[arg-type]
        with pytest.raises(EncodingError):
            tune_as_model_owner(None, PLAN, np.full(5, bad), material)  # type: ignore[arg-type]
    with pytest.raises(EncodingError):
        tune_as_data_owner(None, PLAN, features[:10], labels, material)  # type: ignore[arg-type]


def test_material_for_another_plan_or_of_another_length_is_refused() -> None:
    features, labels, weights = example()
    with pytest.raises((MaterialError, SessionAborted)):
        tune(PLAN, features, labels, weights, spoil=100)
    material = TuningMaterial(PLAN, bytes(32), None)
    with pytest.raises(MaterialError, match="other products"):
        material.generate_additive_triple((3, 3), (3, 1), "matmul")
    with pytest.raises(MaterialError, match="longer"):
        material.finish()
    with pytest.raises(MaterialError, match="another length"):
        TuningMaterial(PLAN, b"short", None)


def test_a_computation_gone_wrong_is_refused_and_not_returned() -> None:
    features, labels, weights = example()
    seed, corrections, other = deal_tuning(PLAN, fresh_stream())
    wrong = bytearray(corrections)
    wrong[-3] ^= 0x40

    def party(exchange: Any) -> Any:
        if exchange.rank == 0:
            return tune_as_model_owner(exchange, PLAN, weights, TuningMaterial(PLAN, seed, bytes(wrong)))
        return tune_as_data_owner(exchange, PLAN, features, labels, TuningMaterial(PLAN, other, None))

    with pytest.raises(EncodingError, match="out of bounds"):
        run_parties(2, party)
