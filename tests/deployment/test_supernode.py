"""A member's node is started again whatever it ended from, and why is said where it can be known."""

import errno
import io
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.deployment import supernode
from nescient_fl.deployment.logs import make_log
from nescient_fl.deployment.node_keys import create_node_key
from nescient_fl.deployment.roles import SiteSettings
from nescient_fl.deployment.supernode import SuperNode, gave_up
from nescient_fl.errors import UserError

PATIENCE = 60.0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", False),
        ("", "INFO :      SuperNode ID: 7\n", False),
        ("", "ERROR :     SSL/TLS handshake error detected.\nERROR :     [SSL: UNEXPECTED_EOF_WHILE_READING]\n", True),
        ("ERROR :     SSL/TLS handshake error detected.\n", "INFO :      SuperNode ID: 7\n", False),
    ],
)
def test_a_node_that_gave_its_link_up_is_known_by_what_it_said_itself(
    tmp_path: Path, before: str, after: str, expected: bool
) -> None:
    log = tmp_path / "supernode.log"
    assert not gave_up(log, 0)
    log.write_text(before + after)
    assert gave_up(log, len(before)) is expected


class Lines:
    """A log that remembers, and knows when something was said."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._more = threading.Condition()

    def __call__(self, event: str, **fields: Any) -> None:
        with self._more:
            self.lines.append({"event": event, **fields})
            self._more.notify_all()

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event]

        with self._more:
            assert self._more.wait_for(lambda: len(found()) >= count, PATIENCE), self.lines
            return found()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    monkeypatch.setattr(supernode, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supernode, "_LONGEST_PAUSE", 0.01)
    create_node_key(tmp_path / "node-key")
    state = tmp_path / "state"
    state.mkdir()
    place: dict[str, Any] = {"state": state, "ca": tmp_path / "ca.pem", "node_key": tmp_path / "node-key"}
    return SiteSettings(name="site-1", superlink="127.0.0.1:1", data=tmp_path, bundle="b", **place)


def starting(monkeypatch: pytest.MonkeyPatch, start: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """Have the n-th process started by a function instead."""
    count = iter(range(1, 1000))
    monkeypatch.setattr(supernode, "start_tethered", lambda *_, **__: start(next(count)))


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"])


def test_a_node_that_finds_its_disk_full_is_tried_again_until_there_is_room(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def start(number: int) -> subprocess.Popen[bytes]:
        if number in (1, 3):  # the first attempt starts nothing, the second half of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/supernode.log")
        made.append(sleeper())
        return made[-1]

    starting(monkeypatch, start)
    log = Lines()
    with SuperNode(settings, settings.state / "s", log) as node:
        started = log.wait_for("node started")
        assert node.alive
        assert node.problem == ""
        assert started[0]["processes"] == [process.pid for process in made[1:]]
        assert made[0].poll() is not None
        ended = log.wait_for("node ended", 2)
        assert [line["reason"] for line in ended] == ["/state/supernode.log: No space left on device"] * 2
    assert all(process.poll() is not None for process in made)


def test_a_node_that_ended_over_its_clock_says_so(settings: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "this clock is +3600 s from the coordinator's"

    def wrong(*_: object) -> str:
        raise UserError(words)

    monkeypatch.setattr(supernode, "describe_clock", wrong)
    monkeypatch.setattr(supernode, "_LONGEST_PAUSE", PATIENCE)
    monkeypatch.setattr(supernode, "_FIRST_PAUSE", PATIENCE)
    starting(monkeypatch, lambda _: subprocess.Popen(["true"]))
    log = Lines()
    with SuperNode(settings, settings.state / "s", log) as node:
        (ended,) = log.wait_for("node ended")
        assert ended["reason"] == words
        assert node.problem == words
        assert not node.alive


class FullDisk(io.StringIO):
    """A stream that nothing more can be written to until there is room."""

    room = False

    def write(self, text: str) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_log_on_a_full_disk_stops_nobody() -> None:
    stream = FullDisk()
    log = make_log("site", "site-1", stream)
    log("first")
    stream.room = True
    log("second")
    assert json.loads(stream.getvalue())["event"] == "second"


def test_a_node_that_lives_on_without_its_link_is_started_again(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a proxy in front of a coordinator that is gone takes its connection and ends it."""

    def start(number: int) -> "subprocess.Popen[bytes]":
        if number == 3:
            # The first of the second node's two processes: it says nothing wrong.
            return subprocess.Popen(["sleep", "100"])
        if number == 1:
            with (settings.state / "supernode.log").open("a") as log:
                log.write("ERROR :     SSL/TLS handshake error detected.\n")
        return subprocess.Popen(["sleep", "100"])

    starting(monkeypatch, start)
    lines = Lines()
    with SuperNode(settings, settings.state / "socket", lines):
        lines.wait_for("node ended")
        lines.wait_for("node started", 2)
    assert [line["event"] for line in lines.lines].count("node ended") == 1
