"""The page of an audit and its part of the report: what they say, that they stand alone, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_run import SampleRun, write_sample_run
from test_report import NASTY, PageReader
from test_report_browser import BROWSER, measure

from nescient_fl.errors import UserError
from nescient_fl.study.audit_page import BEGIN, END, read_audit, render_audit, write_audit
from nescient_fl.study.audit_record import audit_folder, audit_record, audit_table, rows, sentences
from nescient_fl.study.report import write_report

Json = dict[str, Any]


def finding(outcome: str = "held", protection: str = "sealing", plain: bool | None = True, title: str = "Try") -> Json:
    trial = {"brief": "51 of 51 named", "result": "51 of 51 named among 51.", "figures": {}}
    tries = [{"what": "one site alone", "answers": ["QuorumError", "QuorumError"], "gained": False}]
    return {
        "key": "try",
        "title": title,
        "saw": "Everything that the relay sees.",
        "protection": protection,
        "outcome": outcome,
        "plain": None if plain is None else {"succeeded": plain, **trial},
        "secure": {"succeeded": outcome == "broken", "brief": "none", "result": "None.", "figures": {"tries": tries}},
    }


def record_of(*findings: Json, run: str | None = "study") -> Json:
    return audit_record(run, findings, {"parties": 2, "clip": 8.0, "private": False}, 43.21)


def pictures() -> list[list[tuple[str, Any]]]:
    draw = np.random.default_rng(0)
    return [[(f"Picture {n}", draw.integers(0, 256, (320, 390), np.uint8)) for n in range(4)] for _ in range(2)]


def test_the_page_stands_alone_and_says_what_was_found() -> None:
    page = render_audit(record_of(finding(), finding("open", "noise"), finding("broken", title=NASTY)), pictures())
    reader = PageReader(page)
    assert reader.tags["script"] == 0
    assert all(ref.startswith(("data:image/jpeg;base64,", "#")) for ref in reader.references)
    assert {ref[1:] for ref in reader.references if ref.startswith("#")} <= set(reader.ids)
    assert reader.tags["img"] == 8
    text = " ".join(reader.text)
    for words in ("SYNTHETIC", "held", "needs noise", "broken", "one site alone: QuorumError", "43 s", NASTY):
        assert words in text, words


def test_a_broken_protection_is_the_first_thing_said_and_fails_the_audit() -> None:
    record = record_of(finding(), finding("broken", title="Rebuild a radiograph"))
    assert record["passed"] is False
    assert sentences(record)[0] == "1 attack succeeded against what should have stopped them: Rebuild a radiograph."
    assert "failed" in render_audit(record, [])


def test_what_is_open_or_inconclusive_is_said_and_fails_nothing() -> None:
    record = record_of(finding(), finding(plain=None), finding("open", "noise"), finding("inconclusive", plain=False))
    assert record["passed"] is True
    first, second, third = sentences(record)
    assert first.startswith("2 of 3 attacks on single sites got nothing from sealed updates. 1 of 2")
    assert "This study adds none (--dp-epsilon)" in second
    assert third == "1 attack did not even work in clear, and so say nothing."
    assert rows(record)[1][1] == "does not apply"
    assert "with its noise" in sentences(record_of(finding("held", "noise")))[-1]


def test_the_terminal_table_fits_eighty_columns() -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=80)
    console.print(audit_table(record_of(finding(title="Show the parties different sets"), finding("open", "noise"))))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "needs noise" in shown
    assert "\u2026" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_no_picture_of_a_real_radiograph_is_ever_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="real radiographs"):
        write_audit(tmp_path, record_of(finding()), pictures(), synthetic=False)
    assert not list(tmp_path.iterdir())
    write_audit(tmp_path, record_of(finding()), [], synthetic=False)
    assert "<img" not in (tmp_path / "audit.html").read_text()


def test_the_report_gets_its_part_and_keeps_the_rest(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path, SampleRun(images=300, rounds=2))
    before = write_report(run).read_text()
    assert f"{BEGIN}\n{END}" in before
    assert "audit.html" not in before
    write_audit(run, record_of(finding(title="First")), [], synthetic=True)
    once = (run / "report.html").read_text()
    assert 'href="audit.html"' in once
    assert "First" in once
    write_audit(run, record_of(finding(title=NASTY)), [], synthetic=True)
    twice = (run / "report.html").read_text()
    assert "First" not in twice
    assert "<script>" not in twice
    assert twice.partition(BEGIN)[0] == before.partition(BEGIN)[0]
    assert twice.partition(END)[2] == before.partition(END)[2]
    # A report that is written again says the same: it reads audit.json.
    assert write_report(run).read_text() == twice


def test_an_audit_that_cannot_be_read_is_no_audit(tmp_path: Path) -> None:
    assert read_audit(tmp_path) is None
    for text in ("{", "[]", "{}", json.dumps({"findings": [1, 2]})):
        (tmp_path / "audit.json").write_text(text)
        assert read_audit(tmp_path) is None


def test_a_report_without_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("an old report")
    write_audit(tmp_path, record_of(finding()), [], synthetic=True)
    assert (tmp_path / "report.html").read_text() == "an old report"


def test_where_an_audit_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert audit_folder(Path("run"), Path("out/deep")) == Path("out/deep")
    assert Path("out/deep").is_dir()
    assert audit_folder(Path("out"), None) == Path("out")
    assert audit_folder(None, None).parts[0] == "runs"
    Path("file").touch()
    with pytest.raises(UserError, match="is a file"):
        audit_folder(None, Path("file"))


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone_and_a_desktop(tmp_path: Path, width: int) -> None:
    wide = "x" * 300
    page = render_audit(record_of(finding(title=wide), finding("open", "noise"), run=wide), pictures())
    result = measure(page, tmp_path, width)
    assert result["wide"] == []
    assert result["scroll"] <= width
    assert result["empty"] == []
    assert result["fetched"] == []
    assert result["images"] == 8


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_the_page_follows_a_dark_theme(tmp_path: Path) -> None:
    page = render_audit(record_of(finding()), [])
    assert measure(page, tmp_path)["background"] != measure(page, tmp_path, dark=True)["background"]
