"""A site's answer to a round: the same every time, and of the model that came."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toy_dataset import toy_examples

from nescient_fl.errors import UserError
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES, Recipe, recipe_to_json
from nescient_fl.lesion.training import EpochResult, predict_logits
from nescient_fl.messages import RoundOrder
from nescient_fl.radiographs.cache import PixelCache
from nescient_fl.study.run_folder import RunFolder, write_json
from sites import site
from sites.site import Site, SiteData, load_site_data, open_run_data, site_names

CPU = torch.device("cpu")
RECIPE = RECIPES["default"]


@pytest.fixture(scope="module")
def data() -> SiteData:
    examples = toy_examples(40)
    rows = np.arange(40)
    return SiteData(
        "icu-1",
        train=replace(examples, rows=rows[:24]),
        validation=replace(examples, rows=rows[24:32]),
        test=replace(examples, rows=rows[32:]),
    )


@pytest.fixture(scope="module")
def weights() -> Weights:
    return get_weights(build_network(seed=1))


def order(number: int = 1, recipe: Recipe = RECIPE, train: bool = True, epochs: int = 1) -> RoundOrder:
    return RoundOrder(number, 5, epochs, 7, recipe_to_json(recipe), train)


def test_the_same_order_and_model_give_the_same_answer(data: SiteData, weights: Weights) -> None:
    torch.manual_seed(1)
    _, first_counts, first = Site(data, CPU).answer(order(), weights)
    torch.manual_seed(2)
    site = Site(data, CPU)
    site.answer(order(3), weights)
    _, again_counts, again = site.answer(order(), weights)
    assert first is not None
    assert again is not None
    assert weights_sha256(first) == weights_sha256(again)
    assert np.array_equal(first_counts.positives, again_counts.positives)
    assert first_counts.loss_sum == again_counts.loss_sum


def test_an_answer_is_worked_out_on_one_thread_whatever_the_process_has(
    data: SiteData, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    train = site.train_epoch

    def watched(*arguments: Any) -> EpochResult:
        seen.append(torch.get_num_threads())
        return train(*arguments)

    monkeypatch.setattr(site, "train_epoch", watched)
    torch.set_num_threads(2)
    try:
        Site(data, CPU).answer(order(), weights)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1]


@pytest.mark.parametrize("change", ["round", "seed", "site"])
def test_rounds_seeds_and_sites_draw_differently(data: SiteData, weights: Weights, change: str) -> None:
    _, _, usual = Site(data, CPU).answer(order(), weights)
    other_data = replace(data, name="ward-1") if change == "site" else data
    other_order = {"round": order(2), "seed": replace(order(), seed=8), "site": order()}[change]
    _, _, other = Site(other_data, CPU).answer(other_order, weights)
    assert usual is not None
    assert other is not None
    assert weights_sha256(usual) != weights_sha256(other)


def test_the_counts_are_those_of_the_model_that_came(data: SiteData, weights: Weights) -> None:
    _, counts, _ = Site(data, CPU).answer(order(), weights)
    logits = predict_logits(build_network(seed=1), data.validation, RECIPE, CPU)
    expected = ScoreCounts.of(logits, data.validation.labels)
    assert np.array_equal(counts.positives, expected.positives)
    assert np.array_equal(counts.negatives, expected.negatives)
    assert counts.loss_sum == pytest.approx(expected.loss_sum)
    assert counts.images == 8


def test_the_update_is_trained_minus_global_and_the_model_that_came_is_left_alone(
    data: SiteData, weights: Weights
) -> None:
    """Two epochs in one round end where one epoch ends that goes on from the first one's model."""
    before = weights_sha256(weights)
    report, _, update = Site(data, CPU).answer(order(), weights)
    assert weights_sha256(weights) == before
    assert update is not None
    assert list(update) == list(weights)
    assert all(value.dtype == torch.float32 for value in update.values())
    # Adam's first steps move each weight by about the step size, 1e-3, a batch.
    largest = max(float(value.abs().max()) for value in update.values())
    assert 1e-4 < largest < 2 * RECIPE.learning_rate * 2
    _, _, late = Site(data, CPU).answer(order(number=5), weights)
    assert late is not None
    assert max(float(value.abs().max()) for value in late.values()) < 2 * RECIPE.final_rate * largest
    assert (report.site, report.images) == ("icu-1", 24)
    assert 0.3 < report.loss < 1.2
    assert 0 <= report.accuracy <= 1
    assert report.seconds > 0


def test_to_score_only_sends_no_update(data: SiteData, weights: Weights) -> None:
    report, counts, update = Site(data, CPU).answer(order(train=False), weights)
    assert update is None
    assert counts.images == 8
    assert report.images == 24


def test_the_proximal_recipe_holds_the_update_small(data: SiteData, weights: Weights) -> None:
    def norm(recipe: Recipe) -> float:
        _, _, update = Site(data, CPU).answer(order(recipe=recipe, epochs=3), weights)
        assert update is not None
        return float(torch.cat([value.flatten() for value in update.values()]).norm())

    assert norm(replace(RECIPE, proximal=1000.0)) < 0.7 * norm(RECIPE)


def test_training_that_diverges_is_an_error_and_no_answer(data: SiteData, weights: Weights) -> None:
    with pytest.raises((FloatingPointError, ValueError), match="diverged"):
        Site(data, CPU).answer(order(recipe=replace(RECIPE, learning_rate=1e30), epochs=2), weights)


def test_a_model_that_is_not_finite_is_refused(data: SiteData, weights: Weights) -> None:
    broken = {**weights, "dense3.bias": torch.tensor([float("nan")])}
    with pytest.raises(ValueError, match="diverged"):
        Site(data, CPU).answer(order(), broken)


def partition() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(6)],
            "patient": list("aabbcc"),
            "site": ["ward-1", "ward-1", "icu-1", "icu-1", "ward-1", "icu-1"],
            "split": ["train", "test", "train", "validation", "validation", "test"],
            "target": [1, 0, 1, 0, 0, 1],
        }
    )


def test_a_site_has_its_own_rows_and_no_others() -> None:
    examples = toy_examples(6)
    cache = PixelCache(Path("none"), "key", "upright", examples.pixels, examples.mean, examples.std, pd.DataFrame())
    assert site_names(partition()) == ["icu-1", "ward-1"]
    icu, ward = (load_site_data(cache, partition(), name) for name in ("icu-1", "ward-1"))
    assert (icu.train.rows.tolist(), icu.validation.rows.tolist(), icu.test.rows.tolist()) == ([2], [3], [5])
    assert (ward.train.rows.tolist(), ward.validation.rows.tolist(), ward.test.rows.tolist()) == (
        [0],
        [4],
        [1],
    )
    assert icu.test.labels.tolist() == [1]
    assert icu.train.pixels is cache.pixels


def test_a_cache_that_is_gone_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    partition().to_csv(run.partition, index=False)
    write_json(run.config, {"cache": str(tmp_path / "gone")})
    with pytest.raises(UserError, match=r"gone is gone.*new run"):
        open_run_data(run.path)
