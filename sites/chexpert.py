"""CheXpert (Irvin et al., AAAI 2019): from ``train.csv`` to the standard table.

The lesion label is the column ``Lung Lesion``: 1.0 positive, 0.0 negated, -1.0 uncertain, blank not
mentioned.
"""

from pathlib import Path
from typing import Final

import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.table import ReadReport, report_reading, validate_table
from sites.reading import clean_ages, drop_absent, read_columns, where

SOURCE: Final = "chexpert"
TABLE: Final = "train.csv"

_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "Lung Lesion", "Support Devices")
_LABELS: Final = {"positive": 1.0, "negated": 0.0, "uncertain": -1.0}


def find_table(folder: Path) -> Path | None:
    """Return CheXpert's table in ``folder`` or in a ``CheXpert*`` folder inside it, or ``folder``, a file."""
    if folder.is_file():
        return folder
    places = [folder / TABLE, *sorted(folder.glob(f"CheXpert*/{TABLE}"))]
    return next((place for place in places if place.is_file()), None)


def read_chexpert(folder: Path, require_images: bool = True) -> tuple[pd.DataFrame, ReadReport]:
    """Read the frontal radiographs of a CheXpert folder into the standard table.

    ``folder`` is the dataset's folder (which holds ``train.csv``), its parent, or, to count without images,
    the table itself, plain or gzipped. With ``require_images`` rows whose file is not there are left out.

    Kept and mended: a frontal row whose ``AP/PA`` is neither (17 rows of the real file say LL or RL, lateral
    decubitus, which is taken of the bedridden) counts as AP, as bedside films are; an age that is blank or
    beyond 120 becomes unknown; a blank ``Support Devices`` means none were mentioned, so none.

    Raises ``UserError`` for a missing folder, table or column, a lesion code that is none of the four, and
    when no image of the table is there.
    """
    table_path = find_table(folder)
    if table_path is None:
        raise UserError(f"{folder} holds no {TABLE}; name the folder that does, such as CheXpert-v1.0-small")
    raw = read_columns(table_path, _COLUMNS)
    dropped: dict[str, int] = {}
    mended: dict[str, int] = {}

    frontal = raw["Frontal/Lateral"] == "Frontal"
    lateral = raw["Frontal/Lateral"] == "Lateral"
    dropped["lateral view"] = int(lateral.sum())
    dropped["marked neither frontal nor lateral"] = int((~frontal & ~lateral).sum())
    raw = raw[frontal]

    parts = _split_paths(raw["Path"])
    astray = (parts["patient"] == "") | raw["Path"].str.contains(r"(?:^|/)\.\.(?:/|$)", regex=True)
    dropped["path is not .../patient/study/image"] = int(astray.sum())
    raw, parts = raw[~astray], parts[~astray]
    root = folder.parent if folder.is_file() else folder
    images = _images(parts, table_path.parent, root)
    twice = images.duplicated()
    dropped["listed twice"] = int(twice.sum())
    raw, parts = raw[~twice], parts[~twice]

    odd_view = ~raw["AP/PA"].isin(["AP", "PA"])
    mended["view other than AP or PA, taken for AP"] = int(odd_view.sum())
    age, mended["age unknown"] = clean_ages(raw["Age"])
    table = pd.DataFrame(
        {
            "image": images[~twice],
            "patient": parts["patient"],
            "study": parts["study"],
            "view": raw["AP/PA"].mask(odd_view, "AP"),
            "sex": raw["Sex"].map({"Female": "F", "Male": "M"}).fillna("unknown"),
            "age": age,
            "devices": pd.to_numeric(raw["Support Devices"], errors="coerce") == 1.0,
            "label": _labels(raw, table_path),
            "source": SOURCE,
        }
    )
    if require_images:
        table = drop_absent(table, root, dropped)
    table = validate_table(table)
    return table, report_reading(table, len(frontal), dropped, mended)


def _split_paths(paths: "pd.Series[str]") -> pd.DataFrame:
    """Split ``PREFIX/patientN/studyN/IMAGE`` at its last three slashes; blank where it is no such path."""
    # A plain loop: quicker here than pandas' own splitting of strings.
    parts = []
    for path in paths.tolist():
        prefix, patient, study, name = ("", "", "", *f"/{path}".rsplit("/", 3))[-4:]
        usual = patient.startswith("patient") and study.startswith("study") and name != ""
        parts.append((prefix, patient, study, name) if usual else ("", "", "", ""))
    return pd.DataFrame(parts, columns=["prefix", "patient", "study", "name"], index=paths.index, dtype=str)


def _labels(raw: pd.DataFrame, path: Path) -> "pd.Series[str]":
    codes = raw["Lung Lesion"].str.strip()
    numbers = pd.to_numeric(codes, errors="coerce")
    blank = codes == ""
    odd = ~blank & ~numbers.isin(list(_LABELS.values()))
    if odd.any():
        raise UserError(
            f"{where(path, raw.index[odd][0])}: Lung Lesion is {codes[odd].iloc[0]!r}; its codes are 1.0,"
            f" 0.0, -1.0 and blank"
        )
    return numbers.map({code: label for label, code in _LABELS.items()}).astype(object).mask(blank, "unmentioned")


def _images(parts: pd.DataFrame, table_folder: Path, root: Path) -> "pd.Series[str]":
    """Return paths relative to ``root``, with the prefix of ``Path`` brought to where the images really are.

    The file says ``CheXpert-v1.0-small/train/...`` whatever the folder is called, so leading folders are
    taken off until what is left is there beside the table.
    """
    places: dict[str, str] = {}
    for prefix in parts["prefix"].unique():
        names = [name for name in str(prefix).split("/") if name not in ("", ".")]
        tails = [Path(*names[start:]) for start in range(len(names) + 1)]
        usual = tails[1] if names and names[0].lower().startswith("chexpert") else tails[0]
        found = next((tail for tail in tails[:-1] if (table_folder / tail).is_dir()), usual)
        place = (table_folder / found).relative_to(root).as_posix()
        places[prefix] = "" if place == "." else f"{place}/"
    return parts["prefix"].map(places).astype(str) + parts["patient"] + "/" + parts["study"] + "/" + parts["name"]
