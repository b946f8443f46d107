"""The status of a federation: asked of workers and health pages as they stand, and told as they answer."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from rich.console import Console

from nescient_fl.cli import COMMANDS, run_command
from nescient_fl.deployment import launcher
from nescient_fl.deployment.actors import ActorView
from nescient_fl.deployment.control import Control
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.health import Health
from nescient_fl.deployment.launcher import DeploymentEngine
from nescient_fl.deployment.layout import ActorPlace
from nescient_fl.deployment.notice import deployed_in, noticed
from nescient_fl.deployment.roles import CoordinatorSettings, SiteSettings, write_role
from nescient_fl.deployment.status import NO_ANSWER, UNHEALTHY, FederationStatus, federation_status, read_actor
from nescient_fl.deployment.view import actors_table
from nescient_fl.errors import UserError
from nescient_fl.status import status as status_command
from nescient_fl.study.run_folder import RunFolder, append_line, write_json
from nescient_fl.study.settings import StudySettings
from sites.wire import WorkerError, ask, pack
from sites.worker import Worker


class Dummy:
    """An actor that answers anything with nothing, and fails where it is told to."""

    def __init__(self, name: str, role: str) -> None:
        self.name, self.role = name, role

    def handle(self, kind: str, content: RecordDict) -> RecordDict:  # noqa: ARG002
        if kind == "query":
            raise UserError("the disk of [this] site is full")
        return RecordDict()


def order(number: int) -> RecordDict:
    return RecordDict({"order": ConfigRecord({"json": json.dumps({"round": number})})})


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def run(place: Path) -> RunFolder:
    """A run of 8 rounds whose second is through."""
    folder = RunFolder.create(place / "runs" / "study")
    settings = StudySettings(rounds=8).as_dict()
    write_json(folder.config, {**settings, "settings": settings})
    for number in range(3):
        append_line(folder.rounds, {"round": number})
    return folder


def site_file(private: Path, name: str, health_port: int = 0) -> SiteSettings:
    """Write a site's TOML file where a deployment has it."""
    folder = private / name
    folder.mkdir(parents=True)
    settings = SiteSettings(
        name=name,
        superlink="127.0.0.1:9092",
        ca=folder / "ca.pem",
        node_key=folder / "node-key",
        state=folder / "state",
        data=folder / "data",
        health_port=health_port,
    )
    write_role(settings, folder / "site.toml")
    return settings


def coordinator_file(private: Path, run: RunFolder, health_port: int = 0) -> CoordinatorSettings:
    folder = private / "coordinator"
    (folder / "state").mkdir(parents=True)
    (folder / "ca.pem").write_text("")
    settings = CoordinatorSettings(
        listen=f"127.0.0.1:{free_port()}",
        ca=folder / "ca.pem",
        certificate=folder / "server.pem",
        key=folder / "key.pem",
        nodes=private / "nodes",
        run=run.path,
        state=folder / "state",
        health_port=health_port,
    )
    write_role(settings, folder / "coordinator.toml")
    return settings


def working(stack: ExitStack, settings: SiteSettings) -> Worker:
    return stack.enter_context(
        Worker(Dummy(settings.name, "site"), settings.state / "worker.socket", lambda *_, **__: None)
    )


@pytest.fixture
def federation(place: Path, run: RunFolder) -> Iterator[Path]:
    """Three sites of a deployment, of which the last has no process, and a coordinator in the fourth round."""
    private, port = place / "p", free_port()
    with ExitStack() as stack:
        sites = [site_file(private, f"site-{number}") for number in (1, 2, 3)]
        for site in sites[:2]:
            working(stack, site)
        ask(sites[0].state / "worker.socket", "train", order(4))
        ask(sites[1].state / "worker.socket", "train", order(3))
        with pytest.raises(WorkerError):
            ask(sites[1].state / "worker.socket", "query", RecordDict())
        coordinator = coordinator_file(private, run, port)
        append_line(coordinator.state / "events.jsonl", {"event": "sites_joined", "names": []})
        stack.enter_context(Health(port, lambda: (True, {"role": "coordinator", "state": "running"})))
        yield private


