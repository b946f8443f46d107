"""Training without federation: resumed at any round it ends at the same model, in this process or another."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_dataset import toy_examples

from nescient_fl.arms import alone
from nescient_fl.arms.alone import AloneJob, AloneResult, train_alone
from nescient_fl.arms.baselines import train_baselines
from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.network import NetworkOptions, build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES

ROUNDS = 3


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Forty pictures in a memory-mapped file, as a cache has them."""
    made = toy_examples(40)
    path = tmp_path_factory.mktemp("pixels") / "pixels.npy"
    np.save(path, made.pixels)
    return replace(made, pixels=np.load(path, mmap_mode="r"))


def job(examples: Examples, folder: Path, name: str = "pooled", **changes: Any) -> AloneJob:
    made = AloneJob(
        name=name,
        train=replace(examples, rows=np.arange(24)),
        validation=replace(examples, rows=np.arange(24, 40)),
        recipe=replace(RECIPES["default"], batch_size=8),
        rounds=ROUNDS,
        local_epochs=2,
        seed=7,
        device="cpu",
        checkpoint=folder / f"alone-{name}.safetensors",
    )
    return replace(made, **changes)


def same(one: AloneResult, other: AloneResult) -> bool:
    def timeless(result: AloneResult) -> list[dict[str, Any]]:
        return [{**line, "seconds": 0} for line in result.history]

    return (
        weights_sha256(one.weights) == weights_sha256(other.weights)
        and weights_sha256(one.last) == weights_sha256(other.last)
        and one.round == other.round
        and np.array_equal(one.counts.positives, other.counts.positives)
        and one.counts.loss_sum == other.counts.loss_sum
        and timeless(one) == timeless(other)
    )


@pytest.fixture(scope="module")
def uninterrupted(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> AloneResult:
    return train_alone(job(examples, tmp_path_factory.mktemp("whole")), lambda _: None)


def test_the_history_has_a_line_a_round(uninterrupted: AloneResult) -> None:
    assert [line["round"] for line in uninterrupted.history] == [0, 1, 2, 3]
    assert [line["image_passes"] for line in uninterrupted.history] == [0, 48, 96, 144]
    assert uninterrupted.history[0]["train_loss"] is None
    for line in uninterrupted.history:
        assert (line["images"], line["positives"]) == (16, 8)


def test_it_begins_at_the_studys_initial_weights(examples: Examples, tmp_path: Path) -> None:
    result = train_alone(job(examples, tmp_path, rounds=0), lambda _: None)
    assert weights_sha256(result.last) == weights_sha256(get_weights(build_network(RECIPES["default"].network, seed=7)))


def test_the_best_round_by_validation_is_kept(uninterrupted: AloneResult) -> None:
    aurocs = [line["auroc"] for line in uninterrupted.history]
    assert uninterrupted.counts.auroc == aurocs[uninterrupted.round]
    error = uninterrupted.counts.auroc_error
    assert error is not None
    # Nothing after it came near, and it came near whatever was before.
    assert all(later < aurocs[uninterrupted.round] - error for later in aurocs[uninterrupted.round + 1 :])


class Killed(BaseException):
    """Stands for a process that ends where it is."""


@pytest.mark.parametrize("number", range(ROUNDS + 1))
@pytest.mark.parametrize("saved", [False, True], ids=["before saving", "after saving"])
def test_killed_at_any_round_and_resumed_it_ends_at_the_same_model(
    examples: Examples, tmp_path: Path, uninterrupted: AloneResult, number: int, saved: bool
) -> None:
    original = alone.save_checkpoint

    def save(path: Path, groups: Any, values: Any) -> None:
        dies = values["history"][-1]["round"] == number
        if dies and not saved:
            raise Killed
        original(path, groups, values)
        if dies:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone, "save_checkpoint", save)
        with pytest.raises(Killed):
            train_alone(job(examples, tmp_path), lambda _: None)
    said: list[dict[str, Any]] = []
    resumed = train_alone(job(examples, tmp_path), said.append)
    assert same(resumed, uninterrupted)
    assert [line["round"] for line in said] == list(range(number + saved, ROUNDS + 1))


def test_dropout_resumes_to_the_same_model_too(examples: Examples, tmp_path: Path) -> None:
    recipe = replace(RECIPES["default"], network=NetworkOptions(dropout=0.5))
    whole = train_alone(job(examples, tmp_path, "whole", recipe=recipe, rounds=2), lambda _: None)
    first = job(examples, tmp_path, "whole", recipe=recipe, rounds=1, checkpoint=tmp_path / "parts")
    train_alone(first, lambda _: None)
    assert same(train_alone(replace(first, rounds=2), lambda _: None), whole)


def test_processes_side_by_side_give_what_one_process_gives(
    examples: Examples, tmp_path: Path, uninterrupted: AloneResult
) -> None:
    (tmp_path / "alone").mkdir()
    local = {"train": replace(examples, rows=np.arange(12)), "rounds": 1}
    jobs = [job(examples, tmp_path, "local-x", **local), job(examples, tmp_path)]
    reported: list[str] = []
    results = train_baselines(jobs, 2, lambda name, _: reported.append(name), threading.Event())
    assert results is not None
    assert same(results["pooled"], uninterrupted)
    expected = train_alone(job(examples, tmp_path / "alone", "local-x", **local), lambda _: None)
    assert same(results["local-x"], expected)
    assert set(reported) <= {"pooled", "local-x"}


def test_a_request_to_stop_ends_the_processes(examples: Examples, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert train_baselines([job(examples, tmp_path, rounds=500)], 1, lambda *_: None, stop) is None
