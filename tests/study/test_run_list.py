"""Runs listed and compared: whatever a folder holds is a row, and what it says is what the run wrote."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sample_run import SampleRun, edit_metrics, write_sample_run
from test_report import NASTY, PageReader
from test_report_browser import BROWSER, measure

from nescient_fl.cli import COMMANDS, run_command
from nescient_fl.errors import UserError
from nescient_fl.runs import runs as runs_command
from nescient_fl.study.checkpoint import save_checkpoint
from nescient_fl.study.run_list import list_runs, read_entry
from nescient_fl.study.run_tables import render_runs, runs_table, sentences

Json = dict[str, Any]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs, of which two have the same model."""
    folder = tmp_path_factory.mktemp("samples")
    write_sample_run(folder / "20261120-101500", SampleRun(images=300, rounds=3))
    write_sample_run(folder / "again", SampleRun(images=300, rounds=3, arms=("federated",), synthetic=False))
    secure = write_sample_run(folder / "secure", SampleRun(images=300, rounds=3))
    federation = metrics_of(secure)["federation"]
    federation |= {"aggregation": "secure", "engine": "deployment", "model_sha256": "ab" * 32}
    edit_metrics(secure, federation=federation, secure={"parties": 3, "epsilon": 3.984})
    return folder


@pytest.fixture
def folder(samples: Path, tmp_path: Path) -> Path:
    shutil.copytree(samples, tmp_path / "runs")
    return tmp_path / "runs"


def metrics_of(run: Path) -> Json:
    found: Json = json.loads((run / "metrics.json").read_text())
    return found


def drawn(folder: Path, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(runs_table(list_runs([folder])))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_finished_run_is_told_as_it_was_written(folder: Path) -> None:
    first, again, secure = list_runs([folder]).runs
    assert (first.name, first.state, first.begun) == ("20261120-101500", "finished", datetime(2026, 11, 20, 10, 15))
    assert (first.source, first.synthetic, first.partition) == ("phantom", True, "dirichlet")
    assert (first.clients, first.rounds, first.engine, first.privacy) == ("5", "3", "ray", "plain")
    assert (again.synthetic, list(again.figures)) == (False, ["federated"])
    assert (secure.engine, secure.privacy) == ("deployment", "secure, 3 parties, epsilon 3.98 spent")
    arm = metrics_of(folder / "secure")["arms"]["pooled"]
    figures = secure.figures["pooled"]
    for interval, written in (
        (figures.recall_half, arm["test"]["recall"]),
        (figures.recall_point, arm["operating_point"]["recall"]),
        (figures.auroc, arm["test"]["auroc"]),
    ):
        assert (interval.value, interval.low, interval.high) == (written["value"], written["low"], written["high"])


def test_runs_with_the_same_model_are_marked(folder: Path) -> None:
    listed = list_runs([folder])
    first, again, secure = listed.runs
    assert listed.same_model(first) == ["again"]
    assert listed.same_model(again) == ["20261120-101500"]
    assert listed.same_model(secure) == []
    assert sentences(listed) == ["Same model (3f3f3f3f3f3f): 20261120-101500, again."]
    assert drawn(folder).count("(same model)") == 2
    # A run without a model is like no other.
    for name in ("again", "secure"):
        (folder / name / "metrics.json").unlink()
    listed = list_runs([folder])
    assert not any(map(listed.same_model, listed.runs))
    assert sentences(listed) == []


def test_an_unfinished_run_says_how_far_it_got(folder: Path) -> None:
    run = folder / "secure"
    (run / "metrics.json").unlink()
    config = json.loads((run / "config.json").read_text())
    settings = {"rounds": 8, "clients": 5, "aggregation": "secure", "parties": 2, "data": [], "dp_epsilon": 4.0}
    changed = config | {"settings": settings, "secure": {"run": "x"}, "command": "python -m nescient_fl.deploy"}
    (run / "config.json").write_text(json.dumps(changed))
    entry = read_entry(run)
    assert (entry.state, entry.note) == ("unfinished", "stopped after round 3 of 8")
    assert (entry.engine, entry.privacy) == ("deployment", "secure, 2 parties, epsilon at most 4.00")
    with (run / "rounds.jsonl").open("a") as stream:
        stream.write('{"round": 4, "si')  # a crash
    assert read_entry(run).note == "stopped after round 3 of 8"
    settings["rounds"] = 3
    (run / "config.json").write_text(json.dumps(changed))
    assert read_entry(run).note == "all 3 rounds done, not scored yet"
    (run / "rounds.jsonl").unlink()
    assert read_entry(run).note == "no round yet"


def test_a_coordinators_run_without_radiographs_is_finished_once_it_has_a_model(folder: Path) -> None:
    run = folder / "secure"
    (run / "metrics.json").unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"founded": True}))
    assert read_entry(run).state == "unfinished"
    save_checkpoint(run / "model.safetensors", {"model": {"w": torch.zeros(2)}}, {"sha256": "cd" * 32})
    entry = read_entry(run)
    assert (entry.state, entry.model_sha256, entry.figures) == ("finished", "cd" * 32, {})
    assert "no radiographs" in entry.note
    (run / "model.safetensors").write_bytes(b"\x08" * 40)
    assert (read_entry(run).state, read_entry(run).note) == (
        "damaged",
        "model.safetensors is not a model of this version",
    )


