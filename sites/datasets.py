"""The datasets this project reads, by name, and the one call from folders to a cohort."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cohort import Cohort, CohortRule, select_cohort
from nescient_fl.radiographs.table import ReadReport
from sites import chexpert, nih
from sites.reading import read_header

Reader = Callable[[Path, bool], tuple[pd.DataFrame, ReadReport]]

SOURCES: Final[Mapping[str, Reader]] = {
    chexpert.SOURCE: chexpert.read_chexpert,
    nih.SOURCE: nih.read_nih,
}
"""Readers by name. A reader takes a dataset's folder and whether its images must be there."""

PHANTOM: Final = "phantom"
PHANTOM_MARK: Final = "PHANTOM.json"
"""A file of this name in a dataset's folder says that its radiographs are synthetic."""


class Loaded(NamedTuple):
    """A cohort, and where it came from: the folder and the report of each ``source`` in its table."""

    cohort: Cohort
    roots: dict[str, Path]
    reports: dict[str, ReadReport]

    @property
    def synthetic(self) -> bool:
        """Whether any of the folders is a phantom's."""
        return any(is_synthetic(root) for root in self.roots.values())


def is_synthetic(folder: Path) -> bool:
    """Say whether ``folder`` (or the CheXpert folder in it) holds phantoms and no patient's radiograph."""
    table = chexpert.find_table(folder) if folder.is_dir() else None
    places = [folder] if table is None else [folder, table.parent]
    return any((place / PHANTOM_MARK).is_file() for place in places)


def detect_source(folder: Path) -> str:
    """Return the name in ``SOURCES`` of the dataset in ``folder``, or of the table ``folder``, a file.

    Raises ``UserError`` when there is no such path, or when it looks like none of the datasets or like two.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist; name a dataset's folder")
    if folder.is_file():
        header = read_header(folder)
        columns = {chexpert.SOURCE: "Lung Lesion", nih.SOURCE: "Finding Labels"}
        found = [name for name, column in columns.items() if column in header]
    else:
        finders = {chexpert.SOURCE: chexpert.find_table, nih.SOURCE: nih.find_table}
        found = [name for name, find in finders.items() if find(folder) is not None]
    if len(found) > 1:
        raise UserError(f"{folder} holds the tables of {' and '.join(found)}; say which with --source")
    if not found:
        raise UserError(
            f"{folder} is no dataset known here: it holds neither train.csv (CheXpert) nor Data_Entry*.csv"
            f" (NIH ChestX-ray14)"
        )
    return found[0]


def read_source(
    folder: Path, source: str | None = None, require_images: bool = True
) -> tuple[pd.DataFrame, ReadReport]:
    """Read one dataset's folder into the standard table, with ``source``'s reader or the one that fits.

    In a folder of phantoms the table's ``source`` is ``phantom``. Raises ``UserError`` as the readers do.
    """
    if source is not None and source not in SOURCES:
        raise UserError(f"--source {source} is unknown; choose one of {', '.join(SOURCES)}")
    if not folder.exists():
        raise UserError(f"{folder} does not exist; name a dataset's folder")
    table, report = SOURCES[source or detect_source(folder)](folder, require_images)
    return (table.assign(source=PHANTOM) if is_synthetic(folder) else table), report


def load_cohort(folders: Sequence[tuple[Path, str | None]], rule: CohortRule, require_images: bool = True) -> Loaded:
    """Read one or more datasets and select the cohort.

    Each pair is a folder and its source's name, or ``None`` to tell from the folder. Two folders of one
    kind are two datasets with patients of their own, ``chexpert`` and ``chexpert-2`` in the table. With
    several folders each ``patient`` is written ``source/patient``, so that equal ids in two datasets stay
    two people wherever only that column is looked at.

    Raises ``UserError`` for a folder given twice and as ``read_source`` and ``select_cohort`` do.
    """
    if not folders:
        raise UserError("no dataset folder was named")
    tables: list[pd.DataFrame] = []
    roots: dict[str, Path] = {}
    reports: dict[str, ReadReport] = {}
    for folder, source in folders:
        root = folder.parent if folder.is_file() else folder
        if any(root.resolve() == other.resolve() for other in roots.values()):
            raise UserError(f"{folder} was named twice")
        table, report = read_source(folder, source, require_images)
        kind = str(table["source"].iloc[0]) if len(table) else (source or detect_source(folder))
        name = _unused(kind, roots)
        table = table.assign(source=name)
        if len(folders) > 1:
            table["patient"] = name + "/" + table["patient"]
        tables.append(table)
        roots[name] = root
        reports[name] = report
    return Loaded(select_cohort(pd.concat(tables, ignore_index=True), rule), roots, reports)


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name}-{number}"
        number += 1
    return candidate
