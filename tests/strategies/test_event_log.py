"""What the coordinator's app leaves for its role to read when a run ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder, read_lines
from strategies.server import EventLog, Printer, _telling, make_app

FULL = "/run/rounds.jsonl: No space left on device; mend it and start the coordinator again"


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/rounds.jsonl")


def test_how_a_run_ended_is_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with _telling(EventLog(path), tmp_path):
        pass
    with pytest.raises(UserError, match="two of four"), _telling(EventLog(path), tmp_path):
        raise UserError("two of four")
    assert read_lines(path) == [{"event": "finished"}, {"event": "failed", "reason": "two of four"}]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(UserError, match=FULL), _telling(EventLog(path), tmp_path):
        raise no_space()
    assert [line["reason"].startswith(FULL) for line in read_lines(path)] == [True]


def test_it_is_the_same_line_when_not_even_the_event_log_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=FULL), _telling(EventLog(tmp_path / "gone" / "events.jsonl"), tmp_path):
        raise no_space()


def test_without_an_event_log_an_error_goes_its_way(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"), _telling(Printer(), tmp_path):
        raise no_space()


def test_nothing_is_read_or_asked_while_another_coordinator_works_on_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def taken(_: RunFolder) -> Iterator[None]:
        raise UserError("another coordinator works on it")
        yield

    monkeypatch.setattr(RunFolder, "conducted", taken)
    context: Any = SimpleNamespace(run_config={"run": str(tmp_path), "events": str(tmp_path / "events.jsonl")})
    grid: Any = None
    with pytest.raises(UserError, match="another coordinator works on it"):
        make_app()(grid, context)
    assert [line["event"] for line in read_lines(tmp_path / "events.jsonl")] == ["failed"]
