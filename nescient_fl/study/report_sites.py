"""What each site holds, counted from ``partition.csv`` joined to ``cohort.csv``."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nescient_fl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SiteContent:
    """One site's share of the cohort."""

    name: str
    images: int
    patients: int
    positives: int
    splits: dict[str, int]
    views: dict[str, int]
    devices: int
    female: int
    male: int
    median_age: float | None


def site_contents(cohort: "pd.DataFrame", partition: "pd.DataFrame") -> list[SiteContent]:
    """Count what every site holds, sites in natural order of their names (site-2 before site-10)."""
    table = join_tables(cohort, partition)
    # One person in two sources counts as two.
    person = ["source", "patient"] if "source" in table.columns else ["patient"]
    contents = []
    for name, rows in table.groupby("site", sort=False):
        ages = rows["age"][rows["age"] >= 0]
        contents.append(
            SiteContent(
                name=str(name),
                images=len(rows),
                patients=len(rows[person].drop_duplicates()),
                positives=int((rows["target"] == 1).sum()),
                splits={split: int((rows["split"] == split).sum()) for split in SPLITS},
                views={view: int((rows["view"] == view).sum()) for view in ("AP", "PA")},
                devices=int(rows["devices"].astype(str).str.lower().isin(("true", "1")).sum()),
                female=int((rows["sex"] == "F").sum()),
                male=int((rows["sex"] == "M").sum()),
                median_age=float(ages.median()) if len(ages) else None,
            )
        )
    return sorted(contents, key=lambda site: natural(site.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that reads the numbers within a name as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def join_tables(cohort: "pd.DataFrame", partition: "pd.DataFrame") -> "pd.DataFrame":
    """Put each image's site and split beside its cohort row."""
    left, right = cohort.reset_index(drop=True), partition.reset_index(drop=True)
    if len(left) == len(right) and (left["image"].to_numpy() == right["image"].to_numpy()).all():
        left["site"], left["split"] = right["site"], right["split"]
        return left
    keys = ["image", "source"] if "source" in right.columns and "source" in left.columns else ["image"]
    if left.duplicated(keys).any() or right.duplicated(keys).any():
        raise UserError(
            "partition.csv and cohort.csv do not list the same images in the same order, and an image is"
            " named twice, so their rows cannot be matched; make the run again"
        )
    return left.merge(right[[*keys, "site", "split"]], on=keys, how="inner")
