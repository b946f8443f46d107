"""Scores of a small study's models on its held-out patients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from studies import ARM, check_shape

from nescient_fl.arms.data import StudyData, prepare_data
from nescient_fl.arms.gallery import choose_gallery
from nescient_fl.arms.scoring import ArmModel, ArmRun, Scorer
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.curves import sigmoid
from nescient_fl.lesion.network import Weights, build_network, get_weights
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.lesion.training import predict_logits
from nescient_fl.study.settings import make_settings

CPU = torch.device("cpu")
RECIPE = RECIPES["default"]
RUN = ArmRun([], 0, 1.5)


@pytest.fixture(scope="module")
def data(toy_dataset: Path) -> StudyData:
    settings = make_settings(
        {
            "data": [str(toy_dataset)],
            "clients": 2,
            "aggregation": "plain",
            "partition": "iid",
            "min_images": 20,
            "min_positives": 4,
        }
    )
    return prepare_data(settings, lambda *_: None)


@pytest.fixture(scope="module")
def scorer(data: StudyData) -> Scorer:
    return Scorer(data, RECIPE, CPU, 7, 0.9)


def weights(seed: int) -> Weights:
    return get_weights(build_network(seed=seed))


def validated(data: StudyData, seed: int) -> ScoreCounts:
    examples = data.examples("validation")
    return ScoreCounts.of(predict_logits(build_network(seed=seed), examples, RECIPE, CPU), examples.labels)


def model(data: StudyData, seed: int, *sites: str) -> ArmModel:
    return ArmModel(sites[0], weights(seed), validated(data, seed), sites)


def test_an_arm_of_one_model(data: StudyData, scorer: Scorer) -> None:
    arm = scorer.score_arm([model(data, 1, *data.sites)], RUN)
    check_shape(arm, ARM)
    examples = data.examples("test")
    scores = sigmoid(predict_logits(build_network(seed=1), examples, RECIPE, CPU))
    called, positive = scores >= 0.5, examples.labels > 0.5
    assert arm["confusion"]["half"] == {
        "tp": (called & positive).sum(),
        "fp": (called & ~positive).sum(),
        "tn": (~called & ~positive).sum(),
        "fn": (~called & positive).sum(),
    }
    assert arm["test"]["accuracy"]["value"] == pytest.approx((called == positive).mean(), abs=1e-6)
    assert arm["operating_point"]["threshold"] == validated(data, 1).threshold_for_recall(0.9)
    assert arm["operating_point"]["validation_recall"] >= 0.9
    assert [site["site"] for site in arm["sites"]] == ["site-1", "site-2"]
    assert sum(site["images"] for site in arm["sites"]) == len(examples)
    assert sum(site["positives"] for site in arm["sites"]) == positive.sum()


def test_an_arm_of_several_models_is_their_mean(data: StudyData, scorer: Scorer) -> None:
    models = [model(data, 1, "site-1"), model(data, 2, "site-2")]
    arm = scorer.score_arm(models, RUN)
    alone = [scorer.score_arm([one], RUN) for one in models]
    check_shape(arm, ARM)
    assert arm["operating_point"]["threshold"] is None
    for figure in ("auroc", "brier"):
        assert arm["test"][figure]["value"] == pytest.approx(np.mean([one["test"][figure]["value"] for one in alone]))
    assert arm["confusion"]["half"]["tp"] == np.mean([one["confusion"]["half"]["tp"] for one in alone])
    assert [curve["label"] for curve in arm["curves"]["roc"]] == ["site-1", "site-2"]
    assert arm["sites"] == [site for one in alone for site in one["sites"]]


def test_the_same_model_has_the_same_scores_and_intervals_in_every_arm(data: StudyData, scorer: Scorer) -> None:
    first = scorer.score_arm([model(data, 1, *data.sites)], RUN)
    again = Scorer(data, RECIPE, CPU, 7, 0.9).score_arm([model(data, 1, *data.sites)], RUN)
    assert first == again


def test_no_real_radiograph_is_chosen_for_the_gallery(data: StudyData, scorer: Scorer) -> None:
    # The toy folder is shaped as CheXpert and bears no phantom's mark, so it counts as real.
    assert not data.synthetic
    assert choose_gallery(data, scorer, model(data, 1, *data.sites)) == []
