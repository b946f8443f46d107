"""Rounds with differential privacy: the ledger is paid before a sum opens, survives resume, and ends the run."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from secure_grid import SecureFederation, SecureGrid

from nescient_fl.errors import UserError
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.mpc.errors import NoiseError
from nescient_fl.mpc.privacy import PrivacyBudget, PrivacyLedger, noise_multiplier_for
from nescient_fl.sealed_messages import SecureOrder
from nescient_fl.study.run_folder import RunFolder, read_lines
from sites.sealing import SitePolicy, check_order
from strategies.exchange import Stopped
from strategies.federation import FederatedAveraging, FederationPlan
from strategies.state import load_state

EPSILON, DELTA, ROUNDS = 8.0, 1e-5, 3


class Stopper:
    """A watcher that asks for a stop after a round's validation."""

    def __init__(self, after: int | None = None) -> None:
        self.stop, self._after = threading.Event(), after
        self.ended: str | None = None

    def sites_joined(self, names: Any) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None: ...

    def round_aborted(self, *told: Any) -> None: ...

    def study_ended(self, reason: str) -> None:
        self.ended = reason

    def round_validated(self, line: dict[str, Any]) -> None:
        if line["round"] == self._after:
            self.stop.set()


@pytest.fixture
def secure(tmp_path: Path) -> SecureFederation:
    return SecureFederation.create(tmp_path / "keys")


def budget_for(sums: int) -> PrivacyBudget:
    return PrivacyBudget(EPSILON, DELTA, noise_multiplier_for(EPSILON, DELTA, sums))


def a_plan(secure: SecureFederation, folder: Path, budget: PrivacyBudget) -> FederationPlan:
    run = RunFolder(folder) if folder.exists() else RunFolder.create(folder)
    private = secure.plan(noise_multiplier=budget.noise_multiplier, ledger=PrivacyLedger(run.ledger, budget), clip=1.0)
    return FederationPlan(
        run=run.path,
        sites=3,
        rounds=ROUNDS,
        local_epochs=1,
        seed=7,
        recipe=RECIPES["default"],
        asked_sites=3,
        needed_sites=3,
        round_timeout=60.0,
        join_timeout=5.0,
        secure=private,
    )


def private_grid(secure: SecureFederation, multiplier: float) -> SecureGrid:
    sites = secure.sites()
    for site in sites:
        assert site.policy is not None
        site.policy = replace(site.policy, noise_multiplier=multiplier)
    return secure.grid(sites)


def start(plan: FederationPlan, grid: SecureGrid, after: int | None = None) -> None:
    watcher = Stopper(after)
    FederatedAveraging(plan, watcher, watcher.stop).start(grid)


def test_each_sum_is_paid_for_and_the_report_says_nothing_it_cannot_know(
    secure: SecureFederation, tmp_path: Path
) -> None:
    budget = budget_for(ROUNDS + 1)
    plan = a_plan(secure, tmp_path / "run", budget)
    start(plan, private_grid(secure, budget.noise_multiplier))
    lines = read_lines(RunFolder(plan.run).ledger)
    assert [line["epsilon"] for line in lines] == [budget.spent(number) for number in range(1, ROUNDS + 2)]
    assert lines[-1]["epsilon"] <= EPSILON
    rounds = read_lines(RunFolder(plan.run).rounds)
    assert [line["round"] for line in rounds] == list(range(ROUNDS + 1))
    for line in rounds:
        assert line["validation"]["loss"] is None
        assert line["validation"]["images"] is None
    assert all(line["images"] == 3 for line in rounds[1:])  # every site weighs one
    state = load_state(RunFolder(plan.run).checkpoints)
    assert state is not None
    assert state.best is not None
    assert state.best.round == ROUNDS  # noisy counts choose nothing


