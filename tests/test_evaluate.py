"""A finished model scored on a dataset: the right images, the right figures, and clear words for every mistake."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving.saved_models import write_model, write_run
from torch.nn.functional import sigmoid

from nescient_fl.arms.evaluation import EvaluationOptions, describe_scores, evaluate_plain
from nescient_fl.evaluate import evaluate
from nescient_fl.lesion.metrics import HeldOut
from nescient_fl.serving.model import load_model
from nescient_fl.study.checkpoint import save_checkpoint
from nescient_fl.study.run_folder import read_json, write_json

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_as_module: Run) -> Run:
    return partial(run_as_module, evaluate)


def test_a_run_is_scored_on_its_own_held_out_patients(tmp_path: Path, toy_dataset: Path, command: Run) -> None:
    result = write_run(tmp_path / "run", toy_dataset)
    out = tmp_path / "figures.json"
    status, said, error = command(tmp_path / "run", "--out", out)
    assert (status, error) == (0, "")
    assert "60 images are left out: the model was trained on those patients" in said
    assert "30 images of 30 patients" in said
    figures = read_json(out)
    model = load_model(tmp_path / "run")
    held_out = result.table.iloc[::3]
    pixels = torch.from_numpy(np.array(result.cache.pixels[::3])).float()
    mean, std = (
        torch.from_numpy(values[::3].copy()).view(-1, 1, 1) for values in (result.cache.mean, result.cache.std)
    )
    with torch.inference_mode():
        scores = sigmoid(model.network()(((pixels - mean) / std).unsqueeze(1))).squeeze(1).numpy()
    lesion = held_out["target"].to_numpy() == 1
    half = figures["plain"]["half"]
    assert half["recall"]["value"] == pytest.approx(np.mean(scores[lesion] >= 0.5))
    pairs = scores[lesion][:, None] - scores[~lesion][None, :]
    assert half["auroc"]["value"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)), abs=1e-6)
    assert half["auroc"]["low"] <= half["auroc"]["value"] <= half["auroc"]["high"]
    assert re.search(rf"in clear +0\.50 +{half['recall']['value']:.2f} ", said)


def test_trained_images_are_known_in_a_renamed_copy_too(tmp_path: Path, toy_dataset: Path) -> None:
    write_run(tmp_path / "run", toy_dataset)
    copy = tmp_path / "elsewhere"
    shutil.copytree(toy_dataset, copy)
    found = evaluate_plain(tmp_path / "run", EvaluationOptions(data=copy, device="cpu"))
    assert found.figures["data"]["images"] == len(found.data.examples) == len(found.logits) == 30


def test_a_models_file_alone_is_scored_on_everything(tmp_path: Path, toy_dataset: Path) -> None:
    write_model(tmp_path / "model.safetensors", threshold=None)
    options = EvaluationOptions(data=toy_dataset, device="cpu")
    figures = evaluate_plain(tmp_path / "model.safetensors", options).figures
    assert figures["data"]["images"] == 90
    assert figures["plain"]["operating_point"] is None
    assert figures["encrypted"] is None


def test_some_images_are_the_same_ones_for_the_same_seed(tmp_path: Path, toy_dataset: Path) -> None:
    write_model(tmp_path / "model.safetensors")

    def rows(seed: int) -> list[int]:
        options = EvaluationOptions(data=toy_dataset, device="cpu", images=12, seed=seed)
        found = evaluate_plain(tmp_path / "model.safetensors", options)
        return [int(row) for row in found.data.examples.rows]

    first = rows(0)
    assert len(first) == 12
    assert first == sorted(first) == rows(0)
    assert first != rows(1)


def test_the_operating_point_changes_recall_and_not_auroc() -> None:
    held_out = HeldOut(np.array([0, 0, 1, 1]), np.arange(4))
    logits = np.array([-3.0, -1.0, -0.5, 2.0])
    found = describe_scores(logits, 0.3, held_out, 0)
    assert found["half"]["recall"]["value"] == 0.5
    assert found["operating_point"]["recall"]["value"] == 1.0
    assert found["operating_point"]["threshold"] == 0.3
    assert "auroc" not in found["operating_point"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "does not exist"),
        (["empty", "DATA"], "holds no model.safetensors"),
        (["begun", "DATA"], "go on with --resume"),
        (["text.safetensors", "DATA"], "damaged, or no model"),
        (["other.safetensors", "DATA"], "no finished model"),
        (["small.safetensors", "DATA"], "not a model of the lesion network"),
        (["threshold.safetensors", "DATA"], "no score"),
        (["nan.safetensors", "DATA"], "not finite"),
        (["good.safetensors"], "name the folder of the radiographs too"),
        (["good.safetensors", "nowhere"], "does not exist"),
        (["good.safetensors", "empty"], "no dataset known here"),
        (["good.safetensors", "DATA", "--images", "0"], "--images must be 1 or more"),
        (["good.safetensors", "DATA", "--cohort", "mine"], "--cohort mine is unknown"),
        (["good.safetensors", "DATA", "--device", "tpu"], "unknown device"),
        (["good.safetensors", "DATA", "--out", "nowhere/figures.json"], "--out"),
        (["good.safetensors", "DATA", "--imags", "3"], "--imags"),
        (["good.safetensors", "DATA", "--batch", "3"], "--batch goes with --encrypted"),
        (["good.safetensors", "DATA", "--check-dealer"], "--check-dealer goes with --encrypted"),
        (["good.safetensors", "DATA", "--encrypted", "--batch", "0"], "--batch is a whole number"),
    ],
)
def test_every_mistake_is_one_line(
    tmp_path: Path,
    toy_dataset: Path,
    command: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "begun"):
        Path(folder).mkdir()
    write_json(Path("begun/config.json"), {"settings": {}})
    Path("text.safetensors").write_text("no model")
    weights = write_model(Path("good.safetensors"))
    write_model(Path("threshold.safetensors"), threshold=7)
    about: dict[str, Any] = {"geometry": "upright", "standardise": True, "activation": "relu", "sha256": ""}
    save_checkpoint(Path("other.safetensors"), {"weights": weights}, about)
    save_checkpoint(Path("small.safetensors"), {"model": {"a": torch.ones(2)}}, about)
    name = next(iter(weights))
    save_checkpoint(Path("nan.safetensors"), {"model": {**weights, name: weights[name] * float("nan")}}, about)
    status, _, error = command(*[str(toy_dataset) if word == "DATA" else word for word in arguments])
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_figures_are_json_without_nan(tmp_path: Path, toy_dataset: Path, command: Run) -> None:
    write_model(tmp_path / "model.safetensors", threshold=1.0)
    out = tmp_path / "figures.json"
    assert command(tmp_path / "model.safetensors", toy_dataset, "--images", "3", "--out", out)[0] == 0
    figures = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert figures["plain"]["operating_point"]["precision"]["value"] is None


@pytest.mark.slow
def test_encrypted_scores_are_the_plain_ones_and_every_cost_is_told(
    tmp_path: Path, toy_dataset: Path, command: Run
) -> None:
    write_run(tmp_path / "run", toy_dataset)
    out = tmp_path / "figures.json"
    asked = ("--encrypted", "--check-dealer", "--batch", "2", "--images", "5")
    status, said, error = command(tmp_path / "run", *asked, "--out", out)
    assert (status, error) == (0, "")
    figures = read_json(out)
    assert re.search(r"encrypted +0\.50", said)
    assert "Encryption changed 0 of 5 decisions" in said
    assert "Every image was scored twice, and no two scores of one differ." in said
    assert figures["dealer_checked"]
    protocol = figures["protocol"]
    assert protocol["images"] == 5
    assert protocol["agreement"] == 1.0
    assert 0 < protocol["max_abs_logit_error"] <= 1e-3
    assert figures["encrypted"]["half"]["recall"] == figures["plain"]["half"]["recall"]
    assert protocol["rounds"] <= 70
    assert 2.4e6 < protocol["bytes_per_party"] <= 2 * 3e6, "for both of an image's scores"
    assert protocol["stock_ratio"] is None
    assert sum(layer["rounds"] for layer in protocol["by_layer"]) == protocol["rounds"]
    assert set(protocol["peak_memory"]) == {"owner", "clinic", "dealer"}
