"""The CheXpert adapter: codes, layouts and damage on small folders, and the real table's counts."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from dataset_folders import (
    CHEXPERT_HEADER,
    chexpert_row,
    packaged_table,
    write_chexpert,
    write_csv,
    write_image,
)

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cohort import CohortRule, select_cohort
from nescient_fl.radiographs.partition import PartitionRule, assign_sites
from nescient_fl.radiographs.table import ReadReport, patient_keys
from sites.chexpert import read_chexpert

# --- the real table


@pytest.fixture(scope="module")
def real() -> tuple[pd.DataFrame, ReadReport]:
    return read_chexpert(packaged_table("chexpert_train.csv.gz"), require_images=False)


def test_the_real_table(real: tuple[pd.DataFrame, ReadReport]) -> None:
    table, report = real
    assert report.rows_read == 223_414
    assert len(table) == report.rows_kept == 191_027
    assert report.patients == patient_keys(table).nunique() == 64_534
    assert report.labels == {"positive": 7_040, "negated": 776, "uncertain": 1_108, "unmentioned": 182_103}
    assert report.dropped == {"lateral view": 32_387}
    assert report.mended == {"view other than AP or PA, taken for AP": 17}
    assert table["view"].value_counts().to_dict() == {"AP": 161_607, "PA": 29_420}
    assert table["sex"].value_counts().to_dict() == {"M": 112_151, "F": 78_875, "unknown": 1}
    assert table["image"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    shares = (table["label"] == "positive").groupby(table["view"]).mean()
    assert shares["AP"] == pytest.approx(0.030, abs=0.001)
    assert shares["PA"] == pytest.approx(0.072, abs=0.001)
    shares = (table["label"] == "positive").groupby(table["devices"]).mean()
    assert shares[True] == pytest.approx(0.026, abs=0.001)
    assert shares[False] == pytest.approx(0.051, abs=0.001)


def test_the_papers_cohort_on_the_real_table(real: tuple[pd.DataFrame, ReadReport]) -> None:
    cohort = select_cohort(real[0], CohortRule("paper", seed=7))
    assert cohort.images == 14_080
    assert cohort.table["label"].value_counts().to_dict() == {
        "positive": 7_040,
        "unmentioned": 5_932,
        "uncertain": 1_108,
    }
    assert cohort.table["target"].equals((cohort.table["label"] == "positive").astype("int64"))


def test_the_corrected_cohort_on_the_real_table(real: tuple[pd.DataFrame, ReadReport]) -> None:
    table = real[0]
    cohort = select_cohort(table, CohortRule(seed=7))
    assert cohort.table["label"].value_counts().to_dict() == {
        "positive": 7_040,
        "unmentioned": 6_264,
        "negated": 776,
    }
    ill = set(table["patient"][table["label"] == "positive"])
    assert not ill & set(cohort.table["patient"][cohort.table["label"] == "unmentioned"])
    shuffled = select_cohort(table.sample(frac=1, random_state=3), CohortRule(seed=7))
    pd.testing.assert_frame_equal(shuffled.table, cohort.table)
    with_uncertain = select_cohort(table, CohortRule(uncertain="positive", seed=7))
    assert with_uncertain.positives == 8_148
    ill |= set(table["patient"][table["label"] == "uncertain"])
    assert not ill & set(with_uncertain.table["patient"][with_uncertain.table["label"] == "unmentioned"])


def test_hospitals_of_the_real_cohort(real: tuple[pd.DataFrame, ReadReport]) -> None:
    cohort = select_cohort(real[0], CohortRule(seed=7)).table
    frame = assign_sites(cohort, PartitionRule("setting", 6, seed=7))
    assert frame["site"].nunique() == 6
    places = frame.groupby(patient_keys(frame))[["site", "split"]].nunique()
    assert (places == 1).all(axis=None)


# --- small folders


def test_codes_and_columns(tmp_path: Path) -> None:
    rows = [
        chexpert_row(1, "1.0", devices="1.0", sex="Male"),
        chexpert_row(2, "0.0", devices="0.0", view="PA"),
        chexpert_row(3, "-1.0", devices="-1.0", sex="Unknown"),
        chexpert_row(4, "", age=""),
        chexpert_row(5, "1", age="141"),
        chexpert_row(6, "-1", view="LL"),
        chexpert_row(7, "0", view=""),
        chexpert_row(1, "1.0", side="Lateral", view=""),
    ]
    table, report = read_chexpert(write_chexpert(tmp_path / "CheXpert-v1.0-small", rows))
    assert table["label"].tolist() == [
        "positive",
        "negated",
        "uncertain",
        "unmentioned",
        "positive",
        "uncertain",
        "negated",
    ]
    assert table["devices"].tolist() == [True] + [False] * 6
    assert table["sex"].tolist() == ["M", "F", "unknown", "F", "F", "F", "F"]
    assert table["view"].tolist() == ["AP", "PA", "AP", "AP", "AP", "AP", "AP"]
    assert table["age"].tolist() == [68, 68, 68, -1, -1, 68, 68]
    assert table["patient"].tolist()[0] == "patient00001"
    assert set(table["study"]) == {"study1"}
    assert set(table["source"]) == {"chexpert"}
    assert report.dropped == {"lateral view": 1}
    assert report.mended == {"view other than AP or PA, taken for AP": 2, "age unknown": 2}


def test_the_folder_may_be_the_dataset_or_its_parent_under_any_name(tmp_path: Path) -> None:
    rows = [chexpert_row(1, "1.0"), chexpert_row(2)]
    inner = write_chexpert(tmp_path / "CheXpert-v1.0-small", rows)
    assert read_chexpert(inner)[0]["image"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    outer = read_chexpert(tmp_path)[0]["image"].iloc[0]
    assert outer == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    inner.rename(tmp_path / "download")
    table = read_chexpert(tmp_path / "download")[0]
    assert (tmp_path / "download" / table["image"].iloc[0]).is_file()
    # train.csv beside the dataset's folder, paths as they are.
    (tmp_path / "flat").mkdir()
    (tmp_path / "download").rename(tmp_path / "flat" / "CheXpert-v1.0-small")
    (tmp_path / "flat" / "CheXpert-v1.0-small" / "train.csv").rename(tmp_path / "flat" / "train.csv")
    table = read_chexpert(tmp_path / "flat")[0]
    assert (tmp_path / "flat" / table["image"].iloc[0]).is_file()


def test_missing_double_and_astray_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        chexpert_row(1, "1.0"),
        chexpert_row(1, ""),
        chexpert_row(2),
        chexpert_row(3, path="train/patient00001/study1/view1_frontal.jpg"),
        chexpert_row(4, path="CheXpert-v1.0-small/train/x.jpg"),
        chexpert_row(5, path="../../patient1/study1/view1_frontal.jpg"),
        chexpert_row(6, side=""),
    ]
    folder = write_chexpert(tmp_path, rows)
    (folder / "train/patient00002/study1/view1_frontal.jpg").unlink()
    table, report = read_chexpert(folder)
    assert table["label"].tolist() == ["positive"]
    assert report.dropped == {
        "marked neither frontal nor lateral": 1,
        "path is not .../patient/study/image": 2,
        "listed twice": 2,
        "image file missing": 1,
    }
    assert report.rows_kept == 1
    assert len(read_chexpert(folder, require_images=False)[0]) == 2


def test_an_unknown_code_names_its_line(tmp_path: Path) -> None:
    for code in ("2.0", "yes", "nan", "inf"):
        folder = write_chexpert(tmp_path, [chexpert_row(1), chexpert_row(2, code)])
        with pytest.raises(UserError, match=rf"train\.csv line 3: Lung Lesion is '{code}'; its codes are"):
            read_chexpert(folder)
    # The codes of rows that are not read do not matter.
    folder = write_chexpert(tmp_path, [chexpert_row(1), chexpert_row(2, "9", side="Lateral")])
    assert len(read_chexpert(folder)[0]) == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    header = CHEXPERT_HEADER.replace("Lung Lesion", "Lesion").replace("AP/PA", "View")
    write_csv(tmp_path / "train.csv", header, [chexpert_row(1)])
    with pytest.raises(UserError, match=r"train\.csv lacks the columns 'AP/PA', 'Lung Lesion'"):
        read_chexpert(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a readable CSV file"),
        (CHEXPERT_HEADER.encode(), "has a header and no rows"),
        (b"\xff\xd8\xff\xe0 a JPEG\x00\x01", "is not a readable CSV|lacks the columns"),
        (CHEXPERT_HEADER.encode() + b'\n"torn', "is not a readable CSV"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_chexpert(tmp_path)


def test_a_torn_gzip(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([CHEXPERT_HEADER, *(chexpert_row(n) for n in range(999))]).encode())
    for name, data in (("torn.csv.gz", whole[:-100]), ("not.csv.gz", b"plain")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} "):
            read_chexpert(tmp_path / name, require_images=False)


def test_no_table_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train\.csv"):
        read_chexpert(tmp_path)
    folder = write_chexpert(tmp_path / "data", [chexpert_row(1)], images=False)
    with pytest.raises(UserError, match=r"none of the 1 images .* use --table-only"):
        read_chexpert(folder)


def test_only_lateral_rows_make_an_empty_table(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path, [chexpert_row(1, side="Lateral")])
    table, report = read_chexpert(folder)
    assert len(table) == 0
    assert report.dropped == {"lateral view": 1}


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\r\n".join([CHEXPERT_HEADER, chexpert_row(1, "1.0"), ""])
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    write_image(tmp_path / "train/patient00001/study1/view1_frontal.jpg")
    assert read_chexpert(tmp_path)[0]["label"].tolist() == ["positive"]
