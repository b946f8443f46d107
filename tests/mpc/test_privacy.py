"""The privacy ledger: dp-accounting's own answer, each sum paid for once, and never more than the budget."""

import json
import math
import tempfile
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.mpc.privacy import BudgetSpent, PrivacyBudget, PrivacyLedger, noise_multiplier_for


def test_the_ledger_is_dp_accountings_own_answer() -> None:
    budget = PrivacyBudget(8.0, 1e-5, 2.5)
    for sums in (1, 5, 17):
        accountant = RdpAccountant()
        for _ in range(sums):
            accountant.compose(dp_accounting.GaussianDpEvent(2.5))
        assert budget.spent(sums) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert budget.spent(0) == 0


def test_the_noise_is_just_enough_for_the_budget() -> None:
    multiplier = noise_multiplier_for(4.0, 1e-5, 10)
    assert 3.9 < PrivacyBudget(4.0, 1e-5, multiplier).spent(10) <= 4.0
    assert PrivacyBudget(4.0, 1e-5, multiplier).spent(11) > 4.0


def test_a_sum_is_paid_for_once_and_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    budget = PrivacyBudget(4.0, 1e-5, noise_multiplier_for(4.0, 1e-5, 2))
    ledger = PrivacyLedger(tmp_path / "privacy.jsonl", budget)
    first = ledger.charge("one")
    assert ledger.charge("one") == first
    # A resumed run reads what was spent from the file.
    resumed = PrivacyLedger(tmp_path / "privacy.jsonl", budget)
    assert resumed.epsilon == first < resumed.charge("two")
    before = (tmp_path / "privacy.jsonl").read_bytes()
    with pytest.raises(BudgetSpent, match="privacy budget is spent"):
        resumed.charge("three")
    assert (tmp_path / "privacy.jsonl").read_bytes() == before
    assert resumed.keys == ["one", "two"]


def test_a_damaged_ledger_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    path.write_text('{"sum": "one"')
    with pytest.raises(UserError, match="damaged"):
        PrivacyLedger(path, PrivacyBudget(1.0, 1e-5, 5.0)).charge("two")


def by_hand(multiplier: float, delta: float, sums: int) -> float:
    """Bound epsilon without any library: the zero-concentrated privacy of Bun and Steinke (2016).

    So many sums are rho-zCDP with rho = sums / (2 z^2), which is (rho + 2 sqrt(rho ln(1 / delta)), delta)-private.
    """
    rho = sums / (2 * multiplier**2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def exact(multiplier: float, delta: float, sums: int) -> float:
    """Find the epsilon of a Gaussian mechanism by its exact curve (Balle and Wang, ICML 2018), composed exactly."""
    mean = math.sqrt(sums) / multiplier

    def normal(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 1000.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = normal(mean / 2 - middle / mean) - math.exp(min(middle, 700)) * normal(-mean / 2 - middle / mean)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


@settings(max_examples=30, deadline=None)
@given(st.floats(0.8, 50), st.sampled_from([1e-3, 1e-5, 1e-9]), st.integers(1, 60))
def test_what_is_spent_lies_between_the_exact_curve_and_the_bound_by_hand(
    multiplier: float, delta: float, sums: int
) -> None:
    spent = PrivacyBudget(8.0, delta, multiplier).spent(sums)
    assert exact(multiplier, delta, sums) * (1 - 1e-9) <= spent <= by_hand(multiplier, delta, sums) * (1 + 1e-9)


def test_the_discrete_gaussian_is_as_private_as_the_accountant_says() -> None:
    # Renyi divergence of neighbours, counted word by word: that of the continuous Gaussian bounds it.
    support = np.arange(-400, 401).astype(float)
    for sigma, moved in ((2.0, 1.0), (5.0, 3.0), (10.0, 4.0)):
        first, second = (-((support - mean) ** 2) / (2 * sigma**2) for mean in (0.0, moved))
        first, second = first - np.logaddexp.reduce(first), second - np.logaddexp.reduce(second)
        for order in (1.5, 2.0, 8.0, 32.0):
            divergence = np.logaddexp.reduce(order * first + (1 - order) * second) / (order - 1)
            assert divergence <= order * moved**2 / (2 * sigma**2) * (1 + 1e-9)
            assert divergence > 0.9 * order * moved**2 / (2 * sigma**2)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sums"), [(8.0, 1e-5, 17), (1.0, 1e-6, 100), (0.1, 1e-5, 3), (50.0, 1e-5, 1)]
)
def test_a_run_of_the_planned_length_stays_within_its_budget(epsilon: float, delta: float, sums: int) -> None:
    budget = PrivacyBudget(epsilon, delta, noise_multiplier_for(epsilon, delta, sums))
    assert 0.95 * epsilon < budget.spent(sums) <= epsilon
    assert budget.spent(sums + 1) > epsilon


def test_a_budget_that_no_noise_can_keep_is_told() -> None:
    with pytest.raises(UserError, match="no noise gives epsilon 1e-07"):
        noise_multiplier_for(1e-7, 1e-5, 17)


def test_every_line_of_the_ledger_says_what_was_spent(tmp_path: Path) -> None:
    budget = PrivacyBudget(8.0, 1e-5, noise_multiplier_for(8.0, 1e-5, 5))
    ledger = PrivacyLedger(tmp_path / "privacy.jsonl", budget)
    assert ledger.epsilon == 0
    for number in range(5):
        ledger.charge(f"model {number}")
    lines = [json.loads(line) for line in (tmp_path / "privacy.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == [budget.spent(number) for number in range(1, 6)]
    assert {line["noise_multiplier"] for line in lines} == {budget.noise_multiplier}
    assert ledger.epsilon == lines[-1]["epsilon"] <= 8


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=20))
def test_whatever_is_asked_again_and_in_whatever_order_the_budget_holds(asked: list[str]) -> None:
    budget = PrivacyBudget(2.0, 1e-5, noise_multiplier_for(2.0, 1e-5, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "privacy.jsonl"
        paid: list[str] = []
        for key in asked:
            ledger = PrivacyLedger(path, budget)  # as after a restart
            if key in paid or len(paid) < 3:
                ledger.charge(key)
                paid = paid if key in paid else [*paid, key]
            else:
                with pytest.raises(BudgetSpent):
                    ledger.charge(key)
        assert PrivacyLedger(path, budget).keys == paid
        assert PrivacyLedger(path, budget).epsilon <= 2.0


@pytest.mark.parametrize("text", ["x", "{}", "[1]", '{"sum": "one"}\n{"su', "null", "\x00"])
def test_no_line_is_ever_lost_to_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "privacy.jsonl").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        _ = PrivacyLedger(tmp_path / "privacy.jsonl", PrivacyBudget(1.0, 1e-5, 5.0)).epsilon
