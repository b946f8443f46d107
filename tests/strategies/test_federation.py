"""The federation from its first round to its last, on a grid in this process."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_grid import FakeGrid, Notes, ToySite

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.study import run_folder
from nescient_fl.study.run_folder import RunFolder, read_lines
from strategies import federation, plain, state
from strategies.exchange import Stopped
from strategies.federation import FederatedAveraging, FederationPlan
from strategies.server_optimiser import ServerOptimiser
from strategies.state import FederationState, load_state, save_state

NAMES = ("a-1", "b-1", "c-1")


def new_run(folder: Path) -> Path:
    return RunFolder.create(folder).path


def plan(run: Path, rounds: int = 3, **changes: Any) -> FederationPlan:
    made = FederationPlan(
        run=run,
        sites=3,
        rounds=rounds,
        local_epochs=2,
        seed=7,
        recipe=RECIPES["default"],
        asked_sites=changes.get("sites", 3),
        needed_sites=2,
        round_timeout=30.0,
        server=ServerOptimiser("avgm", momentum=0.5),
        join_timeout=5.0,
    )
    return replace(made, **changes)


def toy_sites(**changes: dict[str, Any]) -> list[ToySite]:
    """Three sites with 10, 20 and 30 images; ``changes`` are by a site's letter."""
    return [ToySite(name, images=10 * place, **changes.get(name[0], {})) for place, name in enumerate(NAMES, 1)]


