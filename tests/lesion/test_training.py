"""Training: it learns, it repeats itself bit for bit, and each of its switches does what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_dataset import toy_examples

from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples, make_batcher
from nescient_fl.lesion.network import NetworkOptions, Weights, build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import RECIPES, Recipe
from nescient_fl.lesion.training import (
    EpochResult,
    choose_device,
    make_optimiser,
    predict_logits,
    train_epoch,
)

CPU = torch.device("cpu")
STEADY = replace(RECIPES["default"], flip=0.0, shift=0)


@pytest.fixture(scope="module")
def examples() -> Examples:
    return toy_examples(64)


def train(
    examples: Examples, recipe: Recipe, epochs: int = 1, seed: int = 3, anchor: Weights | None = None
) -> tuple[torch.nn.Module, list[EpochResult]]:
    network = build_network(recipe.network, seed=1)
    optimiser = make_optimiser(network, recipe)
    batcher = make_batcher(examples, recipe, CPU, recipe.batch_size)
    results = [
        train_epoch(network, optimiser, batcher, examples.rows, recipe, seed + epoch, anchor) for epoch in range(epochs)
    ]
    return network, results


def few(examples: Examples, count: int = 16) -> Examples:
    return replace(examples, rows=examples.rows[:count])


def test_loss_falls_on_an_easy_task(examples: Examples) -> None:
    network, results = train(examples, replace(STEADY, batch_size=8), epochs=6)
    assert results[0].loss == pytest.approx(np.log(2), abs=0.15)
    assert results[-1].loss < 0.35
    assert results[-1].accuracy > 0.85
    logits = predict_logits(network, examples, STEADY, CPU)
    assert ((logits > 0) == (examples.labels > 0.5)).mean() > 0.9


@pytest.mark.parametrize("network", [NetworkOptions(), NetworkOptions("gelu", 0.5)])
def test_the_same_seed_gives_the_same_weights(examples: Examples, network: NetworkOptions) -> None:
    recipe = replace(RECIPES["default"], network=network)
    torch.manual_seed(1)
    first, first_results = train(few(examples), recipe)
    torch.manual_seed(2)
    second, second_results = train(few(examples), recipe)
    other, _ = train(few(examples), recipe, seed=4)
    assert weights_sha256(get_weights(first)) == weights_sha256(get_weights(second))
    assert first_results == second_results
    assert weights_sha256(get_weights(first)) != weights_sha256(get_weights(other))


def test_dropout_differs_by_seed_alone(examples: Examples) -> None:
    recipe = replace(STEADY, network=NetworkOptions(dropout=0.5), batch_size=64)
    _, one = train(examples, recipe, seed=1)
    _, again = train(examples, recipe, seed=1)
    _, other = train(examples, recipe, seed=2)
    _, without = train(examples, replace(recipe, network=NetworkOptions()), seed=1)
    assert one == again
    assert len({one[0].loss, other[0].loss, without[0].loss}) == 3


def test_scoring_does_not_drop_out_and_follows_the_rows(examples: Examples) -> None:
    network = build_network(NetworkOptions(dropout=0.5), seed=1)
    backwards = replace(examples, rows=examples.rows[::-1].copy())
    logits = predict_logits(network, examples, STEADY, CPU)
    assert logits.dtype == np.float64
    assert logits.shape == (64,)
    np.testing.assert_allclose(predict_logits(network, backwards, STEADY, CPU)[::-1], logits, atol=1e-5)


def test_no_images_give_no_scores(examples: Examples) -> None:
    network = build_network(seed=1)
    assert predict_logits(network, few(examples, 0), STEADY, CPU).shape == (0,)


def test_figures_of_an_epoch_by_hand(examples: Examples) -> None:
    # One batch: the loss and accuracy of an epoch are then those of the initial weights.
    chosen = few(examples)
    network = build_network(STEADY.network, seed=1)
    logits = predict_logits(network, chosen, STEADY, CPU)
    loss = np.logaddexp(0, np.where(chosen.labels > 0.5, -logits, logits)).mean()
    accuracy = ((logits > 0) == (chosen.labels > 0.5)).mean()
    _, (result,) = train(chosen, replace(STEADY, batch_size=16))
    assert result == EpochResult(pytest.approx(loss, rel=1e-4), pytest.approx(accuracy), 16)


def test_the_proximal_term_by_hand(examples: Examples) -> None:
    """With plain gradient descent, mu/2 |w - g|^2 adds mu (w - g) to each gradient."""
    mu, rate = 0.7, 0.01
    chosen, recipe = few(examples), replace(STEADY, batch_size=16)
    weights = get_weights(build_network(seed=1))
    anchor = {name: value + 0.05 for name, value in weights.items()}

    def one_step(recipe: Recipe) -> Weights:
        network = build_network(seed=1)
        optimiser = torch.optim.SGD(network.parameters(), lr=rate)
        batcher = make_batcher(chosen, recipe, CPU, 16)
        train_epoch(network, optimiser, batcher, chosen.rows, recipe, 3, anchor)
        return get_weights(network)

    plain, proximal = one_step(recipe), one_step(replace(recipe, proximal=mu))
    for name in weights:
        pull = plain[name] - rate * mu * (weights[name] - anchor[name])
        torch.testing.assert_close(proximal[name], pull, rtol=1e-4, atol=1e-6)


def test_the_proximal_term_holds_weights_near_the_anchor(examples: Examples) -> None:
    anchor = get_weights(build_network(STEADY.network, seed=1))

    def moved(recipe: Recipe) -> float:
        network, _ = train(few(examples, 32), recipe, epochs=2, anchor=anchor)
        return float(sum((value - anchor[name]).square().sum() for name, value in get_weights(network).items()))

    assert moved(replace(STEADY, proximal=100.0)) < 0.5 * moved(STEADY)


def test_a_proximal_term_needs_an_anchor(examples: Examples) -> None:
    with pytest.raises(ValueError, match="anchor"):
        train(few(examples), replace(STEADY, proximal=1.0))


def test_clipping_bounds_the_step_of_gradient_descent(examples: Examples) -> None:
    chosen, bound = few(examples), 0.01

    def step_length(clip_norm: float | None) -> float:
        recipe = replace(STEADY, batch_size=16, clip_norm=clip_norm)
        network = build_network(seed=1)
        before = get_weights(network)
        optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
        train_epoch(network, optimiser, make_batcher(chosen, recipe, CPU, 16), chosen.rows, recipe, 3)
        after = get_weights(network)
        return float(torch.cat([(after[name] - before[name]).flatten() for name in before]).norm())

    assert step_length(None) > 3 * bound
    assert step_length(bound) == pytest.approx(bound, rel=1e-2)
    assert step_length(1e6) == pytest.approx(step_length(None))


def test_weight_decay_shrinks_weights_that_get_no_gradient(examples: Examples) -> None:
    decayed, _ = train(few(examples), replace(STEADY, weight_decay=10.0))
    plain, _ = train(few(examples), replace(STEADY, weight_decay=0.0))
    name = "dense1.weight"
    assert get_weights(decayed)[name].abs().sum() < get_weights(plain)[name].abs().sum()


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match="tpu"):
        choose_device("tpu")


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match="--device"):
        choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_trains_to_the_same_losses(examples: Examples) -> None:
    device = torch.device("cuda")
    network = build_network(STEADY.network, seed=1).to(device)
    optimiser = make_optimiser(network, STEADY)
    batcher = make_batcher(examples, STEADY, device, STEADY.batch_size)
    result = train_epoch(network, optimiser, batcher, examples.rows, STEADY, 3)
    _, (expected,) = train(examples, STEADY)
    assert result.loss == pytest.approx(expected.loss, abs=1e-2)
    np.testing.assert_allclose(
        predict_logits(build_network(seed=1).to(device), examples, STEADY, device),
        predict_logits(build_network(seed=1), examples, STEADY, CPU),
        atol=1e-3,
    )