def command(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["status", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        run_command(status_command)
    return int(ended.value.code or 0)


def test_a_running_deployment_is_found_by_its_run_and_by_the_folder_of_runs(run: RunFolder, federation: Path) -> None:
    with run.locked(), noticed(run, federation):
        (found,) = federation_status([str(run.path)], {})
        (same,) = federation_status([str(run.path.parent)], {})
    coordinator, first, second, third = found.actors
    assert (found.run, found.round, found.rounds, found.well) == (str(run.path), 4, 8, False)
    assert (coordinator.role, coordinator.state, coordinator.round) == ("coordinator", "running", 4)
    assert coordinator.last == "sites joined"
    assert (first.name, first.role, first.state, first.round, first.last) == ("site-1", "site", "idle", 4, "train")
    assert (first.bytes_in, first.bytes_out) == (len(pack(order(4))), len(pack(RecordDict())))
    assert (second.round, second.last, second.problem) == (3, "query", "the disk of [this] site is full")
    assert (third.state, third.round) == (NO_ANSWER, 0)
    assert third.problem.startswith("no worker listens (")
    assert [actor.name for actor in same.actors] == [actor.name for actor in found.actors]


def test_the_note_is_there_only_while_the_deployment_runs(
    place: Path, run: RunFolder, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def lay_out(run: RunFolder, private: Path, device: str) -> list[ActorPlace]:  # noqa: ARG001
        for folder in ("site-1", "site-2"):
            (private / folder).mkdir()
            shutil.copy(federation / folder / "site.toml", private / folder)
        return []

    def follow(*_: Any) -> None:
        (found,) = federation_status([str(run.path)], {})
        seen.append([actor.name for actor in found.actors if actor.state == "idle"])
        raise UserError("a site cannot go on")

    monkeypatch.setattr(launcher, "lay_out", lay_out)
    monkeypatch.setattr(launcher, "_follow", follow)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with run.locked():
        with pytest.raises(UserError, match="cannot go on"):
            DeploymentEngine(torch.device("cpu"), None).run(run.path, 3, None, threading.Event())  # type: ignore[arg-type]
        assert seen == [["site-1", "site-2"]]
        assert not run.deployment.exists()
        assert deployed_in(run) is None


def test_a_note_that_a_killed_launcher_left_is_of_nothing_that_runs(run: RunFolder, federation: Path) -> None:
    write_json(run.deployment, {"folder": str(federation)})
    assert deployed_in(run) is None  # nobody holds the run
    with run.locked():
        assert deployed_in(run) == federation
        write_json(run.deployment, {"folder": str(federation / "gone")})
        assert deployed_in(run) is None
        for damaged in ("{", "[]", '{"folder": 7}', "{}"):
            run.deployment.write_text(damaged)
            assert deployed_in(run) is None


def test_a_deployment_of_another_user_is_said(place: Path, run: RunFolder) -> None:
    (place / "theirs").mkdir()  # as it looks to who may not read it
    with run.locked(), noticed(run, place / "theirs"), pytest.raises(UserError, match="the user who started it"):
        federation_status([str(run.path)], {})


def test_a_run_is_in_use_while_a_process_holds_it(run: RunFolder) -> None:
    assert not run.in_use()
    with run.locked():
        assert run.in_use()
        assert run.in_use()
    assert not run.in_use()


def test_a_run_that_is_not_running_is_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run.path, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "no deployment on this machine runs" in said.err
    assert "(unfinished, stopped after round 2 of 8)" in said.err
    with run.locked():
        assert command(run.path, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"a process works on {run.path} (unfinished, running, after round 2 of 8), but no actors" in said.err
    monkeypatch.chdir(run.path.parent.parent)
    assert command(monkeypatch=monkeypatch) == 2
    assert "no deployment runs in runs: start one" in capsys.readouterr().err


def test_the_command_shows_a_table_and_json(
    run: RunFolder, federation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    with run.locked(), noticed(run, federation):
        assert command(monkeypatch=monkeypatch) == 1
        shown = capsys.readouterr().out
        assert command("runs/study", "--json", monkeypatch=monkeypatch) == 1
        (told,) = json.loads(capsys.readouterr().out)["federations"]
    assert shown.startswith("runs/study: round 4 of 8\n")
    for words in ("site-3", NO_ANSWER, "sites joined", "the disk of [this] site is full"):
        assert words in shown, words
    assert (told["run"], told["round"], told["rounds"], told["well"]) == ("runs/study", 4, 8, False)
    assert told["actors"][1]["name"] == "site-1"
    assert told["actors"][1]["bytes_in"] == len(pack(order(4)))
    assert COMMANDS["status"] == ("nescient_fl.status", "status")


@pytest.mark.parametrize(
    ("now", "planned", "words"),
    [
        (0, 8, "no round yet"),
        (3, 8, "round 3 of 8"),
        (9, 8, "8 of 8 rounds trained, scoring the last model"),
        (3, None, "round 3"),
    ],
)
def test_the_title_says_how_far_it_is(now: int, planned: int | None, words: str) -> None:
    assert FederationStatus("runs/a", now, planned, []).title() == f"runs/a: {words}"


def test_roles_are_asked_by_their_files_and_health_addresses(
    federation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> tuple[bool, dict[str, Any]]:
        return True, {"name": "party-1", "role": "party", "state": "query.aggregate", "round": 5, "bytes_in": 7}

    port = free_port()
    files = [federation / "coordinator" / "coordinator.toml", federation / "site-1" / "site.toml"]
    with Health(port, told):
        assert command(*files, f"127.0.0.1:{port}", "--json", monkeypatch=monkeypatch) == 0
    (found,) = json.loads(capsys.readouterr().out)["federations"]
    coordinator, site, party = found["actors"]
    assert (found["run"], found["round"], found["rounds"], found["well"]) == (None, 5, 8, True)
    assert (coordinator["state"], coordinator["round"], site["state"]) == ("running", 5, "idle")
    assert (party["name"], party["role"], party["state"], party["bytes_in"]) == (
        "party-1",
        "party",
        "query.aggregate",
        7,
    )


def test_a_member_whose_node_ended_is_not_healthy(place: Path) -> None:
    port = free_port()
    settings = site_file(place, "site-1", port)
    with ExitStack() as stack:
        working(stack, settings)
        (alone,) = federation_status([str(place / "site-1" / "site.toml")], {})
        # No health page, as with a port that another program took: the worker answers all the same.
        assert (alone.actors[0].state, alone.actors[0].problem, alone.well) == ("idle", "", True)
        stack.enter_context(Health(port, lambda: (False, {"name": "site-1", "role": "site", "state": "idle"})))
        (found,) = federation_status([str(place / "site-1" / "site.toml")], {})
    assert (found.actors[0].state, found.well) == (UNHEALTHY, False)
    assert "its node ended" in found.actors[0].problem


def test_a_coordinator_without_a_health_page_is_asked_by_its_link(
    place: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = coordinator_file(place, run)
    file = str(place / "coordinator" / "coordinator.toml")
    (found,) = federation_status([file], {})
    assert (found.actors[0].state, found.rounds) == (NO_ANSWER, 8)
    assert "ca.pem" in found.actors[0].problem  # an empty certificate
    asked: list[str] = []

    class Link:
        def __init__(self, address: str, authority: Path) -> None:
            asked.append(f"{address} {authority.name}")

        def reachable(self) -> bool:
            return True

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("nescient_fl.deployment.control.Control", Link)
    append_line(settings.state / "events.jsonl", {"event": "failed", "reason": "too few sites"})
    (found,) = federation_status([file], {})
    view = found.actors[0]
    assert asked == [f"{settings.listen} ca.pem", "closed"]
    assert (view.state, view.round, view.last, view.problem) == ("running", 2, "failed", "too few sites")


def test_a_link_that_nobody_holds_does_not_answer(place: Path, run: RunFolder) -> None:
    from nescient_fl.deployment.certificates import create_authority

    settings = coordinator_file(place, run)
    shutil.copy(create_authority(place / "authority", "test", 1.0), settings.ca)
    (found,) = federation_status([str(place / "coordinator" / "coordinator.toml")], {})
    assert found.actors[0].problem == f"no link answers at {settings.listen}"
    control = Control(settings.listen, settings.ca)
    assert not control.reachable()
    control.close()


class Page(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'{"state": "idle"}',
        b'{"healthy": 1}',
        b"[" * 60_000,
        b'{"healthy": true' + b" " * 70_000 + b"}",
    ],
    ids=["empty", "text", "a list", "no healthy", "not a boolean", "deep", "too large"],
)
def test_what_is_no_health_page_does_not_count_as_an_answer(body: bytes) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Page,), {"body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (found,) = federation_status([f"127.0.0.1:{server.server_port}"], {})
    finally:
        server.shutdown()
        server.server_close()
    assert (found.actors[0].state, found.well) == (NO_ANSWER, False)
    assert "health page" in found.actors[0].problem


@pytest.mark.parametrize(
    ("told", "state", "number", "last"),
    [
        ({"state": "\x1b[31mred", "round": "7", "last": None, "bytes_in": -1}, "\ufffd[31mred", 0, ""),
        ({"state": "x" * 999, "round": True, "last": "[b]", "bytes_in": 1.5}, "x" * 200, 0, "[b]"),
        ({"state": 7, "round": 3, "problem": ["p"]}, "starting", 3, ""),
    ],
)
def test_what_an_actor_tells_is_taken_with_care(told: Mapping[str, Any], state: str, number: int, last: str) -> None:
    view = ActorView("a", "site")
    view.note(told)
    assert (view.state, view.round, view.last, view.bytes_in, view.problem) == (state, number, last, 0, "")
    console = Console(file=StringIO(), width=300)
    console.print(actors_table([view]))
    assert last in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_problem_has_a_column_of_its_own_only_when_there_is_one() -> None:
    views = [ActorView("a", "site", last="train"), ActorView("b", "site", last="query", problem="full")]
    assert [str(column.header) for column in actors_table(views[:1]).columns][-1] == "out"
    table = actors_table(views)
    assert [str(column.header) for column in table.columns][-1] == "problem"
    assert list(table.columns[4].cells) == ["train", "query"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gone.toml", "no run folder"),
        ("host:99999", "no host:port"),
        ("empty.toml", "must be set"),
        (".", "no deployment runs"),
    ],
)
def test_a_place_that_cannot_be_is_one_clear_line(
    place: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "empty.toml").write_text("")
    assert command(text, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_file_is_read_as_the_role_it_is_of(place: Path, run: RunFolder) -> None:
    site_file(place, "site-1")
    coordinator_file(place, run)
    (place / "site-1" / "site.toml").rename(place / "a.toml")
    assert isinstance(read_actor(place / "a.toml", {}), SiteSettings)
    (place / "coordinator" / "coordinator.toml").rename(place / "site.toml")
    assert isinstance(read_actor(place / "site.toml", {}), CoordinatorSettings)
    assert read_actor(place / "a.toml", {"NESCIENT_HEALTH_PORT": "9193"}).health_port == 9193


def test_asking_imports_nothing_heavy() -> None:
    code = (
        "import nescient_fl.deployment.status, nescient_fl.deployment.view, sys; "
        "print(sorted({'torch', 'pandas', 'scipy', 'crypten', 'ray'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=dict(os.environ)
    )
    assert result.stdout == "[]\n"
