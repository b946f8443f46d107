"""The standard table: one row a frontal radiograph, the same columns whatever dataset it came from.

An adapter in ``sites`` turns a dataset's own file into this table; everything after it (cohort, cache,
partition) reads nothing else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

import pandas as pd

from nescient_fl.errors import UserError

View = Literal["AP", "PA"]
Sex = Literal["F", "M", "unknown"]
Label = Literal["positive", "negated", "uncertain", "unmentioned"]

COLUMNS: Final = ("image", "patient", "study", "view", "sex", "age", "devices", "label", "source")
UNKNOWN_AGE: Final = -1
OLDEST_AGE: Final = 120

_TEXT = ("image", "patient", "study", "view", "sex", "label", "source")
_ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "view": get_args(View),
    "sex": get_args(Sex),
    "label": get_args(Label),
}


@dataclass(frozen=True)
class ReadReport:
    """What an adapter read, left out, mended and found.

    ``rows_read`` counts the rows of the dataset's own file. ``dropped`` and ``mended`` count rows by
    reason, a reason being a phrase for the user; a mended row is in the table with the said value in place
    of its own. ``labels`` counts the table's rows by label, and ``patients`` its patients.
    """

    rows_read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    mended: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    patients: int = 0

    def __post_init__(self) -> None:
        for name in ("dropped", "mended", "labels"):
            counts = {reason: int(count) for reason, count in getattr(self, name).items() if count}
            object.__setattr__(self, name, counts)

    @property
    def rows_kept(self) -> int:
        """The number of rows in the table that this report goes with."""
        return self.rows_read - sum(self.dropped.values())


def report_reading(
    table: pd.DataFrame, rows_read: int, dropped: Mapping[str, int], mended: Mapping[str, int]
) -> ReadReport:
    """Make the report that goes with a table just read."""
    labels = table["label"].value_counts()
    found = {label: int(labels.get(label, 0)) for label in _ALLOWED["label"]}
    return ReadReport(rows_read, dropped, mended, found, int(patient_keys(table).nunique()))


def validate_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``table`` with its columns in standard order and types, or say what is wrong with it.

    Columns beyond the standard ones (``target``, ``site``, ...) stay, after them. Text columns come back as
    ``str``, ``age`` as int64, ``devices`` as bool; the index is 0..N-1.

    Raises ``ValueError`` for a missing column, a blank or unknown value, an image path that is absolute or
    leaves its folder, or an image named twice within a source. An adapter that passes its own tests never
    raises here, so this is no ``UserError``.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"the standard table lacks the column(s) {', '.join(missing)}")
    table = table.reset_index(drop=True)
    if len(table) and table[list(COLUMNS)].isna().to_numpy().any():
        column = next(c for c in COLUMNS if table[c].isna().any())
        raise ValueError(f"the standard table has a blank {column} in row {int(table[column].isna().argmax())}")
    types: dict[str, type | str] = dict.fromkeys(_TEXT, str)
    table = table.astype({**types, "age": "int64", "devices": "bool"})
    for column, allowed in _ALLOWED.items():
        odd = ~table[column].isin(allowed)
        if odd.any():
            row = int(odd.argmax())
            value = table[column].iloc[row]
            raise ValueError(f"{column} is {value!r} in row {row}; it must be one of {', '.join(allowed)}")
    bad_age = (table["age"] < UNKNOWN_AGE) | (table["age"] > OLDEST_AGE)
    if bad_age.any():
        raise ValueError(f"age is {table['age'][bad_age].iloc[0]} in row {int(bad_age.argmax())}")
    for column in ("image", "patient", "source"):
        if (table[column] == "").any():
            raise ValueError(f"the standard table has an empty {column}")
    _check_paths(table["image"])
    twice = table.duplicated(["source", "image"])
    if twice.any():
        raise ValueError(f"the image {table['image'][twice].iloc[0]!r} is in the table twice")
    others = [column for column in table.columns if column not in COLUMNS]
    return table[[*COLUMNS, *others]]


def _check_paths(images: "pd.Series[str]") -> None:
    suspicious = images.str.startswith("/") | images.str.contains("..", regex=False) | images.str.contains("\\\\")
    for image in images[suspicious]:
        if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts or "\\" in image:
            raise ValueError(f"the image path {image!r} is not relative to the dataset folder")


def patient_keys(table: pd.DataFrame) -> "pd.Series[str]":
    """Return one string a row that tells patients apart across sources: equal ids in two sources differ."""
    return table["source"] + "\x1f" + table["patient"]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write ``table`` as CSV, whole or not at all: a reader never sees half of it.

    Raises ``OSError`` with the path when the folder is full or not writable.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            table.to_csv(file, index=False, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read a standard table that ``write_table`` wrote, every column with the type it had.

    Ids with leading zeros and a sex or patient spelt ``NA`` survive. Raises ``UserError`` when the file is
    not there or is not such a table.
    """
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,
            na_values={"age": [""], "devices": [""]},
        )
        return validate_table(table)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; prepare the dataset first") from error
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a table of radiographs: {error}") from error
