"""The phantom as data: as much in the metadata as in CheXpert, no shortcut, and lesions that are drawn."""

import dataclasses
import gzip
import importlib.resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata

from nescient_fl.radiographs.phantom import write_phantom
from nescient_fl.radiographs.phantom.acquisition import draw_acquisition
from nescient_fl.radiographs.phantom.anatomy import Body
from nescient_fl.radiographs.phantom.canvas import Strokes
from nescient_fl.radiographs.phantom.devices import draw_devices
from nescient_fl.radiographs.phantom.population import ImagePlan, plan_population
from nescient_fl.radiographs.phantom.render import draw_patient, render

IMAGES = 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honesty") / "phantom"
    write_phantom(path, IMAGES, seed=11)
    return path


def planned(images: int, seed: int) -> pd.DataFrame:
    plans = plan_population(images, seed)
    return pd.DataFrame(
        {
            "patient": [plan.patient for plan in plans],
            "code": [plan.code for plan in plans],
            "pa": [plan.view == "PA" for plan in plans],
            "devices": [plan.devices for plan in plans],
            "male": [plan.sex == "Male" for plan in plans],
            "age": [plan.age for plan in plans],
        }
    )


@pytest.fixture(scope="module")
def phantom() -> pd.DataFrame:
    # Many images, planned and not drawn, so that what is compared is the rates and not their noise.
    return planned(40_000, 2)


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    file = importlib.resources.files("torchxrayvision") / "data" / "chexpert_train.csv.gz"
    with file.open("rb") as raw, gzip.open(raw) as text:
        table = pd.read_csv(text)
    table = table[(table["Frontal/Lateral"] == "Frontal") & table["AP/PA"].isin(["AP", "PA"])]
    codes = table["Lung Lesion"].map({1.0: "1.0", 0.0: "0.0", -1.0: "-1.0"}).fillna("")
    return pd.DataFrame(
        {
            "code": codes,
            "pa": table["AP/PA"] == "PA",
            "devices": table["Support Devices"] == 1,
            "male": table["Sex"] == "Male",
            "age": table["Age"],
        }
    )


def test_marginals_within_a_class_are_chexperts(phantom: pd.DataFrame, real: pd.DataFrame) -> None:
    for code, rows in phantom.groupby("code"):
        there = real[real["code"] == code]
        # A patient's images mostly come from one setting, so it is patients that shrink the noise.
        near = 0.02 + 1.0 / np.sqrt(rows["patient"].nunique())
        for name in ("pa", "devices", "male"):
            assert rows[name].mean() == pytest.approx(there[name].mean(), abs=near), (code, name)
        assert rows["age"].mean() == pytest.approx(there["age"].mean(), abs=2.0)
        assert rows["age"].std() == pytest.approx(there["age"].std(), abs=2.0)
        # View and devices go together as they do there.
        for (pa, devices), share in there.groupby(["pa", "devices"]).size().items():
            here = ((rows["pa"] == pa) & (rows["devices"] == devices)).mean()
            assert here == pytest.approx(share / len(there), abs=near)


def test_prevalence_by_view_and_devices_is_chexperts(phantom: pd.DataFrame, real: pd.DataFrame) -> None:
    weight = phantom["code"].map(real["code"].value_counts() / phantom["code"].value_counts())
    positive = phantom["code"] == "1.0"

    def rate(rows: pd.Series) -> float:
        return float(weight[rows & positive].sum() / weight[rows].sum())

    assert rate(~phantom["pa"]) == pytest.approx(0.030, abs=0.004)
    assert rate(phantom["pa"]) == pytest.approx(0.072, abs=0.008)
    assert rate(phantom["devices"]) == pytest.approx(0.026, abs=0.004)
    assert rate(~phantom["devices"]) == pytest.approx(0.051, abs=0.006)


def test_images_a_patient() -> None:
    counts = planned(20_000, 3).groupby("patient").size()
    assert 2.4 < counts.mean() < 3.6
    assert 0.42 < (counts == 1).mean() < 0.60
    assert counts.max() > 10


def test_most_images_survive_the_corrected_cohort_in_balance() -> None:
    rows = planned(2400, 7)
    positive = rows["code"] == "1.0"
    negative = (rows["code"] == "0.0") | ((rows["code"] == "") & ~rows["patient"].isin(rows.loc[positive, "patient"]))
    assert (positive | negative).mean() > 0.85
    assert 0.9 < negative.sum() / positive.sum() < 1.15


def usable(folder: Path) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The corrected cohort's rows and their targets."""
    table = pd.read_csv(folder / "train.csv")
    table["patient"] = table["Path"].str.split("/").str[2]
    lesion = table["Lung Lesion"]
    known = set(table.loc[lesion == 1, "patient"])
    kept = table[(lesion == 1) | (lesion == 0) | (lesion.isna() & ~table["patient"].isin(known))]
    return kept.reset_index(drop=True), (kept["Lung Lesion"] == 1).to_numpy(np.float64)


