"""The federated arm as real processes on this machine: a coordinator, sites, parties and a dealer, supervised."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from nescient_fl import tether
from nescient_fl.deployment import reaper
from nescient_fl.deployment.actors import ActorView
from nescient_fl.deployment.given import held_roster
from nescient_fl.deployment.layout import ActorPlace, lay_out
from nescient_fl.deployment.notice import noticed
from nescient_fl.deployment.roles import EVENTS, SOCKET
from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder, append_line, read_lines
from sites.wire import STATUS, WorkerError, ask_bytes
from strategies.exchange import Stopped
from strategies.federation import Watcher

_TOLD = ("sites_joined", "site_answered", "round_aborted", "round_validated", "study_ended")
"""Events of the coordinator that a watcher is told of."""
_POLL_SECONDS = 0.25
_STOP_SECONDS = 4.0
_LONGEST_FOLDER = 55
"""Bytes: below it lie sockets, whose paths the system limits."""
_RESTARTS = 5
"""How often the launcher starts one actor again before it gives up; each pause is a second longer than the last."""
_SETTLED_SECONDS = 300.0
"""An actor that lived for so long is well: what ended it before counts no more. A run may last for days."""


@runtime_checkable
class ActorsWatcher(Protocol):
    """Told how all actors are, a few times a second."""

    def actors(self, views: list[ActorView]) -> None: ...


@dataclass
class _Running:
    place: ActorPlace
    process: subprocess.Popen[bytes]
    view: ActorView
    again_at: float = 0.0
    failures: int = 0
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Following:
    """How far the coordinator's events were heard."""

    heard: int = 0


class DeploymentEngine:
    """Runs a run folder's federation as separate processes with TLS and authenticated nodes.

    Whatever happens to this process, its reaper ends every other one and deletes the private folder with the
    certificates and node keys.
    """

    name = "deployment"

    def __init__(self, device: torch.device, view: object) -> None:
        self._device = device
        self._view = view if isinstance(view, ActorsWatcher) else None

    def run(self, run: Path, sites: int, watcher: Watcher, stop: threading.Event, helpers: int = 0) -> None:  # noqa: ARG002
        """Run the federation of a run folder to its last round.

        Raises UserError with the coordinator's reason when it cannot go on, Stopped when ``stop`` is set.
        """
        folder = RunFolder.open(run)
        with held_roster(folder), private_folder() as (private, mark):
            places = lay_out(folder, private, self._device.type)
            environment = {**os.environ, reaper.MARK: mark, "OMP_NUM_THREADS": "1"}
            running = [_Running(place, _start(place, environment), _view(place)) for place in places]
            try:
                with noticed(folder, private):
                    _follow(running, environment, watcher, self._view, stop)
            finally:
                for actor in running:
                    if actor.process.poll() is None:
                        actor.process.terminate()
                for actor in running:
                    _stop(actor)
                _collect(folder, places)

    def close(self) -> None:
        """Do nothing: ``run`` stops what it starts."""


@contextmanager
def private_folder() -> Iterator[tuple[Path, str]]:
    """Make the folder and start its reaper, which ends all and deletes it once this context or process is over."""
    private = Path(tempfile.mkdtemp(prefix="nescient-"))
    if len(str(private)) > _LONGEST_FOLDER:
        private.rmdir()
        private = Path(tempfile.mkdtemp(prefix="nescient-", dir="/tmp"))
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, mark, str(private)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        yield private, mark
    finally:
        process.stdin.close()
        process.wait()


def _view(place: ActorPlace) -> ActorView:
    return ActorView(place.name, place.role)


def _start(place: ActorPlace, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [sys.executable, "-m", f"nescient_fl.{place.role}", "--config", place.settings]
    return tether.start_tethered(command, log=place.log, environment=environment, cwd=place.folder)


def _stop(actor: _Running) -> None:
    tether.stop(actor.process, _STOP_SECONDS)


def _follow(
    running: list[_Running],
    environment: dict[str, str],
    watcher: Watcher,
    view: ActorsWatcher | None,
    halt: threading.Event,
) -> None:
    """Tell the watcher what happens and start again who ends, until the coordinator is done."""
    coordinator = running[0]
    following = _Following()
    while True:
        if halt.is_set():
            raise Stopped
        status = coordinator.process.poll()
        _hear(coordinator.place, following, watcher)
        if status == 0:
            return
        if status == 2:  # it said why, in one line
            raise UserError(_last_words(coordinator.place.log))
        for actor in running:
            _revive(actor, environment)
        _look(running)
        if view is not None:
            view.actors([actor.view for actor in running])
        halt.wait(_POLL_SECONDS)


def _hear(place: ActorPlace, following: _Following, watcher: Watcher) -> None:
    events = read_lines(place.state / EVENTS)
    for told in events[following.heard :]:
        if (event := told.pop("event")) in _TOLD:
            getattr(watcher, event)(**told)
    following.heard = len(events)


def _revive(actor: _Running, environment: dict[str, str]) -> None:
    """Start an actor again that ended, as a service manager would on its own host."""
    status = actor.process.poll()
    if status is None:
        return
    if actor.view.state != "ended":
        now = time.monotonic()
        if now - actor.since > _SETTLED_SECONDS:
            actor.failures = 0
        if status == 2 or actor.failures >= _RESTARTS:
            raise UserError(f"{actor.place.name}: {_last_words(actor.place.log)}")
        actor.view.state = "ended"
        actor.again_at = now + actor.failures
    elif time.monotonic() >= actor.again_at:
        actor.process = _start(actor.place, environment)
        actor.since = time.monotonic()
        actor.failures += 1
        actor.view.restarts += 1
        actor.view.state = "starting"


def _look(running: list[_Running]) -> None:
    """Ask every member's worker how it is."""
    for actor in running[1:]:
        try:
            answer = ask_bytes(actor.place.state / SOCKET, STATUS, b"", connect_seconds=0, answer_seconds=1)
        except WorkerError:
            continue
        actor.view.note(json.loads(answer))
    coordinator = running[0].view
    if coordinator.state != "ended":
        rounds = [actor.view.round for actor in running[1:]]
        coordinator.state = "running" if any(rounds) else "starting"
        coordinator.round = max(rounds, default=0)


def _last_words(log: Path) -> str:
    """Return the last line that an actor said, without the mark of an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "it ended without a word"


def _collect(run: RunFolder, places: list[ActorPlace]) -> None:
    """Bring what the actors wrote for others into the run folder: what left each site, and every log."""
    lines = [line for place in places for line in read_lines(place.state / "transcript.jsonl")]
    for line in sorted(lines, key=lambda line: line["time"]):
        append_line(run.transcript, line)
    with run.engine_log.open("ab") as out:
        for place in places:
            for log in (place.log, *sorted(place.state.glob("*.log"))):
                if log.exists():
                    out.write(f"--- {place.name}: {log.name}\n".encode())
                    out.write(log.read_bytes())
