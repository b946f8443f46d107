"""The standard table: what it accepts, and that it survives a file."""

import pickle
from pathlib import Path

import pandas as pd
import pytest
from radiograph_samples import make_table

from nescient_fl.errors import UserError
from nescient_fl.radiographs.table import (
    COLUMNS,
    ReadReport,
    patient_keys,
    read_table,
    report_reading,
    validate_table,
    write_table,
)


def test_columns_come_back_in_order_with_further_ones_behind() -> None:
    table = make_table(5)
    shuffled = table.assign(target=1)[[*reversed(COLUMNS), "target"]].iloc[::-1]
    valid = validate_table(shuffled)
    assert list(valid.columns) == [*COLUMNS, "target"]
    assert list(valid.index) == list(range(len(table)))
    assert valid["age"].dtype == "int64"
    assert valid["devices"].dtype == "bool"


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("view", "LL", "view is 'LL' in row 1"),
        ("sex", "Female", "sex is 'Female'"),
        ("label", "1.0", "label is '1.0'"),
        ("age", 200, "age is 200 in row 1"),
        ("age", -2, "age is -2"),
        ("patient", None, "blank patient in row 1"),
        ("patient", "", "empty patient"),
        ("image", "/etc/passwd", "not relative"),
        ("image", "train/../../x.jpg", "not relative"),
        ("image", "train\\x.jpg", "not relative"),
    ],
)
def test_a_bad_value_is_named(column: str, value: object, says: str) -> None:
    table = make_table(5)
    values = table[column].astype(object).tolist()
    values[1] = value
    with pytest.raises(ValueError, match=r"(?s)" + says.replace(".", r"\.")):
        validate_table(table.assign(**{column: values}))


def test_a_name_with_two_dots_is_no_way_out() -> None:
    table = make_table(1, images=(1,)).assign(image="train/a..b.jpg")
    assert validate_table(table)["image"].iloc[0] == "train/a..b.jpg"


def test_a_missing_column_and_a_double_image_are_named() -> None:
    table = make_table(5)
    with pytest.raises(ValueError, match=r"lacks the column.s. sex, age"):
        validate_table(table.drop(columns=["sex", "age"]))
    with pytest.raises(ValueError, match="in the table twice"):
        validate_table(pd.concat([table, table.head(1)]))
    both = pd.concat([table, table.assign(source="other")])
    assert len(validate_table(both)) == 2 * len(table)


def test_patients_of_two_sources_differ() -> None:
    table = pd.concat([make_table(3), make_table(3, source="other")], ignore_index=True)
    assert patient_keys(table).nunique() == 6


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = make_table(4)
    table["patient"] = ["0007" if patient.endswith("1") else "NA" for patient in table["patient"]]
    table = validate_table(table.assign(target=1))
    write_table(tmp_path / "cohort.csv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "cohort.csv"), table)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv does not exist"):
        read_table(tmp_path / "absent.csv")
    for name, text in (("empty.csv", ""), ("other.csv", "a,b\n1,2\n"), ("torn.csv", 'image,"x\n')):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} is not a table of radiographs"):
            read_table(tmp_path / name)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(UserError, match="not a table"):
        read_table(tmp_path / "binary.csv")


def test_writing_into_no_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent/cohort\.csv") as raised:
        write_table(tmp_path / "absent" / "cohort.csv", make_table(2))
    assert raised.value.filename == str(tmp_path / "absent" / "cohort.csv")


def test_a_report_counts_and_pickles() -> None:
    table = make_table(20)
    report = report_reading(table, len(table) + 3, {"lateral view": 3, "listed twice": 0}, {})
    assert report.dropped == {"lateral view": 3}
    assert report.rows_kept == len(table) == sum(report.labels.values())
    assert report.patients == 20
    assert pickle.loads(pickle.dumps(report)) == report
    assert ReadReport(2) == ReadReport(2, {}, {"age unknown": 0})
