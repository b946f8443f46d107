"""The report of a study: one HTML page that opens offline, and the figures beside it.

``write_report`` reads a finished run folder and writes ``report.html`` and ``figures/``. The page holds no
script and names nothing outside itself, which its own content policy enforces. The same run folder gives
the same bytes. A picture of a radiograph may only enter a report of synthetic data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nescient_fl.study import report_tables as tables
from nescient_fl.study.audit_page import report_part
from nescient_fl.study.figures import FIGURES, draw_figures
from nescient_fl.study.figures_sites import MANY
from nescient_fl.study.figures_style import Picture
from nescient_fl.study.pages import jpeg_uri, page_environment
from nescient_fl.study.report_encrypted import encrypted_cost, encrypted_scores, encrypted_sentences
from nescient_fl.study.report_privacy import secure_sentences, secure_table
from nescient_fl.study.report_run import RunFolder, flat, one_line, read_run, rerun_command
from nescient_fl.study.report_sites import SiteContent, site_contents
from nescient_fl.study.report_values import (
    ARMS,
    Json,
    fixed,
    plain,
    read_arm,
    real,
    score,
    section,
    with_bounds,
)
from nescient_fl.study.run_folder import write_atomically
from nescient_fl.study.summary_text import headline, in_hundred, is_near_chance, sites_sentence, summarise

FRAME = (320, 390)
# Shown elsewhere, or of no use on another machine.
NOT_SETTINGS = ("versions", "data_notes", "sites", "command", "cache", "cache_key", "device_used")


@dataclass(frozen=True)
class GalleryItem:
    """One synthetic example with the score that the federated model gave it."""

    pixels: npt.NDArray[np.uint8] = field(repr=False)
    caption: str
    target: int
    score: float
    threshold: float

    def __post_init__(self) -> None:
        if self.pixels.shape != FRAME or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"a gallery image is uint8 {list(FRAME)}, not {self.pixels.dtype} {list(self.pixels.shape)}"
            )
        if self.target not in (0, 1):
            raise ValueError(f"a gallery item's target is 0 or 1, not {self.target}")

    @property
    def verdict(self) -> str:
        """Say how the prediction came out."""
        alarm = self.score >= self.threshold
        if self.target == 1:
            return "lesion found" if alarm else "lesion missed"
        return "false alarm" if alarm else "rightly clear"


def write_report(run: Path, gallery: Sequence[GalleryItem] = ()) -> Path:
    """Write ``run/report.html`` and ``run/figures/``, each file atomically, and return the page's path.

    A gallery is refused with ``ValueError`` unless the run's data is synthetic: never a pixel of a real
    radiograph. A missing or unreadable file of the run raises ``UserError``.
    """
    folder = read_run(run)
    if gallery and not folder.synthetic:
        raise ValueError("a report of real radiographs holds no picture of one; pass no gallery")
    contents = site_contents(folder.cohort, folder.partition)
    pictures = draw_figures(folder.metrics, contents)
    _write_figures(run / "figures", pictures)
    page = render_page(folder, contents, pictures, gallery)
    path = run / "report.html"
    write_atomically(path, page.encode())
    return path


def render_page(
    run: RunFolder,
    contents: Sequence[SiteContent],
    pictures: Mapping[str, Picture],
    gallery: Sequence[GalleryItem] = (),
) -> str:
    """Return the page's text."""
    from markupsafe import Markup

    environment, style = page_environment("report.css")
    figures = {name: (picture.title, Markup(picture.inline)) for name, picture in pictures.items()}
    return environment.get_template("report.html.j2").render(
        style=style,
        figures=figures,
        audit=Markup(report_part(run.audit)),
        gallery=[_gallery_entry(item) for item in gallery],
        **_context(run, contents),
    )


