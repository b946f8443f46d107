"""Tuning on shares takes the very steps of its twin in integers, and nearly those of plain gradient descent."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tuning_in_memory import Floats, Integers, Site, made_up, shared_steps, tune

from nescient_fl.mpc.errors import EncodingError, MaterialError, RangeError
from nescient_fl.mpc.tuning.material import TuningMaterial
from nescient_fl.mpc.tuning.owners import (
    check_result,
    encode_features,
    encode_weights,
    tune_as_data_owner,
    tune_as_model_owner,
)
from nescient_fl.mpc.tuning.plain import tune_in_clear
from nescient_fl.mpc.tuning.plan import LARGEST_FEATURE, LARGEST_WEIGHT, TuningPlan
from nescient_fl.mpc.tuning.sigmoid import (
    BENDS,
    KNOTS,
    LOGIT_BITS,
    SCORE_BITS,
    SIGMOID_ERROR,
    sigmoid_in_integers,
)
from nescient_fl.mpc.tuning.twin import simulate

SIZES = (5, 4, 1)
PLAN = TuningPlan(images=40, sizes=SIZES, steps=12, rate=0.5, momentum=0.5, decay=0.01, sacrificed=1)
APART = 5e-4
"""Of a weight under encryption from plain tuning's: a few units of 2^-12, and the sigmoid's pieces."""


def told(lows: list[Integers]) -> Any:
    left = iter(lows)

    def next_low(shape: tuple[int, ...], shift: int) -> Integers:
        low = next(left)
        assert low.shape == shape
        assert low.max() < 1 << shift
        return low

    return next_low


def in_integers(plan: TuningPlan, site: Site, lows: list[Integers]) -> list[Integers]:
    inputs, labels = encode_features(plan, site.features), site.labels.astype(np.int64)
    return simulate(plan, inputs, labels, encode_weights(plan, site.weights), told(lows))


def farthest(left: list[Any], right: list[Any]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("sizes", [(3, 1), (5, 4, 1), (6, 5, 3, 1)])
@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_steps_on_shares_are_the_twins_word_for_word(sizes: tuple[int, ...], size: float) -> None:
    plan, site = replace(PLAN, sizes=sizes, steps=4), made_up(sizes, size=size)
    found, lows = shared_steps(plan, site)
    twin = in_integers(plan, site, lows)
    for mine, other in zip(found, twin, strict=True):
        assert (mine == other).all()
    assert farthest(found, encode_weights(plan, site.weights)) > 1 << 12, "the steps change something"


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("sizes", [(3, 1), (64, 32, 1)])
def test_no_value_leaves_its_width_at_the_edges_of_what_is_allowed(sizes: tuple[int, ...], sign: float) -> None:
    """The largest features, weights and logits there can be, all of one label: gradients as large as they get."""
    weights = [np.full(part.shape, float(LARGEST_WEIGHT)) for part in made_up(sizes).weights]
    weights[-1] = sign * weights[-1]
    labels = np.full(20, float(sign < 0))
    site = Site(np.full((20, sizes[0]), float(LARGEST_FEATURE)), labels, weights)
    for rate in (0.01, 1.0, 100.0):
        plan = TuningPlan(20, sizes, 3, rate, 0.99, 1.0, 0)
        found, lows = shared_steps(plan, site)
        twin = in_integers(plan, site, lows)  # raises where a width does not suffice
        assert all((mine == other).all() for mine, other in zip(found, twin, strict=True))


def test_the_twins_own_check_can_fail() -> None:
    site = made_up(SIZES)
    inputs = 64 * encode_features(PLAN, site.features * 20)
    with pytest.raises(RangeError):
        simulate(
            PLAN,
            inputs,
            site.labels.astype(np.int64),
            [300 * part for part in encode_weights(PLAN, site.weights)],
            lambda shape, _: np.zeros(shape, np.int64),
        )


def test_a_step_that_can_be_taken_by_hand() -> None:
    """Ten images of 1 with a lesion, ten of -1 without; weight and bias 0: scores 1/2, the gradient -1/2 and 0."""
    labels = np.repeat([1.0, 0.0], 10)
    site = Site((2 * labels - 1)[:, None], labels, [np.zeros((1, 2))])
    plan = TuningPlan(20, (1, 1), 1, 1.0, sacrificed=0)
    assert tune(plan, site).tuned[0] == pytest.approx(np.array([[0.5, 0.0]]), abs=2e-6)
    # The second: scores 0.622 and 0.378, gradient -0.378; momentum 1/2 adds 0.25, decay 1/4 takes 0.125 away.
    plan = TuningPlan(20, (1, 1), 2, 1.0, 0.5, 0.25, 0)
    wanted = 0.5 + 0.25 + 1 / (1 + np.exp(0.5)) - 0.125
    assert tune(plan, site).tuned[0] == pytest.approx(np.array([[wanted, 0.0]]), abs=SIGMOID_ERROR)


def test_a_step_through_a_hidden_unit_that_can_be_taken_by_hand() -> None:
    """Images of 2 wake the unit, those of -2 do not: no gradient flows back from them, but into the last bias."""
    labels = np.repeat([1.0, 0.0], 10)
    weights = [np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])]
    site = Site((4 * labels - 2)[:, None], labels, weights)
    tuned = tune(TuningPlan(20, (1, 1, 1), 1, 0.5, sacrificed=0), site).tuned
    # Scores sigmoid(2) = 0.8808 and sigmoid(0) = 0.5: errors -0.1192 and 0.5, for ten images each.
    first, last = np.array([[1 + 0.5 * 0.1192, 0.5 * 0.0596]]), np.array([[1 + 0.5 * 0.1192, -0.5 * 0.1904]])
    assert tuned[0] == pytest.approx(first, abs=5e-4)
    assert tuned[1] == pytest.approx(last, abs=5e-4)


@pytest.mark.parametrize("sizes", [(3, 1), (5, 4, 1), (6, 5, 3, 1)])
def test_plain_tuning_is_torchs_gradient_descent(sizes: tuple[int, ...]) -> None:
    site = made_up(sizes, seed=3)
    plan = replace(PLAN, sizes=sizes, rate=0.25)
    layers = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in site.weights]
    start = [part.detach().clone() for part in layers]
    features, labels = torch.from_numpy(site.features), torch.from_numpy(site.labels)
    optimiser = torch.optim.SGD(layers, lr=plan.effective_rate, momentum=plan.momentum)
    for _ in range(plan.steps):
        values = features
        for number, layer in enumerate(layers):
            values = values @ layer[:, :-1].T + layer[:, -1]
            values = torch.relu(values) if number < len(layers) - 1 else values
        pull = sum(((now - first) ** 2).sum() for now, first in zip(layers, start, strict=True))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(values[:, 0], labels) + plan.decay / 2 * pull
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = tune_in_clear(plan, site.features, site.labels, site.weights)
    assert farthest(found, [part.detach().numpy() for part in layers]) < 1e-6


@pytest.mark.parametrize("sizes", [(3, 1), (5, 4, 1), (6, 5, 3, 1)])
def test_encrypted_tuning_is_plain_tuning_within_fixed_point(sizes: tuple[int, ...]) -> None:
    plan, site = replace(PLAN, sizes=sizes), made_up(sizes, seed=1)
    outcome = tune(plan, site)
    plain = tune_in_clear(plan, site.features, site.labels, site.weights)
    assert farthest(plain, site.weights) > 0.1
    assert farthest(outcome.tuned, plain) <= APART


def test_the_real_size_with_dead_units_and_large_logits() -> None:
    """64 features, 32 units, 400 images; logits go far beyond 12, where a polynomial would be off."""
    generator = np.random.default_rng(5)
    site = made_up((64, 32, 1), 400, seed=5, size=0.5)
    features = np.maximum(site.features * 6, 0) * (generator.random(64) > 0.2)
    site = replace(site, features=features, weights=[2 * part for part in site.weights])
    plan = TuningPlan(400, (64, 32, 1), 20, 0.001, 0.8, 0.01, 2)
    logits = np.maximum(np.c_[features, np.ones(400)] @ site.weights[0].T, 0) @ site.weights[1][0, :-1]
    assert np.abs(logits).max() > 30
    plain = tune_in_clear(plan, site.features, site.labels, site.weights)
    assert farthest(plain, site.weights) > 0.03
    assert farthest(tune(plan, site).tuned, plain) <= 2e-3


def test_tuning_lowers_the_loss() -> None:
    site = made_up(SIZES, seed=2)

    def loss(weights: list[Floats]) -> float:
        values = np.c_[site.features, np.ones(len(site.features))]
        logits = np.c_[np.maximum(values @ weights[0].T, 0), np.ones(len(values))] @ weights[1][0]
        return float(np.logaddexp(0, np.where(site.labels == 1, -logits, logits)).mean())

    assert loss(tune(PLAN, site).tuned) < 0.7 * loss(site.weights)


def test_the_sigmoid_keeps_its_bound_at_every_logit() -> None:
    logits = np.arange(-(20 << LOGIT_BITS), 20 << LOGIT_BITS)
    scores = sigmoid_in_integers(logits)
    exact = 1 / (1 + np.exp(-logits / 2.0**LOGIT_BITS))
    # Half a unit of the logit is at most 1/8 of a unit of the score.
    assert np.abs(scores / 2.0**SCORE_BITS - exact).max() + 2.0 ** -(LOGIT_BITS + 3) <= SIGMOID_ERROR
    assert (np.diff(scores) >= 0).all()
    assert (scores + scores[::-1])[1:].max() <= 1 << SCORE_BITS
    assert sum(BENDS) == 0
    assert KNOTS == tuple(sorted(KNOTS)) == tuple(-knot for knot in reversed(KNOTS))
    far = sigmoid_in_integers(np.array([-(1 << 40), -(30 << LOGIT_BITS), 0, 30 << LOGIT_BITS, 1 << 40]))
    assert far[0] == far[1] > 0
    assert far[2] == 1 << (SCORE_BITS - 1)
    assert far[3] == far[4] < 1 << SCORE_BITS


@given(
    st.integers(20, 4096),
    st.lists(st.integers(1, 200), min_size=1, max_size=3),
    st.floats(1e-3, 100),
    st.floats(0, 0.99),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_keeps_what_it_proves_or_is_refused(
    images: int, sizes: list[int], rate: float, momentum: float, decay: float
) -> None:
    try:
        plan = TuningPlan(images, (*sizes, 1), 5, rate, momentum, decay)
    except MaterialError:
        return
    assert abs(plan.effective_rate / plan.rate - 1) <= 1 / 32
    assert plan.update_width + plan.update_shift <= 64
    for layer in range(plan.layers):
        assert plan.value_bounds[layer + 1] * 2.0**32 < 2.0**63
        assert plan.error_bounds[layer] * 2.0**36 < 2.0**63
    # The widest step: the rate's factor times a gradient summed over images, and the weights' own terms.
    widest = max(v * e for v, e in zip(plan.value_bounds[:-1], plan.error_bounds, strict=True)) * images * 2.0**28
    own = (2.0**plan.update_shift + 2 * plan.momentum_factor + 2 * plan.decay_factor) * LARGEST_WEIGHT * 2.0**20
    assert plan.rate_factor * widest + own < 2.0**63
    assert (plan.rate_factor * widest + own) / 2.0**plan.update_shift + LARGEST_WEIGHT * 2.0**20 < 2.0 ** (
        plan.update_width - 1
    )
    assert TuningPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 19}, "from 20 to 4,096 images"),
        ({"images": 5000}, "images"),
        ({"images": 4096, "sizes": (10, 200, 1)}, "too many for one step"),
        ({"sizes": (5, 4)}, "the last with one output"),
        ({"sizes": (1,)}, "1 to 4 layers"),
        ({"sizes": (0, 1)}, "values of a layer"),
        ({"sizes": (1024, 1024, 1024, 1024, 1), "images": 20}, "too large for the fixed point"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**6}, "steps"),
        ({"rate": 0.0}, "too small"),
        ({"rate": -1.0}, "rate"),
        ({"rate": 101.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"decay": 2.0}, "decay"),
        ({"sacrificed": -1}, "sacrificed"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MaterialError, match=words):
        replace(PLAN, **change)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', PLAN.to_json().replace("40", '"40"'), "[" * 9999])
def test_a_plan_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(MaterialError):
        TuningPlan.from_json(text)


def test_what_is_too_large_or_not_finite_is_refused_before_anything_is_sent() -> None:
    site = made_up(SIZES)
    owners, clinics = TuningMaterial(PLAN, bytes(32), {}), TuningMaterial(PLAN, bytes(32), None)
    nobody: Any = None
    for bad in (np.nan, np.inf, 64.1, -1e30):
        spoilt = site.features.copy()
        spoilt[3, 2] = bad
        with pytest.raises(EncodingError):
            tune_as_data_owner(nobody, spoilt, site.labels, clinics)
        with pytest.raises(EncodingError):
            tune_as_model_owner(nobody, [site.weights[0], np.full((1, 5), bad)], owners)
    for features, labels in ((site.features[:9], site.labels), (site.features, site.labels * 0.5)):
        with pytest.raises(EncodingError):
            tune_as_data_owner(nobody, features, labels, clinics)
    with pytest.raises(EncodingError, match="other shapes"):
        tune_as_model_owner(nobody, site.weights[:1], owners)


def test_weights_that_run_away_are_clamped_and_told() -> None:
    """A rate far too large: plain and encrypted tuning end within the bounds, and the result is refused."""
    site = made_up(SIZES, seed=4)
    plan = replace(PLAN, rate=100.0)
    tuned = tune(plan, site).tuned
    assert max(np.abs(part).max() for part in tuned) == LARGEST_WEIGHT
    with pytest.raises(RangeError, match="smaller rate"):
        check_result(tuned)
    check_result(tune(PLAN, site).tuned)
