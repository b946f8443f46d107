"""From a study's settings to its data: dataset folders, cohort, pixel cache, partition."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples
from nescient_fl.radiographs.cache import PixelCache, build_cache
from nescient_fl.radiographs.cohort import CohortRule
from nescient_fl.radiographs.partition import SETTINGS, PartitionRule, assign_sites
from nescient_fl.radiographs.phantom import GENERATOR, write_phantom
from nescient_fl.study.settings import StudySettings
from sites.datasets import Loaded, load_cohort
from sites.site import SiteData, load_site_data, site_names

PHANTOM_SEED = 7
"""The default phantom's own seed: the study's seed changes the study, not the radiographs."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much is done, and how much there is."""


@dataclass(frozen=True)
class StudyData:
    """A study's radiographs.

    ``table`` has one row an image in the order of the cache: the cohort's columns, ``site`` and ``split``.
    """

    cache: PixelCache
    table: pd.DataFrame
    source: str
    synthetic: bool
    rows_read: int
    dropped: dict[str, int]
    rejected: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    partition: str

    @property
    def sites(self) -> list[str]:
        """Site names in the order that every sum follows."""
        return site_names(self.table)

    def site(self, name: str) -> SiteData:
        """Return one site's examples."""
        return load_site_data(self.cache, self.table, name)

    def examples(self, split: str) -> Examples:
        """Return the examples of one split over all sites."""
        targets = self.table["target"].to_numpy(np.float32)
        rows = np.flatnonzero((self.table["split"] == split).to_numpy())
        return Examples(self.cache.pixels, self.cache.mean, self.cache.std, targets, rows)


def cache_folder() -> Path:
    """Return where phantoms and pixel caches are kept: NESCIENT_CACHE, else the user's cache folder."""
    chosen = os.environ.get("NESCIENT_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("nescient_fl"))


def phantom_folder(images: int) -> Path:
    """Return where the default phantom of so many images is drawn."""
    return cache_folder() / f"phantom-{images}-v{GENERATOR}"


@dataclass(frozen=True)
class Selected:
    """The quick half of preparing: which radiographs a study uses and where, none of them opened yet."""

    loaded: Loaded
    rule: PartitionRule
    assignment: pd.DataFrame


def select_radiographs(settings: StudySettings, progress: Progress) -> Selected:
    """Read the tables, select the cohort and divide it among sites; draw the phantom when it is not there.

    Raises UserError for a folder, table or setting that cannot be.
    """
    loaded = _load(settings, progress)
    rule = PartitionRule(
        kind=settings.partition or usual_partition(loaded.cohort.table, settings.clients),  # type: ignore[arg-type]
        clients=settings.clients,
        alpha=settings.alpha,
        seed=settings.seed,
        minimum_images=settings.min_images,
        minimum_positives=settings.min_positives,
    )
    return Selected(loaded, rule, assign_sites(loaded.cohort.table, rule))


def usual_partition(cohort: pd.DataFrame, clients: int) -> str:
    """Return ``setting`` where each of its settings can have a site, else ``dirichlet``.

    NIH ChestX-ray14, for one, records no support devices, and so no intensive care.
    """
    both = set(cohort["view"]) == {"AP", "PA"}
    on_ap = cohort.loc[cohort["view"] == "AP", "devices"]
    return "setting" if both and on_ap.nunique() == 2 and clients >= len(SETTINGS) else "dirichlet"


def decode_radiographs(settings: StudySettings, selected: Selected, progress: Progress) -> StudyData:
    """Decode the selected radiographs into the pixel cache, or open it where it is there.

    Raises UserError when none can be read, and when leaving out those that cannot leaves a site too small.
    """
    loaded, assignment = selected.loaded, selected.assignment
    cohort = loaded.cohort
    result = build_cache(
        loaded.roots,
        cohort.table,
        settings.geometry,  # type: ignore[arg-type]
        cache_folder() / "pixels",
        progress=lambda done, total: progress("Decoding radiographs", done, total),
    )
    if result.rejected:
        assignment = assign_sites(result.table, selected.rule)
    dropped = dict(cohort.dropped)
    for report in loaded.reports.values():
        for reason, count in report.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return StudyData(
        cache=result.cache,
        table=result.table.assign(site=assignment["site"].array, split=assignment["split"].array),
        source="+".join(sorted(loaded.roots)),
        synthetic=loaded.synthetic,
        rows_read=sum(report.rows_read for report in loaded.reports.values()),
        dropped=dropped,
        rejected=tuple({"image": r.image, "reason": r.reason} for r in result.rejected),
        notes=cohort.notes,
        partition=selected.rule.kind,
    )


def prepare_data(settings: StudySettings, progress: Progress) -> StudyData:
    """Select and decode a study's radiographs; what was made before is used again."""
    return decode_radiographs(settings, select_radiographs(settings, progress), progress)


def _load(settings: StudySettings, progress: Progress) -> Loaded:
    rule = CohortRule(
        rule=settings.cohort,  # type: ignore[arg-type]
        uncertain=settings.uncertain,  # type: ignore[arg-type]
        balance=settings.balance,
        seed=settings.seed,
    )
    if settings.data:
        sources = [*settings.source, *[None] * (len(settings.data) - len(settings.source))]
        return load_cohort([(Path(d), s) for d, s in zip(settings.data, sources, strict=True)], rule)
    if settings.source:
        raise UserError("--source says what a folder holds: name the folder with --data")
    images = settings.phantom_images
    folder = phantom_folder(images)
    write_phantom(
        folder,
        images,
        PHANTOM_SEED,
        progress=lambda done, total: progress("Drawing synthetic radiographs", done, total),
    )
    return load_cohort([(folder, "chexpert")], rule)
