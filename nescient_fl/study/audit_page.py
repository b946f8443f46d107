"""The page of an audit: one HTML file that opens offline, and its part of the study's report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.study.audit_record import HEAD, PAGE, RECORD, VERDICTS, findings_of, rows, sentences
from nescient_fl.study.pages import jpeg_uri, page_environment
from nescient_fl.study.report_tables import Table, facts_table
from nescient_fl.study.report_values import Json, duration, plain, section
from nescient_fl.study.run_folder import write_atomically, write_json

Pictures = Sequence[Sequence[tuple[str, NDArray[np.uint8]]]]
"""Rows of captioned pictures: the truth first, then what attackers made of it."""

BEGIN, END = "<!-- audit -->", "<!-- end of audit -->"
"""Where the audit's part of report.html is, empty or not."""


def write_audit(folder: Path, record: Mapping[str, Any], pictures: Pictures, *, synthetic: bool) -> Path:
    """Write audit.json and audit.html, renew the report's part about it where there is a report; return the page.

    Raises ValueError for pictures that are not of synthetic radiographs: never a pixel of a real one.
    """
    if pictures and not synthetic:
        raise ValueError("an audit of real radiographs shows no picture of one; pass none")
    write_json(folder / RECORD, record)
    page = folder / PAGE
    write_atomically(page, render_audit(record, pictures).encode())
    _renew_report(folder / "report.html", record)
    return page


def read_audit(run: Path) -> Json | None:
    """Return what an audit of a run found; None when there was none, or it cannot be read."""
    try:
        found = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and findings_of(found) else None


def render_audit(record: Mapping[str, Any], pictures: Pictures) -> str:
    """Return the page's text."""
    environment, style = page_environment("report.css", "audit.css")
    subject = section(record, "subject")
    return environment.get_template("audit.html.j2").render(
        style=style,
        name=plain(record.get("run")) if record.get("run") else "Default settings",
        parties=plain(subject.get("parties")),
        took=duration(record.get("seconds")),
        sentences=sentences(record),
        passed=record.get("passed") is True,
        findings=[_finding(finding) for finding in findings_of(record)],
        pictures=[[(caption, jpeg_uri(pixels)) for caption, pixels in row] for row in pictures],
        settings=facts_table("Settings of the study that was attacked", subject),
    )


def report_part(record: Mapping[str, Any] | None) -> str:
    """Return what the report's privacy section says of an audit, marks included; little when there was none."""
    environment, _ = page_environment()
    text = ""
    if record is not None:
        table = Table("Attacks", HEAD, [list(row) for row in rows(record)])
        text = environment.get_template("report_audit.html.j2").render(
            sentences=sentences(record), table=table, page=PAGE
        )
    return f"{BEGIN}\n{text}{END}"


def _renew_report(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the report's part about the audit; a report of an earlier version has none and stays as it is."""
    if not path.is_file():
        return
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        write_atomically(path, (before + report_part(record) + after).encode())


def _finding(finding: Mapping[str, Any]) -> Json:
    unprotected, protected = section(finding, "plain"), section(finding, "secure")
    outcome = str(finding.get("outcome"))
    tries = section(protected, "figures").get("tries")
    return {
        "title": plain(finding.get("title")),
        "saw": plain(finding.get("saw")),
        "outcome": outcome,
        "verdict": VERDICTS.get(outcome, "unknown"),
        "ways": ("Without noise", "With noise") if finding.get("protection") == "noise" else ("In clear", "Sealed"),
        "plain": plain(unprotected.get("result")) if unprotected else None,
        "secure": plain(protected.get("result")),
        "tries": [
            (plain(attempt.get("what")), ", ".join(sorted({str(answer) for answer in attempt.get("answers", [])})))
            for attempt in (tries if isinstance(tries, list) else [])
            if isinstance(attempt, Mapping)
        ],
    }
