"""The write-up's own run, on an easy toy."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toy_dataset import write_toy_dataset

from nescient_fl.arms.centralized import run_centralized
from nescient_fl.arms.evaluation import EvaluationOptions, evaluate_plain
from nescient_fl.errors import UserError
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.radiographs.cache import open_cache
from nescient_fl.serving.model import load_model
from nescient_fl.serving.plans import calibration_of_run
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.study.run_folder import read_json


def centralize(dataset: Path, out: Path | None, epochs: int = 2, **rest: Any) -> dict[str, Any]:
    options = {"data": [str(dataset)], "device": "cpu"}
    return run_centralized(options, epochs=epochs, out=out, resume=rest.get("resume"))


def test_a_line_an_epoch_then_recall_and_precision(
    tmp_path: Path, toy_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = centralize(toy_dataset, tmp_path / "run")
    shown = capsys.readouterr().out
    number = r"\d\.\d{3}"
    for epoch in (1, 2):
        figures = [f"{name}: {number}" for name in ("train loss", "train acc", "val loss", "val acc")]
        line = f"Epoch {epoch}/2  {', '.join(figures)}"
        assert re.search(line, shown), shown
    assert re.search(rf"Recall: {number}, precision: (-|{number})", shown), shown
    assert "81 images to train, 9 to validate" in shown
    assert metrics == read_json(tmp_path / "run" / "metrics.json")
    weights, _ = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert weights_sha256(weights["model"]) == metrics["model_sha256"]


def test_the_same_seed_trains_the_same_model_also_in_two_parts(tmp_path: Path, toy_dataset: Path) -> None:
    whole = centralize(toy_dataset, tmp_path / "whole")
    centralize(toy_dataset, tmp_path / "parts", epochs=1)
    parts = centralize(toy_dataset, None, resume=tmp_path / "parts")
    assert parts["model_sha256"] == whole["model_sha256"]
    again = centralize(toy_dataset, tmp_path / "again")
    assert again["model_sha256"] == whole["model_sha256"]


def test_what_cannot_be_is_refused(tmp_path: Path, toy_dataset: Path) -> None:
    with pytest.raises(UserError, match="--epochs"):
        centralize(toy_dataset, tmp_path / "run", epochs=0)
    centralize(toy_dataset, tmp_path / "run", epochs=1)
    with pytest.raises(UserError, match=r"other settings.*--recipe default \(was paper\)"):
        run_centralized({"recipe": "default"}, epochs=1, out=None, resume=tmp_path / "run")
    with pytest.raises(UserError, match="--out"):
        centralize(toy_dataset, tmp_path / "other", resume=tmp_path / "run")


def test_the_model_has_an_operating_point_and_says_whom_it_was_trained_on(
    tmp_path: Path, toy_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = centralize(toy_dataset, tmp_path / "run")
    saved = load_model(tmp_path / "run")
    point = metrics["operating_point"]
    assert saved.threshold == point["threshold"]
    assert f"threshold {point['threshold']:.3f}, recall {point['recall']['value']:.3f}" in capsys.readouterr().out
    # The highest threshold of the counts' bins at which 0.9 of the nine images' lesions are found.
    table = pd.read_csv(tmp_path / "run" / "partition.csv")
    assert table["split"].value_counts().to_dict() == {"train": 81, "validation": 9}
    held = table[table["split"] == "validation"]
    cache = open_cache(Path(read_json(tmp_path / "run" / "config.json")["cache"]))
    rows = held["row"].to_numpy()
    pixels = torch.from_numpy(np.array(cache.pixels[rows])).float()[:, None] / 255
    with torch.inference_mode():
        scores = torch.sigmoid(saved.network()(pixels)).squeeze(1).numpy()
    lesions = np.sort(scores[held["target"].to_numpy() == 1])
    needed = lesions[len(lesions) - math.ceil(0.9 * len(lesions))]
    assert 0.95 * needed < saved.threshold <= needed
    found = evaluate_plain(tmp_path / "run", EvaluationOptions(data=write_toy_dataset(tmp_path / "more", seed=9)))
    assert found.figures["plain"]["operating_point"]["threshold"] == saved.threshold
    with pytest.raises(UserError, match="trained on every patient here"):
        evaluate_plain(tmp_path / "run", EvaluationOptions(data=toy_dataset))
    assert calibration_of_run(saved, tmp_path / "run") is not None