def _context(run: RunFolder, contents: Sequence[SiteContent]) -> Json:
    """Return everything the template lays out, as text."""
    metrics = run.metrics
    data = section(metrics, "data") | section(run.config, "data_notes")
    names = [site.name for site in contents]
    clients = int(real(section(metrics, "federation").get("clients")) or len(names))
    settings = {key: value for key, value in flat(run.config).items() if key not in NOT_SETTINGS}
    local, federated = read_arm(metrics, "local"), read_arm(metrics, "federated")
    return {
        "name": run.name,
        "synthetic": run.synthetic,
        "source": plain(data.get("source")),
        "line": one_line(run),
        "headline": headline(metrics),
        "summary": summarise(metrics),
        "cards": [_card(metrics, name) for name in ARMS],
        "half": tables.arm_table(metrics, "half"),
        "point": tables.arm_table(metrics, "operating_point"),
        "target_recall": fixed(metrics.get("target_recall"), 2),
        "calibration": tables.calibration_table(metrics),
        "confusions": tables.confusions(metrics),
        "contents": tables.contents_table(contents, metrics) if contents else None,
        "sites": tables.sites_table(metrics, names) if local or federated else None,
        "sites_sentence": sites_sentence(metrics),
        "many_sites": len(names) > MANY,
        "rounds": tables.rounds_table(run.rounds, clients) if run.rounds else None,
        "time": tables.time_table(metrics),
        "traffic": tables.traffic_table(metrics),
        "secure": secure_table(metrics),
        "secure_sentences": secure_sentences(metrics),
        "encrypted_scores": encrypted_scores(metrics),
        "encrypted_cost": encrypted_cost(metrics),
        "encrypted_sentences": encrypted_sentences(metrics),
        "data": tables.data_tables(data),
        "notes": [plain(note) for note in data.get("notes") or []],
        "rejected": tables.rejected_lines(data.get("rejected")),
        "federation": _federation(metrics),
        "machine": tables.facts_table("Machine", section(metrics, "machine")),
        "settings": tables.facts_table("Settings", settings),
        "versions": _facts("Versions", run.config.get("versions")),
        "command": rerun_command(run.config),
        "seed": plain(metrics.get("seed")),
    }


def _card(metrics: Mapping[str, Any], name: Any) -> Json:
    """Return one arm in brief: lesions found and false alarms, out of 100, at the operating point."""
    arm = read_arm(metrics, name)
    recall = score(arm, "operating_point", "recall")
    alarms = score(arm, "operating_point", "specificity").complement()
    auroc = score(arm, "half", "auroc")
    return {
        "arm": name,
        "note": tables.ARM_NOTES[name],
        "ran": arm is not None,
        "found": None if recall.value is None else in_hundred(recall.value),
        "alarms": None if alarms.value is None else in_hundred(alarms.value),
        "auroc": with_bounds(auroc, 2),
        "near_chance": arm is not None and is_near_chance(auroc),
    }


def _facts(caption: str, facts: object) -> tables.Table | None:
    """Return a section's table; nothing for a part that did not run."""
    return tables.facts_table(caption, facts) if isinstance(facts, dict) and facts else None


def _federation(metrics: Mapping[str, Any]) -> tables.Table | None:
    kept = (
        *("engine", "aggregation", "server_optimiser", "server_momentum", "server_learning_rate"),
        *("local_objective", "proximal_mu", "participation", "best_round", "ended"),
        *("model_sha256", "best_model_sha256", "last_model_sha256"),
    )
    federation = section(metrics, "federation")
    return _facts("Federation", {key: federation[key] for key in kept if federation.get(key) is not None})


def _gallery_entry(item: GalleryItem) -> Json:
    return {
        "uri": jpeg_uri(item.pixels),
        "caption": item.caption,
        "verdict": item.verdict,
        "right": item.verdict in ("lesion found", "rightly clear"),
        "score": fixed(item.score, 2),
        "threshold": fixed(item.threshold, 2),
        "truth": "has a lesion" if item.target else "has no lesion",
    }


def _write_figures(directory: Path, pictures: Mapping[str, Picture]) -> None:
    """Write the figures, and take away those that an earlier report of this run drew and this one lacks."""
    directory.mkdir(exist_ok=True)
    for name in FIGURES:
        path = directory / f"{name}.svg"
        if name in pictures:
            write_atomically(path, pictures[name].file.encode())
        else:
            path.unlink(missing_ok=True)


__all__ = ["GalleryItem", "write_report"]