def test_a_model_trained_in_one_place_is_listed_with_its_hash(folder: Path) -> None:
    run = folder / "secure"
    edited = {
        "format": 1,
        "kind": "centralized",
        "data": {"source": "nih", "synthetic": False},
        "model_sha256": "e0" * 32,
    }
    (run / "metrics.json").write_text(json.dumps(edited))
    entry = read_entry(run)
    assert (entry.state, entry.source, entry.model_sha256, entry.figures) == ("finished", "nih", "e0" * 32, {})
    assert entry.note.startswith("training in one place")


def cut(run: Path) -> None:
    path = run / "metrics.json"
    path.write_bytes(path.read_bytes()[:-200])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda run: (run / "config.json").unlink(), "config.json is missing"),
    "config is a folder": (
        lambda run: ((run / "config.json").unlink(), (run / "config.json").mkdir()),
        "config.json cannot be read (Is a directory)",
    ),
    "config of another kind": (lambda run: (run / "config.json").write_text("[1]"), "config.json does not hold"),
    "config is no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "not readable JSON"),
    "config is too deep": (lambda run: (run / "config.json").write_text("[" * 100_000), "not readable JSON"),
    "metrics cut": (cut, "metrics.json is not readable JSON"),
    "later format": (lambda run: edit_metrics(run, format=2), "metrics.json has format 2, this version reads 1"),
    "no arms": (lambda run: edit_metrics(run, arms=None), "metrics.json holds no arms"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_a_row_with_the_reason(folder: Path, case: str) -> None:
    damage, reason = DAMAGE[case]
    damage(folder / "secure")
    *others, broken = list_runs([folder]).runs
    assert [run.state for run in others] == ["finished"] * 2
    assert broken.state == "damaged"
    assert reason in broken.note
    assert str(folder) not in broken.note
    assert "damaged:" in drawn(folder)
    assert reason in " ".join(PageReader(render_runs(list_runs([folder]))).text)


@pytest.mark.parametrize("value", [None, "text", 7, [1], {"value": "x"}, {"a": {"b": []}}])
def test_a_part_of_another_kind_is_no_crash(folder: Path, value: object) -> None:
    for name in ("data", "federation", "secure", "arms"):
        shutil.copytree(folder / "20261120-101500", folder / f"odd-{name}")
        edit_metrics(folder / f"odd-{name}", **{name: value})
    edit_metrics(folder / "secure", data={"source": value, "partition": value}, federation={"clients": value})
    run = folder / "again"
    (run / "metrics.json").unlink()
    odd = {"settings": value, "rounds": 4, "data": value, "command": value, "parties": value, "secure": value}
    (run / "config.json").write_text(json.dumps(odd))
    (run / "rounds.jsonl").write_text(json.dumps(value) + "\n" + json.dumps({"round": value}) + "\n")
    assert len(list_runs([folder]).runs) == 7
    drawn(folder)
    render_runs(list_runs([folder]))


def test_names_that_are_no_text_are_shown_all_the_same(folder: Path) -> None:
    name = os.fsdecode(b"run\xff\x1b[31m[red]")
    (folder / "secure").rename(folder / name)
    listed = list_runs([folder])
    assert listed.runs[-1].name == "run\ufffd\ufffd[31m[red]"
    assert "[red]" in drawn(folder, 120)
    render_runs(listed).encode()


def test_the_terminal_table_fits_80_columns(folder: Path) -> None:
    shutil.copytree(folder / "secure", folder / ("a-long-name" * 9))
    shown = drawn(folder)
    assert max(map(len, shown.splitlines())) <= 80
    assert "\u2026" not in shown
    assert "did not run" in shown
    assert "SYNTHETIC" in shown


def test_the_page_stands_alone_and_names_no_path(folder: Path) -> None:
    for path in folder.iterdir():
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"cache": str(folder / "cache")}))
    shutil.copytree(folder / "secure", folder / NASTY.replace("/", "-"))
    page = render_runs(list_runs([folder]))
    reader = PageReader(page)
    assert reader.tags["script"] == 0
    assert all(reference.startswith("#") for reference in reader.references)
    assert {reference[1:] for reference in reader.references} <= set(reader.ids)
    assert str(folder) not in page
    text = " ".join(reader.text)
    for words in ("SYNTHETIC DATA: 3 of 4 runs", "4 finished", "same as again", "3f3f3f3f3f3f", "epsilon 3.98 spent"):
        assert words in text, words
    # Three plots; every run has three arms but for one.
    assert reader.labels.count(None) == 0
    assert len(reader.labels) == 3 * (3 + 1 + 3 + 3)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_the_page_fits_a_phone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "secure", folder / ("x" * 200))
    result = measure(render_runs(list_runs([folder])), tmp_path, 390)
    assert result["wide"] == []
    assert result["scroll"] <= 390
    assert result["fetched"] == []


def run(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["runs", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(runs_command)
    return int(ended.value.code or 0)


def test_the_command_lists_runs_and_writes_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder.parent)
    assert run("--html", "page.html", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "Not runs: empty." in shown
    assert "Page: page.html" in shown
    assert "abababababab" in Path("page.html").read_text()
    assert not [path for path in Path().iterdir() if path.name.endswith(".tmp")]
    assert run("runs/secure", "runs", "runs/again", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert shown.index("secure") < shown.index("20261120-101500")
    assert shown.count("abababababab") == 1
    assert COMMANDS["runs"] == ("nescient_fl.runs", "runs")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "runs is no folder"),
        (["gone"], "gone is no folder"),
        (["."], "no run in ."),
    ],
)
def test_nothing_to_list_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_said(folder: Path) -> None:
    (folder / "secure" / "config.json").chmod(0)
    assert "cannot be read" in list_runs([folder]).runs[-1].note
    with pytest.raises(UserError):
        list_runs([folder / "secure" / "config.json"])
