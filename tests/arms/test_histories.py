"""Histories of the arms by hand."""

from typing import Any

import pytest
import torch

from nescient_fl.arms.alone import AloneResult
from nescient_fl.arms.histories import alone_history, federated_history
from nescient_fl.lesion.counts import ScoreCounts


def alone(*lines: dict[str, Any]) -> AloneResult:
    return AloneResult({"a": torch.zeros(1)}, {"a": torch.zeros(1)}, 0, ScoreCounts.empty(), list(lines))


def line(number: int, passes: int, images: int, positives: int, **figures: float | None) -> dict[str, Any]:
    return {"round": number, "image_passes": passes, "images": images, "positives": positives, **figures}


def test_image_passes_are_those_of_the_sites_that_answered() -> None:
    def validated(auroc: float | None) -> dict[str, Any]:
        return {"images": 9, "loss": 0.6, "auroc": auroc, "recall": 0.5}

    found = federated_history(
        [
            {"round": 0, "validation": validated(None)},
            {
                "round": 1,
                "local_epochs": 2,
                "sites": ["a", "b"],
                "images": 40,
                "validation": validated(0.7),
            },
            # With noise every site weighs one: that says nothing of how much was trained.
            {"round": 2, "local_epochs": 2, "sites": ["b"], "images": 1, "validation": validated(0.8)},
        ],
        {"a": 10, "b": 30},
    )
    assert [entry["image_passes"] for entry in found] == [0, 80, 140]
    assert [entry["auroc"] for entry in found] == [None, 0.7, 0.8]
    assert found[1] == {"round": 1, "image_passes": 80, "loss": 0.6, "auroc": 0.7, "recall": 0.5}


def test_several_models_are_joined_by_what_each_counts() -> None:
    one = alone(
        line(0, 0, 10, 1, loss=1.0, auroc=0.9, recall=1.0),
        line(1, 20, 10, 1, loss=0.5, auroc=1.0, recall=0.0),
    )
    two = alone(
        line(0, 0, 30, 3, loss=2.0, auroc=0.5, recall=0.0),
        line(1, 60, 30, 3, loss=1.5, auroc=None, recall=1.0),
    )
    first, second = alone_history([one, two])
    assert first == {
        "round": 0,
        "image_passes": 0,
        "loss": pytest.approx(1.75),
        "auroc": pytest.approx(0.6),
        "recall": pytest.approx(0.25),
    }
    assert second["image_passes"] == 80
    assert second["auroc"] == 1.0
    assert second["recall"] == pytest.approx(0.75)


def test_one_model_keeps_its_history() -> None:
    given = line(0, 5, 10, 1, loss=1.0, auroc=None, recall=0.5)
    assert alone_history([alone(given)]) == [{"round": 0, "image_passes": 5, "loss": 1.0, "auroc": None, "recall": 0.5}]
