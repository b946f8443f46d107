"""The figures of a study, each an SVG that stands alone and one that stands in the report.

``draw_figures`` draws what a run has; what it lacks (an arm that did not run) is left out, not faked.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nescient_fl.study import figures_arms, figures_curves, figures_encrypted, figures_sites
from nescient_fl.study.figures_style import Picture, draw
from nescient_fl.study.report_sites import SiteContent, site_contents
from nescient_fl.study.report_values import Point, count, read_arm, score, with_bounds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIGURES", "Picture", "draw_figures", "partition_picture"]

FIGURES = (
    "arms_half",
    "arms_operating_point",
    "rounds_recall",
    "rounds_auroc",
    "roc",
    "precision_recall",
    "calibration",
    "partition_labels",
    "partition_views",
    "sites_recall",
    "sites_auroc",
    *figures_encrypted.NAMES,
)


def draw_figures(metrics: Mapping[str, Any], contents: Sequence[SiteContent]) -> dict[str, Picture]:
    """Draw every figure that this run has the numbers for, by name."""
    pictures: list[Picture] = []
    arms = figures_arms.present(metrics)
    if arms:
        pictures += _arm_pictures(metrics)
    if contents:
        pictures += _partition_pictures(contents)
    if read_arm(metrics, "local") and read_arm(metrics, "federated"):
        pictures += _site_pictures(metrics, contents)
    pictures += figures_encrypted.encrypted_pictures(metrics)
    return {picture.name: picture for picture in pictures}


def partition_picture(cohort: "pd.DataFrame", partition: "pd.DataFrame", path: Path) -> Path:
    """Draw who got what, from the two tables of a run; SVG, PNG or PDF by suffix."""
    contents = site_contents(cohort, partition)
    return figures_sites.partition_picture(
        path,
        [site.name for site in contents],
        [(site.positives, site.images - site.positives) for site in contents],
        [(site.views.get("AP", 0), site.views.get("PA", 0)) for site in contents],
    )


def _arm_pictures(metrics: Mapping[str, Any]) -> list[Picture]:
    titles: dict[Point, str] = {"half": "at threshold 0.5", "operating_point": "at the operating point"}
    pictures = []
    for point, where in titles.items():
        alt = f"Scores of the arms {where}, with 95% intervals. Recall: {_alt(metrics, point, 'recall')}."
        make = partial(figures_arms.forest, metrics, point)
        pictures.append(draw(f"arms_{point}", f"The arms {where}", alt, make))
    for metric, what in (("recall", "recall at threshold 0.5"), ("auroc", "AUROC")):
        alt = f"Lines: {what} on validation patients after each round, for each arm."
        make = partial(figures_arms.by_round, metrics, metric)
        pictures.append(draw(f"rounds_{metric}", f"Validation {what} by round", alt, make))
    ranks = f"AUROC: {_alt(metrics, 'half', 'auroc')}."
    pictures.append(draw("roc", "ROC curves", f"ROC curves of the arms. {ranks}", partial(figures_curves.roc, metrics)))
    alt = f"Precision-recall curves of the arms. AUPRC: {_alt(metrics, 'half', 'auprc')}."
    make = partial(figures_curves.precision_recall, metrics)
    pictures.append(draw("precision_recall", "Precision and recall", alt, make))
    alt = f"Calibration curves of the arms. Calibration error: {_alt(metrics, 'half', 'calibration_error')}."
    make = partial(figures_curves.calibration, metrics)
    pictures.append(draw("calibration", "Calibration", alt, make))
    return pictures


def _alt(metrics: Mapping[str, Any], point: Point, metric: str) -> str:
    return ", ".join(f"{name} {with_bounds(score(arm, point, metric))}" for name, arm in figures_arms.present(metrics))


def _partition_pictures(contents: Sequence[SiteContent]) -> list[Picture]:
    names = [site.name for site in contents]
    positives = [float(site.positives) for site in contents]
    negatives = [float(site.images - site.positives) for site in contents]
    front, back = ([float(site.views.get(view, 0)) for site in contents] for view in ("AP", "PA"))
    total = count(sum(site.images for site in contents))
    alt = f"Bars: images with and without a lesion at each of {len(names)} sites, {total} in all."
    make = partial(figures_sites.site_bars, names, (("with a lesion", positives), ("without", negatives)))
    labels = draw("partition_labels", "Lesions by site", alt, make)
    alt = f"Bars: AP and PA images at each of {len(names)} sites."
    make = partial(figures_sites.site_bars, names, (("AP", front), ("PA", back)))
    return [labels, draw("partition_views", "Views by site", alt, make)]


def _site_pictures(metrics: Mapping[str, Any], contents: Sequence[SiteContent]) -> list[Picture]:
    pictures = []
    names = [site.name for site in contents] or list(figures_sites.site_scores(metrics, "federated", "auroc"))
    for metric, what in (("recall", "Recall at the operating point"), ("auroc", "AUROC")):
        alt = f"{what} on each site's own held-out patients: by its own model, and by the federated model."
        make = partial(figures_sites.dumbbells, metrics, names, metric)
        pictures.append(draw(f"sites_{metric}", f"{what} by site, before and after", alt, make))
    return pictures
