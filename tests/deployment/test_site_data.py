"""A hospital's folder: its own rows, bit for bit, and nobody else's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nescient_fl.arms.data import StudyData, prepare_data
from nescient_fl.deployment.site_data import describe_site_folder, open_site_folder, write_site_folder
from nescient_fl.errors import UserError
from nescient_fl.lesion.network import build_network, get_weights
from nescient_fl.lesion.recipe import RECIPES, recipe_to_json
from nescient_fl.messages import RoundOrder
from nescient_fl.study.settings import make_settings
from sites.site import Site


@pytest.fixture(scope="module")
def data(toy_dataset: Path) -> StudyData:
    settings = make_settings(
        {
            **{"data": [str(toy_dataset)], "clients": 2, "aggregation": "plain", "partition": "iid"},
            **{"min_images": 20, "min_positives": 4},
        }
    )
    return prepare_data(settings, lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path, data: StudyData) -> Path:
    write_site_folder(tmp_path / "data", data.cache, data.table, "site-2")
    return tmp_path / "data"


def test_it_holds_the_sites_rows_bit_for_bit(folder: Path, data: StudyData) -> None:
    own, whole = open_site_folder(folder, "site-2"), data.site("site-2")
    for split in ("train", "validation", "test"):
        mine, theirs = getattr(own, split), getattr(whole, split)
        for name in ("pixels", "mean", "std", "targets"):
            assert np.array_equal(getattr(mine, name)[mine.rows], getattr(theirs, name)[theirs.rows]), name
    assert describe_site_folder(folder) == {
        split: len(getattr(whole, split)) for split in ("train", "validation", "test")
    }


def test_it_holds_nothing_of_anybody_else(folder: Path, data: StudyData) -> None:
    others = data.table[data.table["site"] != "site-2"]
    written = (folder / "partition.csv").read_text() + (folder / "pixels" / "table.csv").read_text()
    assert not any(image in written for image in others["image"])
    pixels = np.load(folder / "pixels" / "pixels.npy")
    assert len(pixels) == (data.table["site"] == "site-2").sum()
    assert folder.stat().st_mode & 0o077 == 0


def test_it_answers_a_round_as_the_simulations_site_does(folder: Path, data: StudyData) -> None:
    order = RoundOrder(1, 1, 1, 7, recipe_to_json(RECIPES["default"]), True)
    weights = get_weights(build_network(seed=1))
    cpu = torch.device("cpu")
    _, counts, update = Site(open_site_folder(folder, "site-2"), cpu).answer(order, weights)
    _, expected_counts, expected = Site(data.site("site-2"), cpu).answer(order, weights)
    assert update is not None
    assert expected is not None
    assert all(torch.equal(update[name], expected[name]) for name in expected)
    assert counts.loss_sum == expected_counts.loss_sum


def test_images_of_another_site_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="holds images of site-2, not of site-1 alone"):
        open_site_folder(folder, "site-1")
    table = pd.read_csv(folder / "partition.csv")
    table.loc[0, "site"] = "site-9"
    table.to_csv(folder / "partition.csv", index=False)
    with pytest.raises(UserError, match="holds images of site-9"):
        open_site_folder(folder, "site-2")


def test_a_folder_that_was_cut_is_refused(folder: Path, tmp_path: Path) -> None:
    table = pd.read_csv(folder / "partition.csv")
    table.iloc[1:].to_csv(folder / "partition.csv", index=False)
    with pytest.raises(UserError, match="disagree"):
        open_site_folder(folder, "site-2")
    with pytest.raises(UserError, match="no prepared folder"):
        open_site_folder(tmp_path / "nothing", "site-2")