def ridge_auroc(
    features: NDArray[np.float64], target: NDArray[np.float64], patients: pd.Series, penalty: float
) -> float:
    """AUROC of out-of-fold ridge scores, five folds by patient, mean of three splits."""
    names = patients.unique()
    answers = []
    for split in range(3):
        folds = dict(zip(names, np.random.default_rng(split).integers(0, 5, len(names)), strict=True))
        fold = patients.map(folds).to_numpy()
        score = np.zeros(len(target))
        for held in range(5):
            train = fold != held
            scale = features[train].std(axis=0) + 1e-6
            scaled = (features - features[train].mean(axis=0)) / scale
            square = scaled[train].T @ scaled[train] + penalty * np.eye(features.shape[1])
            weights = np.linalg.solve(square, scaled[train].T @ (target[train] - target[train].mean()))
            score[~train] = scaled[~train] @ weights
        ranks, positives = rankdata(score), target.sum()
        area = ranks[target == 1].sum() - positives * (positives + 1) / 2
        answers.append(area / positives / (len(target) - positives))
    return float(np.mean(answers))


def thumbnails(folder: Path, table: pd.DataFrame) -> NDArray[np.float64]:
    small = []
    for path in table["Path"]:
        with Image.open(folder / path.removeprefix("CheXpert-v1.0-small/")) as image:
            small.append(np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64).reshape(-1))
    return np.stack(small)


@pytest.mark.parametrize("penalty", [100.0, 3000.0])
def test_thumbnails_do_not_give_the_label_away(folder: Path, penalty: float) -> None:
    table, target = usable(folder)
    assert ridge_auroc(thumbnails(folder, table), target, table["patient"], penalty) < 0.60


def test_thumbnails_show_where_an_image_was_taken(folder: Path) -> None:
    table, _ = usable(folder)
    standing = (table["AP/PA"] == "PA").to_numpy(np.float64)
    assert ridge_auroc(thumbnails(folder, table), standing, table["patient"], 300.0) > 0.80


def test_metadata_does_not_give_the_label_away(folder: Path) -> None:
    table, target = usable(folder)
    view = (table["AP/PA"] == "PA").to_numpy(np.float64)
    devices = (table["Support Devices"] == 1).to_numpy(np.float64)
    male = (table["Sex"] == "Male").to_numpy(np.float64)
    age = table["Age"].to_numpy(np.float64)
    features = np.stack([view, devices, view * devices, male, age, age**2, age * male], axis=1)
    assert ridge_auroc(features, target, table["patient"], 1.0) < 0.70


def plan_with(plans: list[ImagePlan], setting: str, code: str) -> list[ImagePlan]:
    return [plan for plan in plans if plan.setting == setting and plan.code == code]


def test_a_lesion_changes_its_picture_and_only_there() -> None:
    plans = plan_population(400, 5)
    changed = []
    for plan in plan_with(plans, "ward", "1.0")[:12]:
        patient = draw_patient(plan, 5)
        sick = render(plan, patient).astype(int)
        well = render(dataclasses.replace(plan, lesion="none"), patient).astype(int)
        assert sick.shape == well.shape
        difference = np.abs(sick - well)
        changed.append(int(difference.max()))
        # Equalisation moves all grey levels a little; a lesion moves few of them much.
        assert np.mean(difference > 0.6 * difference.max()) < 0.08
    assert np.median(changed) > 25
    assert min(changed) < max(changed) / 2  # from obvious to nearly invisible


@pytest.mark.parametrize("setting", ["icu", "outpatient"])
def test_devices_change_the_picture(setting: str) -> None:
    plan = next(plan for plan in plan_population(400, 5) if plan.devices)
    anatomy = draw_patient(plan, 5).anatomy
    acquired = draw_acquisition(np.random.default_rng(1), setting, False, False, False)
    body, surface = Body(anatomy, acquired.posture), acquired.surface
    for draw in range(10):
        ink = Strokes(surface)
        plates = draw_devices(surface, body, np.random.default_rng(draw), setting, ink)
        assert (plates + ink.laid()).max() > 0.08  # more than a rib


def test_a_patient_keeps_their_build_and_lesions() -> None:
    plans = plan_population(400, 5)
    first = next(plan for plan in plans if plan.code == "1.0")
    again = dataclasses.replace(first, study=first.study + 7)
    one, other = draw_patient(first, 5), draw_patient(again, 5)
    assert one.anatomy == other.anatomy
    assert one.lesions == other.lesions
    stranger = draw_patient(dataclasses.replace(first, patient=first.patient + 1000), 5)
    assert stranger.lesions != one.lesions
