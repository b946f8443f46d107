"""The NIH ChestX-ray14 adapter."""

from pathlib import Path

import pandas as pd
import pytest
from dataset_folders import NIH_HEADER, by_image, nih_row, packaged_table, write_csv, write_image, write_nih
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cohort import CohortRule, select_cohort
from sites.nih import _labels, read_nih

FINDINGS = (
    "No Finding",
    "Nodule",
    "Mass",
    "Pleural_Thickening",
    "Effusion",
    "Massive",
    "Nodule_like",
    "Hernia",
)


def test_a_lesion_is_a_whole_label(tmp_path: Path) -> None:
    labels = {
        "00000001_000.png": ("Nodule", "positive"),
        "00000002_000.png": ("Effusion|Mass", "positive"),
        "00000003_000.png": ("Mass|Nodule|Pleural_Thickening", "positive"),
        "00000004_000.png": ("No Finding", "unmentioned"),
        "00000005_000.png": ("Pleural_Thickening|Effusion", "unmentioned"),
        "00000006_000.png": ("Massive|Nodules|Pre-Mass", "unmentioned"),
        "00000007_000.png": ("", "unmentioned"),
    }
    folder = write_nih(tmp_path, [nih_row(image, findings) for image, (findings, _) in labels.items()])
    table, report = read_nih(folder)
    expected = {f"images/{image}": label for image, (_, label) in labels.items()}
    assert by_image(table, "label") == expected
    assert not table["devices"].any()
    assert set(table["source"]) == {"nih"}
    assert report.rows_read == 7
    assert report.labels == {"positive": 3, "unmentioned": 4}


@given(st.lists(st.sampled_from(FINDINGS), min_size=1, max_size=5))
def test_labels_agree_with_splitting_at_the_bars(findings: list[str]) -> None:
    expected = "positive" if {"Nodule", "Mass"} & set(findings) else "unmentioned"
    assert _labels(pd.Series(["|".join(findings)], dtype=str)).tolist() == [expected]


def test_columns_and_ages_of_both_releases(tmp_path: Path) -> None:
    ages = {"58": 58, "058Y": 58, "011M": 0, "026M": 2, "010D": 0, "414": -1, "": -1, "old": -1}
    rows = [
        nih_row(f"{number:08d}_00{number}.png", age=age, sex="F" if number % 2 else "", follow_up=number)
        for number, age in enumerate(ages, 1)
    ]
    rows[0] = rows[0].replace(",PA,", ",AP,")
    rows[1] = rows[1].replace(",PA,", ",,")
    table, report = read_nih(write_nih(tmp_path, rows))
    assert table["age"].tolist() == list(ages.values())
    assert table["study"].tolist() == [str(number) for number in range(1, 9)]
    assert table["patient"].tolist() == [str(number) for number in range(1, 9)]
    assert table["sex"].tolist() == ["F", "unknown"] * 4
    assert table["view"].tolist() == ["AP"] + ["PA"] * 7
    assert report.mended == {"age unknown": 3, "view other than AP or PA, taken for PA": 1}


def test_a_partial_download_in_several_folders(tmp_path: Path) -> None:
    rows = [nih_row(f"{number:08d}_000.png") for number in range(1, 6)]
    write_csv(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, [*rows, rows[0], ",No Finding,0,9,1,F,PA,1,1,1,1"])
    write_image(tmp_path / "images_001/images/00000001_000.png")
    write_image(tmp_path / "images_002/images/00000002_000.png")
    write_image(tmp_path / "images_003/00000003_000.png")
    table, report = read_nih(tmp_path)
    assert table["image"].tolist() == [
        "images_001/images/00000001_000.png",
        "images_002/images/00000002_000.png",
        "images_003/00000003_000.png",
    ]
    assert report.dropped == {"image file missing": 2, "listed twice": 1, "no image name or patient": 1}
    assert len(read_nih(tmp_path, require_images=False)[0]) == 5


def test_images_beside_the_table(tmp_path: Path) -> None:
    folder = write_nih(tmp_path, [nih_row("00000001_000.png")], place=".")
    assert read_nih(folder)[0]["image"].tolist() == ["00000001_000.png"]


def test_the_corrected_release_is_preferred_and_a_trailing_comma_read(tmp_path: Path) -> None:
    write_nih(tmp_path, [nih_row("00000001_000.png", "Mass")])
    old = nih_row("00000001_000.png", "Hernia", age="058Y") + ","
    write_csv(tmp_path / "Data_Entry_2017.csv", NIH_HEADER + ",", [old])
    assert read_nih(tmp_path)[0]["label"].tolist() == ["positive"]
    (tmp_path / "Data_Entry_2017_v2020.csv").unlink()
    assert read_nih(tmp_path)[0]["label"].tolist() == ["unmentioned"]


def test_a_later_name_of_the_sex_column(tmp_path: Path) -> None:
    folder = write_nih(tmp_path, [nih_row("00000001_000.png", sex="F")])
    path = folder / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Patient Gender", "Patient Sex"))
    assert read_nih(folder)[0]["sex"].tolist() == ["F"]
    path.write_text(path.read_text().replace("Patient Sex", "Sex"))
    with pytest.raises(UserError, match=r"v2020\.csv lacks the column 'Patient Gender'"):
        read_nih(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no Data_Entry\*\.csv"):
        read_nih(tmp_path)
    write_csv(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, [nih_row("00000001_000.png")])
    with pytest.raises(UserError, match="none of the 1 images"):
        read_nih(tmp_path)


def test_cohorts_of_a_dataset_that_never_negates(tmp_path: Path) -> None:
    rows = [nih_row(f"{n:08d}_000.png", "Mass" if n < 4 else "No Finding") for n in range(1, 20)]
    table = read_nih(write_nih(tmp_path, rows))[0]
    for rule in (CohortRule(), CohortRule("paper")):
        cohort = select_cohort(table, rule)
        assert (cohort.images, cohort.positives) == (6, 3)


def test_the_real_table() -> None:
    table, report = read_nih(packaged_table("Data_Entry_2017_v2020.csv.gz"), require_images=False)
    assert len(table) == report.rows_read == 112_120
    assert report.patients == 30_805
    assert table["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    # 6,331 with a nodule, 5,782 with a mass, 906 of them with both, counted by awk.
    assert report.labels["positive"] == 6_331 + 5_782 - 906
