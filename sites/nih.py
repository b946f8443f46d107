"""NIH ChestX-ray14 (Wang et al., CVPR 2017): from ``Data_Entry*.csv`` to the standard table.

A radiograph is positive when ``Nodule`` or ``Mass`` is among its ``Finding Labels``, as a whole label. NIH
never negates: its labels were mined from reports and list what was found, and ``No Finding`` says that none
of the fourteen findings was, not that a radiologist ruled a lesion out. So every other row is
*unmentioned*, and becomes a negative under the cohort's rules for unmentioned images. Support devices are
not recorded: ``devices`` is false.
"""

import os
from pathlib import Path
from typing import Final

import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.table import ReadReport, report_reading, validate_table
from sites.reading import clean_ages, drop_absent, read_columns, read_header

SOURCE: Final = "nih"
LESIONS: Final = ("Nodule", "Mass")

_TABLES: Final = ("Data_Entry*.csv", "Data_Entry*.csv.gz")
_COLUMNS: Final = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "View Position",
)
_SEX_COLUMNS: Final = ("Patient Gender", "Patient Sex")
_IMAGE_FOLDERS: Final = ("images", "images_*/images", "images_*", "images*/images", ".")


def find_table(folder: Path) -> Path | None:
    """Return NIH's table in ``folder``, or ``folder`` itself when it is a file.

    Of ``Data_Entry_2017.csv`` and its correction ``Data_Entry_2017_v2020.csv`` the correction is taken.
    """
    if folder.is_file():
        return folder
    found = [path for pattern in _TABLES for path in folder.glob(pattern) if path.is_file()]
    return max(found, key=lambda path: path.name.removesuffix(".gz"), default=None)


def read_nih(folder: Path, require_images: bool = True) -> tuple[pd.DataFrame, ReadReport]:
    """Read the radiographs of an NIH ChestX-ray14 folder into the standard table.

    ``folder`` holds ``Data_Entry*.csv`` and the images in ``images/`` or in ``images_001/images/`` and so
    on, or, to count without images, is the table itself, plain or gzipped. With ``require_images`` rows
    whose file is not there are left out, as after a partial download. The study is the follow-up number.

    Kept and mended: an age that is blank or beyond 120 (the 2017 file has some of 148 and 414) becomes
    unknown; a view that is neither AP nor PA counts as PA, the ordinary one.

    Raises ``UserError`` for a missing folder, table or column, and when no image of the table is there.
    """
    table_path = find_table(folder)
    if table_path is None:
        raise UserError(f"{folder} holds no Data_Entry*.csv; name the folder that does")
    root = folder.parent if folder.is_file() else folder
    sex_column = _sex_column(table_path)
    raw = read_columns(table_path, (*_COLUMNS, sex_column))
    dropped: dict[str, int] = {}
    mended: dict[str, int] = {}
    rows_read = len(raw)

    name = raw["Image Index"]
    nameless = (name == "") | name.str.contains("/", regex=False) | (raw["Patient ID"].str.strip() == "")
    dropped["no image name or patient"] = int(nameless.sum())
    twice = name.duplicated() & ~nameless
    dropped["listed twice"] = int(twice.sum())
    raw = raw[~nameless & ~twice]

    view = raw["View Position"].str.strip().str.upper()
    odd_view = ~view.isin(["AP", "PA"])
    mended["view other than AP or PA, taken for PA"] = int(odd_view.sum())
    age, mended["age unknown"] = clean_ages(raw["Patient Age"])
    table = pd.DataFrame(
        {
            "image": _images(raw["Image Index"], root),
            "patient": raw["Patient ID"].str.strip(),
            "study": raw["Follow-up #"].str.strip(),
            "view": view.mask(odd_view, "PA"),
            "sex": raw[sex_column].str.strip().str.upper().map({"F": "F", "M": "M"}).fillna("unknown"),
            "age": age,
            "devices": False,
            "label": _labels(raw["Finding Labels"]),
            "source": SOURCE,
        }
    )
    if require_images:
        table = drop_absent(table, root, dropped)
    table = validate_table(table)
    return table, report_reading(table, rows_read, dropped, mended)


def _sex_column(path: Path) -> str:
    header = read_header(path)
    return next((column for column in _SEX_COLUMNS if column in header), _SEX_COLUMNS[0])


def _labels(findings: "pd.Series[str]") -> "pd.Series[str]":
    # A whole label between bars: `Pleural_Thickening|Mass` has one, `Massive_Effusion` has none.
    pattern = rf"(?:^|\|)\s*(?:{'|'.join(LESIONS)})\s*(?:\||$)"
    lesion = findings.str.contains(pattern, regex=True)
    return lesion.map({True: "positive", False: "unmentioned"})


def _images(names: "pd.Series[str]", root: Path) -> "pd.Series[str]":
    """Return each image's path relative to ``root``; ``images/NAME`` where no usual folder has it."""
    places: dict[str, str] = {}
    for pattern in _IMAGE_FOLDERS:
        for folder in sorted(root.glob(pattern)) if pattern != "." else [root]:
            if folder.is_dir():
                place = folder.relative_to(root)
                with os.scandir(folder) as entries:
                    for entry in entries:
                        places.setdefault(entry.name, (place / entry.name).as_posix())
    return names.map(lambda name: places.get(name, f"images/{name}"))
