"""Every aggregation with every server optimiser and local objective: two rounds, and resumed to the same model."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.study.run_folder import RunFolder, read_lines
from strategies import federation as federation_module
from strategies.federation import FederatedAveraging, FederationPlan
from strategies.server_optimiser import ServerOptimiser
from strategies.state import load_state
from tests.strategies.fake_grid import FakeGrid, ToySite, coordinator_identity
from tests.strategies.secure_grid import NAMES, SecureFederation

OPTIMISERS = {
    "avg": ServerOptimiser(),
    "avgm": ServerOptimiser("avgm", momentum=0.7),
    "adam": ServerOptimiser("adam", learning_rate=0.01),
    "yogi": ServerOptimiser("yogi", learning_rate=0.01),
}
OBJECTIVES = {"plain": 0.0, "prox": 0.5}


class Nobody:
    """A watcher that looks away."""

    def sites_joined(self, names: Any) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None: ...

    def round_aborted(self, round_number: int, reason: str) -> None: ...

    def round_validated(self, line: dict[str, Any]) -> None: ...

    def study_ended(self, reason: str) -> None: ...


def a_plan(folder: Path, optimiser: str, objective: str, **changes: Any) -> FederationPlan:
    made = FederationPlan(
        run=RunFolder.create(folder).path,
        sites=3,
        rounds=2,
        local_epochs=1,
        seed=7,
        recipe=replace(RECIPES["default"], proximal=OBJECTIVES[objective]),
        asked_sites=3,
        needed_sites=3,
        round_timeout=60.0,
        server=OPTIMISERS[optimiser],
        join_timeout=5.0,
    )
    return replace(made, **changes)


def federate(plan: FederationPlan, grid: FakeGrid) -> None:
    FederatedAveraging(plan, Nobody(), threading.Event()).start(grid)


def final(plan: FederationPlan) -> Weights:
    state = load_state(RunFolder(plan.run).checkpoints)
    assert state is not None
    assert state.finished
    return state.weights


def plain_sites() -> list[ToySite]:
    return [ToySite(name, images=10 * place, scale=0.1) for place, name in enumerate(NAMES[:3], 1)]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> SecureFederation:
    return SecureFederation.create(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def in_clear(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Weights]:
    """The last model of every combination, aggregated in clear."""
    found = {}
    with coordinator_identity():
        for optimiser in OPTIMISERS:
            for objective in OBJECTIVES:
                plan = a_plan(tmp_path_factory.mktemp("plain") / "run", optimiser, objective)
                federate(plan, FakeGrid(plain_sites()))
                found[optimiser, objective] = final(plan)
    return found


def run_secure(secure: SecureFederation, plan: FederationPlan, seed: int = 0) -> FederationPlan:
    """Run a study of its own identity: parties open one sum for one model of a run, ever."""
    plan = replace(plan, secure=secure.plan(run=plan.run.parent.name))
    federate(plan, secure.grid(seed=seed))
    return plan


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_secure_study_ends_where_its_plain_twin_does(
    tmp_path: Path, in_clear: dict[tuple[str, str], Weights], optimiser: str, objective: str
) -> None:
    secure = SecureFederation.create(tmp_path)
    plan = run_secure(secure, a_plan(tmp_path / "run", optimiser, objective))
    plain = in_clear[optimiser, objective]
    gaps = torch.cat([(value - plain[name]).abs().flatten() for name, value in final(plan).items()])
    # Yogi's second moment grows or shrinks by a sign, which a rounding may turn for a weight whose squared update
    # is that moment, all but exactly.
    turned = gaps > 1e-6
    assert int(turned.sum()) <= (5 if optimiser == "yogi" else 0)
    assert float(gaps.max()) < 1e-4


def test_no_two_combinations_end_at_the_same_model(in_clear: dict[tuple[str, str], Weights]) -> None:
    assert len({weights_sha256(weights) for weights in in_clear.values()}) == len(OPTIMISERS) * len(OBJECTIVES)


def test_the_proximal_term_reaches_the_sites(tmp_path: Path) -> None:
    sites = plain_sites()
    federate(a_plan(tmp_path / "run", "avg", "prox", rounds=1), FakeGrid(sites))
    assert all('"proximal": 0.5' in order.recipe for site in sites for order in site.orders)


class Killed(BaseException):
    """Stands for a process that ends where it is."""


@pytest.mark.parametrize("optimiser", ["avgm", "adam", "yogi"])
def test_a_secure_study_that_was_killed_goes_on_to_the_same_model(tmp_path: Path, optimiser: str) -> None:
    # Other keys, and with them all shares and envelopes, are drawn anew for the second study.
    whole = run_secure(SecureFederation.create(tmp_path / "whole"), a_plan(tmp_path / "a", optimiser, "prox"))
    secure = SecureFederation.create(tmp_path / "parts")
    parts = replace(a_plan(tmp_path / "b", optimiser, "prox"), secure=secure.plan())
    with pytest.MonkeyPatch.context() as patch:
        saved = federation_module.save_state

        def killed(*arguments: Any) -> None:
            saved(*arguments)
            raise Killed

        patch.setattr(federation_module, "save_state", killed)
        with pytest.raises(Killed):
            federate(parts, secure.grid())
    federate(parts, secure.grid(seed=1))
    assert weights_sha256(final(parts)) == weights_sha256(final(whole))


def test_the_same_seed_gives_the_same_model_though_the_shares_differ(tmp_path: Path) -> None:
    sealed, models = [], []
    for place in ("a", "b"):
        secure = SecureFederation.create(tmp_path / place)
        sites = secure.sites()
        plan = replace(a_plan(tmp_path / place / "run", "yogi", "plain"), secure=secure.plan())
        federate(plan, secure.grid(sites))
        sealed.append([report.ciphertexts for site in sites for report in site.sealed])
        models.append(weights_sha256(final(plan)))
    assert models[0] == models[1]
    assert len(sealed[0]) == len(sealed[1]) == 9
    assert not {part for parts in sealed[0] for part in parts} & {part for parts in sealed[1] for part in parts}


def partial(folder: Path, **changes: Any) -> FederationPlan:
    return a_plan(folder, "adam", "plain", sites=4, asked_sites=3, rounds=4, **changes)


def asked(plan: FederationPlan) -> list[list[str]]:
    return [line["asked"] for line in read_lines(RunFolder(plan.run).rounds) if line["round"] > 0]


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_with_partial_participation_the_seed_draws_the_sites_and_a_resumed_run_the_same(
    tmp_path: Path, aggregation: str
) -> None:
    plans = []
    for place in ("whole", "parts", "other seed"):
        (tmp_path / place).mkdir()
        secure = SecureFederation.create(tmp_path / place, NAMES) if aggregation == "secure" else None
        plan = partial(
            tmp_path / place / "run", secure=secure and secure.plan(), seed=8 if place == "other seed" else 7
        )

        def grid(secure: SecureFederation | None = secure) -> FakeGrid:
            if secure is not None:
                return secure.grid()
            return FakeGrid([ToySite(name, images=10, scale=0.1) for name in NAMES])

        if place == "parts":
            first = replace(plan, rounds=4)
            with pytest.MonkeyPatch.context() as patch:
                saved, calls = federation_module.save_state, iter(range(9))

                def killed(*arguments: Any, saved: Any = saved, calls: Any = calls) -> None:
                    saved(*arguments)
                    if next(calls) == 1:
                        raise Killed

                patch.setattr(federation_module, "save_state", killed)
                with pytest.raises(Killed):
                    federate(first, grid())
        federate(plan, grid())
        plans.append(plan)
    whole, parts, other = plans
    assert asked(whole) == asked(parts) != asked(other)
    assert {len(names) for names in asked(whole)} == {3}
    assert len({tuple(names) for names in asked(whole)}) > 1
    assert weights_sha256(final(whole)) == weights_sha256(final(parts)) != weights_sha256(final(other))


def test_a_site_that_was_not_asked_is_no_failure(tmp_path: Path) -> None:
    sites = [ToySite(name, images=10) for name in NAMES]
    plan = partial(tmp_path / "run")
    federate(plan, FakeGrid(sites))
    for line in read_lines(RunFolder(plan.run).rounds)[1:]:
        assert line["failures"] == []
        assert line["sites"] == line["asked"]
        for site in sites:
            assert (line["round"] in [order.round for order in site.orders]) == (site.name in line["asked"])
