"""Which reader for which folder, and several datasets in one cohort."""

from pathlib import Path

import pytest
from dataset_folders import chexpert_row, nih_row, packaged_table, write_chexpert, write_nih

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cache import build_cache
from nescient_fl.radiographs.cohort import CohortRule
from nescient_fl.radiographs.partition import PartitionRule, assign_sites
from sites.datasets import detect_source, is_synthetic, load_cohort, read_source


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    rows = [chexpert_row(n, ("1.0", "0.0", "", "-1.0")[n % 4], study=n % 2 + 1) for n in range(1, 41)]
    return write_chexpert(tmp_path / "CheXpert-v1.0-small", rows)


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    rows = [nih_row(f"{n:08d}_000.png", "Mass" if n % 3 == 0 else "No Finding") for n in range(1, 41)]
    return write_nih(tmp_path / "nih", rows)


def test_folders_are_recognised(tmp_path: Path, chexpert: Path, nih: Path) -> None:
    assert detect_source(chexpert) == "chexpert"
    assert detect_source(tmp_path) == "chexpert"
    assert detect_source(nih) == "nih"
    assert detect_source(chexpert / "train.csv") == "chexpert"
    assert detect_source(nih / "Data_Entry_2017_v2020.csv") == "nih"
    assert detect_source(packaged_table("chexpert_train.csv.gz")) == "chexpert"


def test_what_is_not_recognised_is_said(tmp_path: Path, chexpert: Path, nih: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist"):
        detect_source(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no dataset known here"):
        detect_source(tmp_path / "empty")
    (nih / "train.csv").write_text((chexpert / "train.csv").read_text())
    with pytest.raises(UserError, match="chexpert and nih; say which with --source"):
        detect_source(nih)
    assert len(read_source(nih, "nih")[0]) == 40
    with pytest.raises(UserError, match="--source padchest is unknown; choose one of chexpert, nih"):
        read_source(nih, "padchest")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no dataset known here"):
        detect_source(tmp_path / "other.csv")


def test_phantoms_are_marked(tmp_path: Path, chexpert: Path) -> None:
    assert not is_synthetic(chexpert)
    (chexpert / "PHANTOM.json").write_text("{}")
    assert is_synthetic(chexpert)
    assert is_synthetic(tmp_path)
    assert set(read_source(chexpert)[0]["source"]) == {"phantom"}
    loaded = load_cohort([(chexpert, None)], CohortRule())
    assert loaded.synthetic
    assert list(loaded.roots) == list(loaded.reports) == ["phantom"]
    assert not is_synthetic(tmp_path / "absent")


def test_one_dataset_keeps_its_patients_names(chexpert: Path) -> None:
    cohort, roots, reports = load_cohort([(chexpert, None)], CohortRule())
    assert cohort.table["patient"].str.match(r"patient\d{5}$").all()
    assert roots == {"chexpert": chexpert}
    assert reports["chexpert"].rows_read == 40


def test_several_datasets_from_folder_to_sites(tmp_path: Path, chexpert: Path, nih: Path) -> None:
    rows = [chexpert_row(n, "1.0" if n % 2 else "") for n in range(1, 31)]
    second = write_chexpert(tmp_path / "hospital", rows)
    loaded = load_cohort([(chexpert, None), (nih, "nih"), (second, "chexpert")], CohortRule())
    assert list(loaded.roots) == ["chexpert", "nih", "chexpert-2"]
    assert not loaded.synthetic
    table = loaded.cohort.table
    assert set(table["source"]) == {"chexpert", "nih", "chexpert-2"}
    assert (table["patient"].str.split("/").str[0] == table["source"]).all()
    assert (table.groupby("patient")["source"].nunique() == 1).all()
    result = build_cache(loaded.roots, table, "upright", tmp_path / "out")
    assert result.rejected == ()
    rule = PartitionRule("source", 3, minimum_images=10, minimum_positives=3)
    frame = assign_sites(result.table, rule)
    assert sorted(frame["site"].unique()) == ["chexpert-1", "chexpert-2-1", "nih-1"]


def test_a_folder_named_twice(chexpert: Path) -> None:
    with pytest.raises(UserError, match="was named twice"):
        load_cohort([(chexpert, None), (chexpert / ".." / chexpert.name, None)], CohortRule())
    with pytest.raises(UserError, match="no dataset folder was named"):
        load_cohort([], CohortRule())


def test_a_table_without_frontal_rows(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path / "x", [chexpert_row(1, "1.0", side="Lateral")])
    with pytest.raises(UserError, match=r"no positive image .labels found: no rows at all"):
        load_cohort([(folder, None)], CohortRule())