def test_the_opened_sum_is_noisy_and_the_model_moves_by_it(tmp_path: Path) -> None:
    budget = budget_for(ROUNDS + 1)
    for run in ("a", "b"):
        secure = SecureFederation.create(tmp_path / f"keys-{run}")
        start(a_plan(secure, tmp_path / run, budget), private_grid(secure, budget.noise_multiplier))
    states = [load_state(RunFolder(tmp_path / run).checkpoints) for run in ("a", "b")]
    first, second = (np.concatenate([w.numpy().ravel() for w in state.weights.values()]) for state in states if state)
    # Two parties' noise in each of three sums of three sites, twice: the difference of two runs.
    clip_share = 1.0 * budget.noise_multiplier / 0.95**0.5 / 3
    assert (first - second).std() == pytest.approx(clip_share * (2 * ROUNDS * 2) ** 0.5, rel=0.05)


def test_the_run_stops_before_the_budget_is_exceeded_and_says_so(secure: SecureFederation, tmp_path: Path) -> None:
    budget = budget_for(2)
    plan = a_plan(secure, tmp_path / "run", budget)
    grid = private_grid(secure, budget.noise_multiplier)
    watcher = Stopper()
    FederatedAveraging(plan, watcher, watcher.stop).start(grid)
    assert "the privacy budget is spent: one more sum would cost epsilon" in str(watcher.ended)
    assert grid.sums == 2
    assert len(plan.secure.ledger.keys) == 2  # type: ignore[union-attr]
    state = load_state(RunFolder(plan.run).checkpoints)
    assert state is not None
    assert (state.round, state.finished, state.ended) == (2, True, watcher.ended)
    # It stays spent for whoever goes on.
    again = private_grid(secure, budget.noise_multiplier)
    start(a_plan(secure, tmp_path / "run", budget), again)
    assert again.sums == 0


def test_a_resumed_run_goes_on_with_what_was_spent(secure: SecureFederation, tmp_path: Path) -> None:
    budget = budget_for(ROUNDS + 1)
    with pytest.raises(Stopped):
        start(a_plan(secure, tmp_path / "run", budget), private_grid(secure, budget.noise_multiplier), after=1)
    before = RunFolder(tmp_path / "run").ledger.read_bytes()
    spent = len(read_lines(RunFolder(tmp_path / "run").ledger))
    assert 0 < spent < ROUNDS + 1
    start(a_plan(secure, tmp_path / "run", budget), private_grid(secure, budget.noise_multiplier))
    after = RunFolder(tmp_path / "run").ledger.read_bytes()
    assert after.startswith(before)
    lines = read_lines(RunFolder(tmp_path / "run").ledger)
    assert len({line["sum"] for line in lines}) == len(lines) == ROUNDS + 1
    assert lines[-1]["epsilon"] == budget.spent(ROUNDS + 1) <= EPSILON


def test_a_site_that_asks_for_noise_takes_no_part_without(secure: SecureFederation) -> None:
    policy = SitePolicy(secure.vault.keys("a-1"), secure.vault.roster(), 3, noise_multiplier=1.5)
    weights = {"w": torch.zeros(4)}
    for multiplier, good in ((0.0, False), (1.49, False), (1.5, True), (3.0, True)):
        plan = secure.plan(noise_multiplier=multiplier, clip=1.0)
        for train in (True, False):
            order = SecureOrder("run", plan.roster.digest, plan.terms(weights, train))
            if good:
                check_order(order, policy)
            else:
                with pytest.raises(NoiseError, match="less noise than this site asks for"):
                    check_order(order, policy)
            for part in ("update_noise", "metrics_noise"):
                with pytest.raises(NoiseError):
                    check_order(replace(order, terms=replace(order.terms, **{part: 1.0})), policy)


def test_a_site_that_shares_its_figures_cannot_ask_for_noise(secure: SecureFederation) -> None:
    with pytest.raises(UserError, match="choose one"):
        SitePolicy(secure.vault.keys("a-1"), secure.vault.roster(), 3, share_metrics=True, noise_multiplier=1.0)
