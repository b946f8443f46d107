"""What the dataset adapters share: reading a dataset's own CSV, and the mistakes all such files have."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.table import OLDEST_AGE, UNKNOWN_AGE

_ABSENT: Final = "image file missing"


def read_header(path: Path) -> list[str]:
    """Return the columns' names of a CSV file; raises ``UserError`` when it cannot be read or is no CSV."""
    return list(_read(path, nrows=0).columns)


def read_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read the named columns of a CSV file (``.gz`` too) as text, a blank as ``""``; the index counts rows.

    Raises ``UserError`` when the file cannot be read, is no CSV, lacks a column or has no rows.
    """
    header = read_header(path)
    missing = [repr(column) for column in columns if column not in header]
    if missing:
        raise UserError(f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    table = _read(path, usecols=list(columns), dtype=str, na_filter=False, skip_blank_lines=False)
    if table.empty:
        raise UserError(f"{path} has a header and no rows")
    return table


def _read(path: Path, **options: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(path, encoding="utf-8-sig", index_col=False, **options)
        return table
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zlib.error, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a readable CSV file: {error}") from error


def where(path: Path, row: object) -> str:
    """Name a row of a file for the user, counting from 1 with the header as line 1."""
    return f"{path} line {int(str(row)) + 2}"


def clean_ages(ages: "pd.Series[str]") -> "tuple[pd.Series[int], int]":
    """Turn ages such as ``58``, ``058Y``, ``011M`` or blank into years, -1 where unknown, and count those."""
    written = {str(age): _years(str(age)) for age in ages.unique()}  # A hundred or so, of many more rows.
    years = ages.map(written).astype("int64")
    return years, int((years == UNKNOWN_AGE).sum())


def _years(age: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([YMWD]?)", age.strip().upper())
    if match is None:
        return UNKNOWN_AGE
    years = int(float(match[1]) / {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[match[2]])
    return years if years <= OLDEST_AGE else UNKNOWN_AGE


def drop_absent(table: pd.DataFrame, root: Path, dropped: dict[str, int]) -> pd.DataFrame:
    """Leave out the rows whose image is not under ``root``, and count them in ``dropped``.

    Raises ``UserError`` when none is there.
    """
    base = str(root)
    there = np.fromiter((Path(base, image).is_file() for image in table["image"]), bool, len(table))
    if len(table) and not there.any():
        raise UserError(
            f"none of the {len(table):,} images of the table is under {root}; the first should be"
            f" {root / table['image'].iloc[0]}; use --table-only to count without images"
        )
    dropped[_ABSENT] = int((~there).sum())
    return table[there]
