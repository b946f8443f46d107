"""The coordinator at work: its link, the members it admits, and one run of the federation to its end."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from nescient_fl.deployment.bundle import build_bundle, bundle_sha256
from nescient_fl.deployment.control import Control
from nescient_fl.deployment.flower import flower_environment
from nescient_fl.deployment.founding import own_words, save_founded_model
from nescient_fl.deployment.health import Health
from nescient_fl.deployment.logs import Log, make_log
from nescient_fl.deployment.node_keys import NodeBinding, check_binding, read_bindings
from nescient_fl.deployment.roles import EVENTS, CoordinatorSettings, host_and_port
from nescient_fl.deployment.wall_clock import WallClock
from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.roster import read_signed
from nescient_fl.study.run_folder import RunFolder, read_lines, write_json
from nescient_fl.tether import start_tethered, stop
from strategies.state import load_state

_LINK_SECONDS = 120.0
_POLL_SECONDS = 1.0
_STOP_SECONDS = 2.0
"""For the link to end in: it waits for its nodes to hang up, and nothing that it has is needed any more."""


@dataclass
class _State:
    stage: str = "starting"
    run_id: int = 0


def run_coordinator(settings: CoordinatorSettings) -> None:
    """Run the federation of a run folder to its end, or until SIGTERM or Ctrl-C, which leave it resumable.

    Raises UserError when the link, a member's node file or the run itself cannot be used, or the run failed.
    """
    halt = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_ask, halt))
    log = make_log("coordinator", "coordinator")
    members = admitted(settings)
    state = _State()
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def check() -> tuple[bool, dict[str, Any]]:
        return state.stage in ("running", "finished"), {"role": "coordinator", "state": state.stage}

    with Health(settings.health_port, check), open_link(settings, log) as link:
        _conduct(settings, members, link, state, halt, log)


def admitted(settings: CoordinatorSettings) -> list[NodeBinding]:
    """Return the members' nodes that the link admits, each tied to the roster where there is one.

    Raises UserError naming a node whose key its member did not sign, or the members that have none.
    """
    bindings = read_bindings(settings.nodes)
    if settings.roster is None:
        return bindings
    try:
        roster = read_signed(settings.roster, settings.authority)
    except MpcError as error:
        raise UserError(str(error)) from None
    for binding in bindings:
        check_binding(binding, roster)
    absent = sorted({member.name for member in roster.training} - {binding.name for binding in bindings})
    if absent:
        raise UserError(f"{settings.nodes} has no node file of {', '.join(absent)}: ask for it")
    return bindings


@dataclass(frozen=True)
class Link:
    """The running link: whether its process lives, and how to talk to it."""

    control: Control
    alive: Any


@contextmanager
def open_link(settings: CoordinatorSettings, log: Log) -> Iterator[Link]:
    """Run the link while the context lasts."""
    host, port = host_and_port(settings.listen)
    process = start_tethered(
        [
            *(
                sys.executable,
                "-m",
                "nescient_fl.deployment.link",
                "--host",
                host,
                "--port",
                str(port),
                "--enable-supernode-auth",
            ),
            *("--ssl-certfile", settings.certificate, "--ssl-keyfile", settings.key),
            *("--ssl-ca-certfile", settings.ca, "--disable-runtime-dependency-installation"),
        ],
        log=settings.state / "superlink.log",
        environment=flower_environment(settings.state / "flower"),
        cwd=settings.state,
    )
    log("link started", process=process.pid, listen=settings.listen)
    control = Control(settings.listen, settings.ca)
    try:
        yield Link(control, lambda: process.poll() is None)
    finally:
        control.close()
        stop(process, _STOP_SECONDS)


def _conduct(
    settings: CoordinatorSettings,
    members: list[NodeBinding],
    link: Link,
    state: _State,
    halt: threading.Event,
    log: Log,
) -> None:
    link.control.wait(_LINK_SECONDS, lambda: link.alive() and not halt.is_set())
    for member in members:
        node = link.control.register(member.name, member.pem)
        log("admitted", member=member.name, member_role=member.role, node=node)
    run = RunFolder.open(settings.run)
    write_json(
        run.path / "nodes.json",
        {
            "join_timeout": settings.join_timeout,
            "nodes": [{"name": m.name, "role": m.role, "public_key": m.pem.decode()} for m in members],
        },
    )
    clock = WallClock()
    (settings.state / EVENTS).unlink(missing_ok=True)
    bundle = build_bundle()
    state.run_id = link.control.start_run(bundle, {"run": str(run.path), "events": str(settings.state / EVENTS)})
    state.stage = "running"
    log("run started", run=state.run_id, folder=run.path, bundle=bundle_sha256(bundle))
    while not halt.wait(_POLL_SECONDS):
        if moved := clock.look():
            log("clock set", seconds=round(moved))
        if not link.alive():
            raise UserError("the link ended: see superlink.log; start the coordinator again to go on")
        # The app says that it is done some seconds before Flower has put it away.
        ended = _ended(settings.state / EVENTS)
        if ended is None:
            ended = link.control.failure(state.run_id)
        if ended is not None:
            state.stage = "finished"
            ended = own_words(run, ended)
            log("run ended", reason=ended)
            if ended:
                raise UserError(clock.explain(ended))
            reached = load_state(run.checkpoints)
            if reached is not None and (sha256 := save_founded_model(run, reached)) is not None:
                log("model written", path=run.model, sha256=sha256)
            return
    log("stopping", run=state.run_id)


def _ended(events: Path) -> str | None:
    """Return why the run ended in the coordinator app's own words, empty after its last round, None while it runs."""
    for event in read_lines(events):
        if event["event"] in ("finished", "failed"):
            return str(event.get("reason", ""))
    return None


def _ask(halt: threading.Event, number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    halt.set()
