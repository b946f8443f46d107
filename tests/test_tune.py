"""A last layer tuned on a site's radiographs: the same under encryption as in clear, and better than before."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from serving.saved_models import write_model, write_run

from nescient_fl import cli
from nescient_fl.arms.evaluation import EvaluationOptions, select_examples
from nescient_fl.arms.tuning import TuningOptions, tune_model
from nescient_fl.mpc.tuning import TuningPlan, tune_in_clear
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.model import load_model
from nescient_fl.serving.tuning import embeddings, last_layer, safe_rate, tune_locally
from nescient_fl.tune import tune

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nescient", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.run_command(tune)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_embeddings_and_the_last_layer_are_the_network(tmp_path: Path, toy_dataset: Path) -> None:
    result = write_run(tmp_path / "run", toy_dataset)
    saved = load_model(tmp_path / "run")
    inputs = cached_inputs(result.cache, np.arange(3), True)
    features = embeddings(saved.network(), inputs)
    assert features.shape == (3, 33)
    logits = saved.network()(torch.from_numpy(inputs[0:3])).detach().numpy()[:, 0]
    assert np.allclose(features @ last_layer(saved.weights), logits, atol=1e-5)


def test_a_safe_rate_is_half_of_where_descent_diverges() -> None:
    features = np.diag([2.0, 1.0]) * np.sqrt(2)
    # Second moments 4 and 1; the loss curves at most by a quarter of the larger, and 2 / 1 would be the edge.
    assert safe_rate(features) == pytest.approx(1.0)


def test_tuning_in_clear_lowers_the_loss_of_held_out_patients(tmp_path: Path, toy_dataset: Path) -> None:
    write_model(tmp_path / "model.safetensors")
    out = tmp_path / "tuned.safetensors"
    options = EvaluationOptions(data=toy_dataset, device="cpu")
    found = tune_model(tmp_path / "model.safetensors", options, TuningOptions(rate=2.0), out)
    assert (found["images"], found["held_out"]) == (63, 27)
    assert found["after"]["loss"] < found["before"]["loss"] - 0.01
    before, after = load_model(tmp_path / "model.safetensors"), load_model(out)
    assert after.sha256 == found["model_sha256"] != before.sha256
    for name, value in before.weights.items():
        assert bool((after.weights[name] == value).all()) is not name.startswith("dense3")


@pytest.mark.slow
def test_under_encryption_the_owner_gets_the_plain_twins_layer(tmp_path: Path, toy_dataset: Path) -> None:
    write_run(tmp_path / "run", toy_dataset)
    saved = load_model(tmp_path / "run")
    data = select_examples(saved, None, EvaluationOptions(data=toy_dataset))
    rows = data.examples.rows[:40]
    labels = data.examples.targets[rows].astype(np.float64)
    features = embeddings(saved.network(), cached_inputs(data.cache, rows, True))
    plan = TuningPlan(40, 33, 15, 1.0, 0.01)
    tuned = tune_locally(saved, data.cache, rows, labels, plan.steps, plan.rate, plan.decay)
    plain = tune_in_clear(plan, features, labels, last_layer(saved.weights))
    assert np.abs(tuned - plain).max() <= 5e-3
    assert np.abs(tuned - last_layer(saved.weights)).max() > 0.02
    for_clinic = tune_in_clear(plan, features, labels, last_layer(saved.weights), exact=True)
    assert np.abs(for_clinic - plain).max() <= 0.05


@pytest.mark.slow
def test_the_command_tunes_under_encryption_and_says_what_changed(
    tmp_path: Path, toy_dataset: Path, command: Run
) -> None:
    write_model(tmp_path / "model.safetensors")
    steps = ("--steps", "3", "--rate", "1")
    status, said, error = command("model.safetensors", toy_dataset, "--encrypted", *steps, "--out", "tuned")
    assert (status, error) == (0, "")
    assert "Tuned under encryption on 63 images, scored on 27 more" in said
    assert "before" in said
    moved = last_layer(load_model(tmp_path / "tuned").weights) - last_layer(
        load_model(Path("model.safetensors")).weights
    )
    assert 0 < np.abs(moved).max() < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.safetensors", "DATA", "--out", "nowhere/t"], "name a new file"),
        (["model.safetensors", "DATA", "--out", "model.safetensors"], "name a new file"),
        (["model.safetensors", "DATA", "--out", "t"], "--rate is missing"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--images", "20"], "tuning takes from 20"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "-1"], "rate"),
        (["model.safetensors", "DATA", "--out", "t", "--rate", "1", "--steps", "0"], "from 1 to 1000"),
        (["nowhere", "DATA", "--out", "t"], "does not exist"),
        (["model.safetensors", "nowhere", "--out", "t"], "does not exist"),
        (["model.safetensors", "DATA"], "--out"),
    ],
)
def test_every_mistake_is_one_line(
    tmp_path: Path, toy_dataset: Path, command: Run, arguments: list[str], words: str
) -> None:
    write_model(tmp_path / "model.safetensors")
    status, _, error = command(*[str(toy_dataset) if word == "DATA" else word for word in arguments])
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