def federate(
    made: FederationPlan,
    sites: list[ToySite] | None = None,
    seed: int = 0,
    prepare: Callable[[FakeGrid], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Notes:
    notes, grid = Notes(), FakeGrid(sites or toy_sites(), seed)
    prepare(grid)
    FederatedAveraging(made, notes, stop or threading.Event()).start(grid)
    return notes


def final(run: Path) -> FederationState:
    found = load_state(RunFolder(run).checkpoints)
    assert found is not None
    return found


def final_sha256(run: Path) -> str:
    return weights_sha256(final(run).weights)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of rounds.jsonl, without what depends on the clock."""
    lines = read_lines(RunFolder(run).rounds)
    for line in lines:
        line.pop("seconds", None)
    return lines


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fake_grid import coordinator_identity

    run = new_run(tmp_path_factory.mktemp("whole") / "run")
    with coordinator_identity():
        federate(plan(run))
    return run


def test_a_run_ends_with_every_model_validated(uninterrupted: Path) -> None:
    assert final(uninterrupted).finished
    assert final(uninterrupted).round == 3
    assert [line["round"] for line in lines_of(uninterrupted)] == [0, 1, 2, 3]


def test_one_round_by_hand(tmp_path: Path) -> None:
    run, sites = new_run(tmp_path / "run"), toy_sites()
    federate(plan(run, rounds=1), sites)
    expected = get_weights(build_network(RECIPES["default"].network, seed=7))
    for name, value in expected.items():
        moved = torch.zeros_like(value, dtype=torch.float64)
        for site in sites:
            moved += site.images / 60 * site._update(site.orders[0], expected)[name].double()
        torch.testing.assert_close(final(run).weights[name], (value + moved).float(), rtol=1e-5, atol=1e-7)


def test_every_site_gets_the_same_orders(tmp_path: Path) -> None:
    sites = toy_sites()
    federate(plan(new_run(tmp_path / "run"), rounds=2), sites)
    for site in sites:
        assert [(order.round, order.train) for order in site.orders] == [(1, True), (2, True), (3, False)]
        assert {(order.rounds, order.local_epochs, order.seed) for order in site.orders} == {(2, 2, 7)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neither_node_ids_nor_the_order_of_answers_change_a_bit(tmp_path: Path, uninterrupted: Path, seed: int) -> None:
    run = new_run(tmp_path / "run")
    notes = federate(plan(run), seed=seed)
    assert notes.joined == list(NAMES)
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


def test_the_lines_of_the_rounds_are_complete(uninterrupted: Path) -> None:
    first, *trained = lines_of(uninterrupted)
    assert set(first) == {"round", "validation", "validation_by_site"}
    for line in trained:
        assert line["sites"] == list(NAMES)
        assert line["failures"] == []
        assert [site["site"] for site in line["by_site"]] == list(NAMES)
        assert [site["images"] for site in line["by_site"]] == [10, 20, 30]
        assert line["local_epochs"] == 2
        assert line["train_loss"] == pytest.approx(0.7)
        assert line["bytes_down_per_site"] > 4 * 102_825
        assert all(site["bytes_up"] > 4 * 102_825 for site in line["by_site"])
    for line in (first, *trained):
        assert line["validation"] == {
            "images": 303,
            "loss": pytest.approx(line["validation"]["loss"]),
            "auroc": pytest.approx(0.5),
            "recall": 1.0,
        }
        assert [site["site"] for site in line["validation_by_site"]] == list(NAMES)


def test_watchers_hear_every_answer_and_every_line(tmp_path: Path) -> None:
    notes = federate(plan(new_run(tmp_path / "run"), rounds=2))
    assert sorted(notes.answered) == [(number, name) for number in (1, 2, 3) for name in NAMES]
    assert [line["round"] for line in notes.lines] == [0, 1, 2]


def test_the_best_model_is_kept_beside_the_last(tmp_path: Path) -> None:
    # Round r's answers score the model of round r - 1.
    run, score = new_run(tmp_path / "run"), {1: 0.5, 2: 0.8, 3: 0.3, 4: 0.3}
    federate(plan(run), toy_sites(**{name: {"auroc": score} for name in "abc"}))
    ended = final(run)
    assert ended.best is not None
    assert (ended.best.round, ended.best.counts.auroc) == (1, pytest.approx(0.8))
    one_round = new_run(tmp_path / "one")
    federate(plan(one_round, rounds=1))
    assert weights_sha256(ended.best.weights) == final_sha256(one_round) != weights_sha256(ended.weights)


def test_the_last_model_may_be_the_best(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    federate(plan(run), toy_sites(**{name: {"auroc": {4: 0.9}} for name in "abc"}))
    best = final(run).best
    assert best is not None
    assert best.round == 3
    assert weights_sha256(best.weights) == final_sha256(run)


def test_a_failing_site_is_named_and_left_out_of_its_round_alone(tmp_path: Path, uninterrupted: Path) -> None:
    run = new_run(tmp_path / "run")
    notes = federate(plan(run), toy_sites(b={"fails": {2: "the disk of b is full"}}))
    assert notes.problems == [(2, "b-1", "the disk of b is full")]
    first, second, third = lines_of(run)[1:]
    assert second["sites"] == ["a-1", "c-1"]
    assert second["failures"] == [{"site": "b-1", "reason": "the disk of b is full"}]
    assert first["failures"] == third["failures"] == []
    assert third["sites"] == list(NAMES)
    assert final_sha256(run) != final_sha256(uninterrupted)


def test_a_round_without_a_site_is_the_average_of_the_others(tmp_path: Path) -> None:
    run, pair = new_run(tmp_path / "run"), new_run(tmp_path / "pair")
    federate(plan(run, rounds=1), toy_sites(b={"fails": {1: "away"}}))
    federate(plan(pair, rounds=1, sites=2), [site for site in toy_sites() if site.name != "b-1"])
    assert final_sha256(run) == final_sha256(pair)


def test_a_silent_site_is_left_out_at_the_deadline(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    notes = federate(plan(run, rounds=1, round_timeout=0.3), toy_sites(c={"silent": frozenset({1})}))
    assert notes.problems == [(1, "c-1", "no answer within 0.3 s")]
    assert lines_of(run)[1]["failures"] == [{"site": "c-1", "reason": "no answer within 0.3 s"}]


def test_an_answer_that_cannot_be_read_counts_as_a_failure(tmp_path: Path) -> None:
    class Garbled(ToySite):
        def answer(self, content: Any) -> Any:
            answer = super().answer(content)
            if self.orders and answer is not None and not hasattr(answer, "code"):
                del answer["counts"]
            return answer

    run = new_run(tmp_path / "run")
    notes = federate(plan(run, rounds=1), [*toy_sites()[:2], Garbled("c-1")])
    assert [(number, site) for number, site, _ in notes.problems] == [(1, "c-1"), (2, "c-1")]
    assert final(run).finished


def test_a_site_that_speaks_in_anothers_name_is_left_out(tmp_path: Path) -> None:
    class Impostor(ToySite):
        def answer(self, content: Any) -> Any:
            if "order" in content:
                self.name = "a-1"
            return super().answer(content)

    run = new_run(tmp_path / "run")
    notes = federate(plan(run, rounds=1), [*toy_sites()[:2], Impostor("c-1")])
    assert [(number, site) for number, site, _ in notes.problems] == [(1, "c-1"), (2, "c-1")]
    assert lines_of(run)[1]["sites"] == ["a-1", "b-1"]


def test_too_few_answers_stop_the_study_with_reasons_and_a_way_on(tmp_path: Path, uninterrupted: Path) -> None:
    run = new_run(tmp_path / "run")
    broken = toy_sites(a={"fails": {2: "a is on fire"}}, c={"fails": {2: "c is flooded"}})
    with pytest.raises(UserError) as caught:
        federate(plan(run), broken)
    for words in ("round 2", "1 of 3", "2 are needed", "a-1: a is on fire", "c-1: c is flooded", "--resume"):
        assert words in str(caught.value)
    assert final(run).round == 1
    federate(plan(run))
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


class Killed(BaseException):
    """Stands for a process that ends where it is."""


def kill_at(patch: pytest.MonkeyPatch, where: Any, name: str, call: int, *, before: bool) -> None:
    """End the process at the n-th call of a function, before or after it did its work."""
    original, calls = getattr(where, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and before:
            raise Killed
        result = original(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    patch.setattr(where, name, counted)


@pytest.mark.parametrize(
    ("where", "name", "call", "before"),
    [
        *((federation, "append_line", call, before) for call in (1, 2, 3, 4) for before in (True, False)),
        *((federation, "save_state", call, False) for call in (1, 2, 3, 4)),
        (plain, "average", 2, True),
        (state, "save_checkpoint", 2, False),
    ],
    ids=lambda value: "" if hasattr(value, "__name__") else str(value),
)
def test_killed_anywhere_and_resumed_a_run_ends_at_the_same_model(
    tmp_path: Path, uninterrupted: Path, where: Any, name: str, call: int, before: bool
) -> None:
    run = new_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, where, name, call, before=before)
        with pytest.raises(Killed):
            federate(plan(run))
    federate(plan(run), seed=call)
    assert final(run).finished
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


def test_a_finished_run_asks_no_site_again(uninterrupted: Path) -> None:
    sites = toy_sites()
    before = RunFolder(uninterrupted).rounds.read_bytes()
    federate(plan(uninterrupted), sites)
    assert [site.orders for site in sites] == [[], [], []]
    assert RunFolder(uninterrupted).rounds.read_bytes() == before


def test_a_torn_line_of_rounds_is_mended_on_resume(tmp_path: Path, uninterrupted: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, federation, "append_line", 3, before=False)
        with pytest.raises(Killed):
            federate(plan(run))
    path = RunFolder(run).rounds
    path.write_bytes(path.read_bytes()[:-40])
    federate(plan(run))
    assert lines_of(run) == lines_of(uninterrupted)


def test_a_damaged_newest_checkpoint_is_named_and_costs_one_round(tmp_path: Path, uninterrupted: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, federation, "save_state", 2, before=False)
        with pytest.raises(Killed):
            federate(plan(run))
    newest = sorted(RunFolder(run).checkpoints.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(UserError, match=newest.name):
        federate(plan(run))
    newest.unlink()
    assert final(run).round == 1
    federate(plan(run))
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


@pytest.mark.parametrize("push", [1, 2, 3, 5])
def test_a_request_to_stop_leaves_a_run_that_can_go_on(tmp_path: Path, uninterrupted: Path, push: int) -> None:
    run, stop = new_run(tmp_path / "run"), threading.Event()

    def stop_at(grid: FakeGrid) -> None:
        grid.before_push = lambda number: stop.set() if number == push else None

    with pytest.raises(Stopped):
        federate(plan(run), prepare=stop_at, stop=stop)
    federate(plan(run))
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


def test_a_full_disk_stops_the_run_and_it_can_go_on(tmp_path: Path, uninterrupted: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        calls = iter(range(100))

        def full(*_: Any) -> None:
            if next(calls) == 4:
                raise OSError(28, "No space left on device")

        patch.setattr(run_folder.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            federate(plan(run))
    federate(plan(run))
    assert final_sha256(run) == final_sha256(uninterrupted)
    assert lines_of(run) == lines_of(uninterrupted)


def test_two_checkpoints_are_kept_and_the_finished_one_is_last(uninterrupted: Path) -> None:
    names = sorted(path.name for path in RunFolder(uninterrupted).checkpoints.iterdir())
    assert names == ["federated-00003.safetensors", "federated-00004.safetensors"]


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path, uninterrupted: Path) -> None:
    saved = final(uninterrupted)
    save_state(tmp_path, saved)
    found = load_state(tmp_path)
    assert found is not None
    assert found.best is not None
    assert saved.best is not None
    assert weights_sha256(found.weights) == weights_sha256(saved.weights)
    assert weights_sha256(found.best.weights) == weights_sha256(saved.best.weights)
    assert (found.best.counts.positives == saved.best.counts.positives).all()
    assert (found.best.counts.negatives == saved.best.counts.negatives).all()
    assert found.best.counts.loss_sum == saved.best.counts.loss_sum
    assert (found.round, found.pending, found.finished) == (saved.round, saved.pending, saved.finished)


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
