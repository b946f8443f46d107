"""What an audit found, as audit.json keeps it, and in the words of terminal, page and report."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nescient_fl.errors import UserError
from nescient_fl.study.report_values import Json, plain, section

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
RECORD, PAGE = "audit.json", "audit.html"

VERDICTS = {
    "held": "held",
    "broken": "broken",
    "open": "needs noise",
    "inconclusive": "inconclusive",
}
_COLOURS = {"held": "green", "broken": "bold red", "open": "yellow", "inconclusive": "yellow"}
HEAD = ["Attack", "Without protection", "Protection", "With it", "Verdict"]


def audit_folder(run: Path | None, out: Path | None) -> Path:
    """Return the folder to write to, made if need be: ``out``, else the run's own, else a new one below ``runs/``.

    Raises UserError for one that cannot be.
    """
    folder = out or run or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S-audit")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): name another with --out") from None
    return folder


def audit_record(run: str | None, findings: Sequence[Json], subject: Json, seconds: float) -> Json:
    """Return what audit.json holds; ``passed`` unless an attack on the secure path succeeded."""
    return {
        "format": FORMAT,
        "run": run,
        "passed": not any(finding["outcome"] == "broken" for finding in findings),
        "seconds": round(seconds, 1),
        "subject": dict(subject),
        "findings": list(findings),
    }


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row an attack, as ``HEAD`` names the columns."""
    return [
        [
            plain(finding.get("title")),
            _result(finding, "plain") or "does not apply",
            plain(finding.get("protection")),
            _result(finding, "secure"),
            VERDICTS.get(str(finding.get("outcome")), "unknown"),
        ]
        for finding in findings_of(record)
    ]


def findings_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a record's findings; what is none is left out."""
    found = record.get("findings")
    return [finding for finding in found if isinstance(finding, Mapping)] if isinstance(found, list) else []


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Say in a few sentences what an audit found, the most important first."""
    findings = findings_of(record)
    sealing = [finding for finding in findings if finding.get("protection") == "sealing"]
    noise = [finding for finding in findings if finding.get("protection") == "noise"]
    twins = [section(finding, "plain") for finding in sealing if section(finding, "plain")]
    worked = sum(twin.get("succeeded") is True for twin in twins)
    said = []
    if broken := [finding for finding in findings if finding.get("outcome") == "broken"]:
        names = "; ".join(plain(finding.get("title")) for finding in broken)
        said.append(f"{_attacks(len(broken))} succeeded against what should have stopped them: {names}.")
    held = sum(finding.get("outcome") == "held" for finding in sealing)
    said.append(
        f"{_share(held, len(sealing))} attacks on single sites got nothing from sealed updates. "
        f"{_share(worked, len(twins))} that plain averaging knows work there."
    )
    if any(finding.get("outcome") == "open" for finding in noise):
        said.append(
            "The opened sum is not secret, and what it tells sealing cannot hide: "
            f"{_attacks(len(noise))} on it work without noise and fail with it. This study adds none (--dp-epsilon)."
        )
    elif noise:
        said.append(f"The {_attacks(len(noise))} on the opened sum, which sealing does not hide, fail with its noise.")
    if unclear := sum(finding.get("outcome") == "inconclusive" for finding in findings):
        said.append(f"{_attacks(unclear)} did not even work in clear, and so say nothing.")
    return said


def audit_table(record: Mapping[str, Any]) -> "Table":
    """Return the table that an audit ends with in the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Attacks, without protection and with it",
        caption="SYNTHETIC DATA: no patient's images",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for name in HEAD[:2] + HEAD[3:]:
        table.add_column(name)
    for finding, row in zip(findings_of(record), rows(record), strict=True):
        colour = _COLOURS.get(str(finding.get("outcome")), "")
        table.add_row(row[0], row[1], row[3], Text(row[4], colour))
    return table


def _result(finding: Mapping[str, Any], way: str) -> str:
    trial = section(finding, way)
    return plain(trial.get("brief")) if trial else ""


def _share(some: int, whole: int) -> str:
    return f"All {whole}" if some == whole else f"{some} of {whole}"


def _attacks(number: int) -> str:
    return f"{number} attack{'' if number == 1 else 's'}"
