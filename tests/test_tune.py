"""Last layers tuned on a site's radiographs: the same under encryption as in clear, and better than before."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving.saved_models import write_model, write_run

from nescient_fl.arms.evaluation import EvaluationOptions
from nescient_fl.arms.tuning import TuningOptions, tune_model
from nescient_fl.errors import UserError
from nescient_fl.mpc.tuning.plain import descend, logistic_loss
from nescient_fl.serving.layers import (
    embeddings,
    frozen_digest,
    frozen_model,
    tuned_layers,
    with_layers_tuned,
)
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.model import load_model, save_model
from nescient_fl.serving.rate import curvature_rate, safe_rate
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.tune import tune

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_as_module: Run) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(run_as_module, tune)


@pytest.mark.parametrize(("layers", "features"), [(1, 32), (2, 64)])
def test_embeddings_and_the_last_layers_are_the_network(
    tmp_path: Path, toy_dataset: Path, layers: int, features: int
) -> None:
    result = write_run(tmp_path / "run", toy_dataset)
    saved = load_model(tmp_path / "run")
    inputs = cached_inputs(result.cache, np.arange(3), True)
    values = embeddings(saved.network(), inputs)[layers]
    assert values.shape == (3, features)
    weights = tuned_layers(saved.weights, layers)
    for number, layer in enumerate(weights):
        values = np.c_[values, np.ones(3)] @ layer.T
        values = np.maximum(values, 0) if number < layers - 1 else values
    logits = saved.network()(torch.from_numpy(inputs[0:3])).detach().numpy()
    assert np.allclose(values, logits, atol=1e-5)
    assert with_layers_tuned(saved, weights).sha256 == saved.sha256


@pytest.mark.parametrize("layers", [1, 2])
def test_the_frozen_file_has_nothing_of_the_tuned_layers(tmp_path: Path, layers: int) -> None:
    saved = []
    for seed in (0, 1):
        write_model(tmp_path / f"{seed}.safetensors", seed=seed, threshold=0.3)
        saved.append(load_model(tmp_path / f"{seed}.safetensors"))
    for model in saved:
        save_model(tmp_path / "frozen", frozen_model(model, layers))
        frozen = load_model(tmp_path / "frozen")
        assert frozen.threshold is None
        assert not any(part.any() for part in tuned_layers(frozen.weights, layers))
        assert frozen_digest(frozen, layers) == frozen_digest(model, layers)
        for name in ("convolution.weight", "dense1.weight", "dense1.bias"):
            assert bool((frozen.weights[name] == model.weights[name]).all())
    # With the same layers frozen and others tuned, the clinic's file has the same in it.
    other = with_layers_tuned(saved[0], tuned_layers(saved[1].weights, layers))
    save_model(tmp_path / "one", frozen_model(saved[0], layers))
    save_model(tmp_path / "other", frozen_model(other, layers))
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "other"))
    assert one[1] == two[1]
    assert all(bool((one[0]["model"][name] == value).all()) for name, value in two[0]["model"].items())
    assert frozen_digest(saved[0], layers) != frozen_digest(saved[1], layers)


def test_a_safe_rate_is_half_of_where_descent_diverges() -> None:
    # Second moments of features and the bias's 1, times 4: the largest eigenvalue of [[4, 0], [0, 4]] / 4 and so on.
    features = np.array([[2.0], [-2.0]])
    # J J' / n has eigenvalues 4 and 1; the loss bends at most by 4 / 4 = 1, the edge is 2, half of it 1.
    assert curvature_rate(features, [np.zeros((1, 2))]) == pytest.approx(1.0)


def test_a_safe_rate_for_two_layers_is_that_of_torchs_derivatives() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((12, 5))
    weights = [generator.standard_normal((4, 6)), generator.standard_normal((1, 5))]
    parameters = [torch.tensor(part, requires_grad=True) for part in weights]
    rows = []
    for row in torch.from_numpy(features):
        hidden = torch.relu(parameters[0][:, :-1] @ row + parameters[0][:, -1])
        logit = parameters[1][0, :-1] @ hidden + parameters[1][0, -1]
        rows.append(torch.cat([part.reshape(-1) for part in torch.autograd.grad(logit, parameters)]))
    jacobian = torch.stack(rows)
    largest = float(torch.linalg.eigvalsh(jacobian.T @ jacobian / 12)[-1])
    assert curvature_rate(features, weights) == pytest.approx(4 / largest)


def test_where_weights_that_grow_make_the_loss_steeper_the_safe_rate_is_smaller() -> None:
    """Weights near 0 bend the loss little where the descent begins, and features of 10 a lot soon after."""
    generator = np.random.default_rng(1)
    features = 10 * np.abs(generator.standard_normal((40, 8)))
    weights = [0.01 * generator.standard_normal((6, 9)), 0.01 * generator.standard_normal((1, 7))]
    labels = (features[:, 0] > features[:, 1]).astype(np.float64)
    first = logistic_loss(features, labels, weights)
    rash, careful = curvature_rate(features, weights), safe_rate(features, weights, 60, 0.01)
    assert careful < rash / 4
    worst = [
        max(
            logistic_loss(features, labels, now) for now in islice(descend(features, labels, weights, rate, 0.8, 0), 60)
        )
        for rate in (rash, careful)
    ]
    assert worst[0] > 2 * first
    assert worst[1] <= 1.01 * first


@pytest.mark.parametrize("layers", [1, 2])
def test_tuning_in_clear_lowers_the_loss_of_held_out_patients(tmp_path: Path, toy_dataset: Path, layers: int) -> None:
    write_model(tmp_path / "model.safetensors")
    out = tmp_path / "tuned.safetensors"
    options = EvaluationOptions(data=toy_dataset, device="cpu")
    tuning = TuningOptions(rate=0.5, layers=layers)
    lines: list[str] = []
    found = tune_model(tmp_path / "model.safetensors", options, tuning, out, lines.append)
    assert (found["images"], found["held_out"]) == (63, 27)
    assert found["after"]["loss"] < found["before"]["loss"] - 0.01
    before, after = load_model(tmp_path / "model.safetensors"), load_model(out)
    assert after.sha256 == found["model_sha256"] != before.sha256
    changed = ("dense2", "dense3")[-layers:]
    for name, value in before.weights.items():
        assert bool((after.weights[name] == value).all()) is not name.startswith(changed)
    assert lines[-1] == "step 60 of 60"


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_under_encryption_the_owner_gets_the_plain_twins_layers(tmp_path: Path, toy_dataset: Path, layers: int) -> None:
    write_run(tmp_path / "run", toy_dataset)
    options, lines, tuned = EvaluationOptions(data=toy_dataset, device="cpu"), [], {}
    for encrypted in (False, True):
        out = tmp_path / f"{encrypted}.safetensors"
        tuning = TuningOptions(steps=15, layers=layers, encrypted=encrypted)
        found = tune_model(tmp_path / "run", options, tuning, out, lines.append)
        tuned[encrypted] = tuned_layers(load_model(out).weights, layers)
    before = tuned_layers(load_model(tmp_path / "run").weights, layers)
    pairs = list(zip(tuned[True], tuned[False], before, strict=True))
    moved = max(np.abs(a - b).max() for a, _, b in pairs)
    assert moved > 0.02
    assert max(np.abs(a - b).max() for a, b, _ in pairs) <= 0.01 * moved
    assert "step 15 of 15" in lines
    assert "material for 1 of 21 steps" in lines
    assert found["protocol"]["rounds"] > 100


@pytest.mark.slow
def test_the_command_tunes_under_encryption_and_says_what_changed(
    tmp_path: Path, toy_dataset: Path, command: Run
) -> None:
    write_model(tmp_path / "model.safetensors")
    steps = ("--steps", "3", "--rate", "0.5")
    status, said, error = command("model.safetensors", toy_dataset, "--encrypted", *steps, "--out", "tuned")
    assert (status, error) == (0, "")
    assert "Tuned under encryption on 63 images, scored on 27 more" in said
    assert "before" in said
    moved = [
        np.abs(after - before).max()
        for after, before in zip(
            tuned_layers(load_model(tmp_path / "tuned").weights, 2),
            tuned_layers(load_model(Path("model.safetensors")).weights, 2),
            strict=True,
        )
    ]
    assert 0 < min(moved) <= max(moved) < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.safetensors", "DATA", "--out", "nowhere/t"], "name a new file"),
        (["model.safetensors", "DATA", "--out", "model.safetensors"], "name a new file"),
        (["model.safetensors", "DATA", "--out", "t"], "--rate is missing"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--images", "20"], "tuning takes from 20"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "-1"], "rate is from 0 to 100"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "nan"], "rate is from 0 to 100"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "0"], "too small"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--steps", "0"], "from 1 to 1,000"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--layers", "3"], "from 1 to 2 layers"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--decay", "2"], "decay"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "100"], "take a smaller rate"),
        (["gelu.safetensors", "DATA", "--out", "t", "--rate", "1"], "take --layers 1"),
        (["nowhere", "DATA", "--out", "t"], "does not exist"),
        (["model.safetensors", "nowhere", "--out", "t", "--rate", "1"], "does not exist"),
        (["model.safetensors", "DATA"], "--out is missing"),
        (["model.safetensors", "DATA", "--keys", "k"], "say --encrypted"),
        (["model.safetensors", "DATA", "--encrypted", "--keys", "k", "--out", "t"], "--out is for the owner to say"),
        (["model.safetensors", "DATA", "--encrypted", "--keys", "k", "--rate", "1"], "--rate is for the owner to say"),
        (["model.safetensors", "DATA", "--encrypted", "--keys", "k"], "--roster is missing"),
        (["model.safetensors", "DATA", "--encrypted", "--config", "k"], "cannot be read"),
    ],
)
def test_every_mistake_is_one_line(
    tmp_path: Path, toy_dataset: Path, command: Run, arguments: list[str], words: str
) -> None:
    write_model(tmp_path / "model.safetensors")
    write_model(tmp_path / "gelu.safetensors", activation="gelu")
    status, _, error = command(*[str(toy_dataset) if word == "DATA" else word for word in arguments])
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "t").exists()


def test_labels_of_one_kind_are_refused(tmp_path: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nescient_fl.arms import tuning

    write_model(tmp_path / "model.safetensors")
    honest = tuning.select_examples

    def one_kind(*arguments: Any) -> Any:
        data = honest(*arguments)
        data.examples.targets[:] = 1
        return data

    monkeypatch.setattr(tuning, "select_examples", one_kind)
    with pytest.raises(UserError, match="with a lesion and without one"):
        tune_model(
            tmp_path / "model.safetensors",
            EvaluationOptions(data=toy_dataset),
            TuningOptions(rate=1.0),
            tmp_path / "out",
        )
