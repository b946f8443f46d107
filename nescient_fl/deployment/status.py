"""How a federation's actors are, asked from outside: their workers, their health pages, the coordinator's link."""

import http.client
import json
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nescient_fl.deployment.actors import ActorView
from nescient_fl.deployment.notice import deployed_in
from nescient_fl.deployment.roles import (
    EVENTS,
    SOCKET,
    CoordinatorSettings,
    DealerSettings,
    MemberSettings,
    PartySettings,
    RoleSettings,
    SiteSettings,
    host_and_port,
    read_role,
)
from nescient_fl.errors import UserError
from nescient_fl.study.report_run import flat
from nescient_fl.study.report_sites import natural
from nescient_fl.study.report_values import printable, real
from nescient_fl.study.run_folder import RunFolder, read_json, read_lines
from nescient_fl.study.run_list import is_run, read_entry, rounds_done
from sites.wire import STATUS, WorkerError, ask_bytes

NO_ANSWER, UNHEALTHY = "no answer", "unhealthy"

_ROLES: dict[str, type[RoleSettings]] = {
    "coordinator": CoordinatorSettings,
    "site": SiteSettings,
    "party": PartySettings,
    "dealer": DealerSettings,
}
_SECONDS = 3.0
_LARGEST_PAGE = 1 << 16
_AT_ONCE = 16


@dataclass(frozen=True)
class FederationStatus:
    """How one federation is.

    Attributes:
        run: its run folder, None when only actors were named.
        round, rounds: the round that any actor is at, and how many are planned; None when not known.
        actors: how each is; one that does not answer has the state ``no answer``, and why as its problem.
    """

    run: str | None
    round: int
    rounds: int | None
    actors: list[ActorView]

    @property
    def well(self) -> bool:
        """Whether every actor answers and is healthy."""
        return not any(actor.state in (NO_ANSWER, UNHEALTHY) for actor in self.actors)

    def title(self) -> str:
        """Say in a line which federation it is, and how far."""
        if not self.round:
            far = "no round yet"
        elif self.rounds is None:
            far = f"round {self.round}"
        elif self.round > self.rounds:  # the exchange after the last round trains nothing
            far = f"{self.rounds} of {self.rounds} rounds trained, scoring the last model"
        else:
            far = f"round {self.round} of {self.rounds}"
        return f"{self.run or 'Actors'}: {far}"

    def record(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self) | {"well": self.well}


def federation_status(targets: Sequence[str], environment: Mapping[str, str]) -> list[FederationStatus]:
    """Return how every running federation in the named places is.

    A place is a run folder, a folder of them, a role's TOML file or the host:port of a health page; files and pages
    together are one federation. Raises UserError for a place that cannot be, a run folder that no deployment runs
    in, and when nothing runs in a folder.
    """
    found: list[FederationStatus] = []
    questions: list[RoleSettings | str] = []
    for target in targets:
        path = Path(target)
        if path.is_dir():
            found += _run_status(path) if is_run(path) else _folder_status(path)
        elif path.exists():
            questions.append(read_actor(path, environment))
        else:
            questions.append(_address(target))
    return found + ([_asked(questions)] if questions else [])


def read_actor(path: Path, environment: Mapping[str, str]) -> RoleSettings:
    """Read a role's TOML file, whichever role it is. Raises UserError when it cannot be read."""
    try:
        keys = tomllib.loads(path.read_text()).keys()
    except (OSError, ValueError):
        keys = {}.keys()  # reading it as a role says why
    kind = _ROLES.get(path.stem, DealerSettings)
    for setting, role in (("listen", "coordinator"), ("data", "site"), ("memory", "party")):
        if setting in keys:
            kind = _ROLES[role]
    return read_role(kind, path, environment)


def _address(text: str) -> str:
    try:
        host_and_port(text)
    except UserError:
        raise UserError(f"{text} is no run folder, no role's TOML file and no host:port of a health page") from None
    return text


def _folder_status(folder: Path) -> list[FederationStatus]:
    found = [status for path in sorted(folder.iterdir()) if (status := _deployed(path)) is not None]
    if not found:
        raise UserError(f"no deployment runs in {folder}: start one with nescient deploy")
    return found


def _run_status(run: Path) -> list[FederationStatus]:
    status = _deployed(run)
    if status is None:
        entry = read_entry(run)
        how = f"{entry.state}, {entry.note}" if entry.note else entry.state
        if RunFolder(run).in_use():
            raise UserError(
                f"a process works on {run} ({how}), but no actors of a deployment run: its radiographs are being "
                "prepared, its model is being scored, or it is a simulation"
            )
        raise UserError(
            f"no deployment on this machine runs {run} ({how}); of roles on hosts of their own, name the TOML files "
            "or the addresses of the health pages"
        )
    return [status]


def _deployed(run: Path) -> FederationStatus | None:
    """Return how a run's deployment on this machine is, None when there is none."""
    folder = RunFolder(run)
    private = deployed_in(folder)
    if private is None:
        return None
    try:
        files = [
            path
            for role in _ROLES
            for path in sorted(private.glob(f"*/{role}.toml"), key=lambda file: natural(file.parent.name))
        ]
        # What was told by the environment stands in no file, and concerns nothing that is asked here.
        settings = [read_actor(path, {}) for path in files]
    except UserError:
        if private.is_dir():
            raise
        return None  # it ended in this moment
    if not settings:
        raise UserError(f"{private}, where {run} is deployed, cannot be read: ask as the user who started it")
    return replace(_asked(settings), run=str(run))


def _asked(questions: Sequence[RoleSettings | str]) -> FederationStatus:
    """Ask actors by their settings or addresses, several at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        actors = list(pool.map(_look, questions))
    coordinators = [one for one in questions if isinstance(one, CoordinatorSettings)]
    now = max((actor.round for actor in actors), default=0)
    for actor in actors:
        if actor.role == "coordinator" and actor.state != NO_ANSWER:
            actor.round = now
    return FederationStatus(None, now, _planned(coordinators[0].run) if coordinators else None, actors)


def _planned(run: Path) -> int | None:
    try:
        config = read_json(RunFolder(run).config)
    except (UserError, OSError):
        return None
    rounds = real(flat(config).get("rounds")) if isinstance(config, dict) else None
    return None if rounds is None else int(rounds)


def _look(question: RoleSettings | str) -> ActorView:
    if isinstance(question, CoordinatorSettings):
        return _look_at_coordinator(question)
    if isinstance(question, MemberSettings):
        return _look_at_member(question)
    assert isinstance(question, str)
    view = ActorView(question, "-", NO_ANSWER)
    _read_health(view, question)
    return view


def _look_at_member(settings: MemberSettings) -> ActorView:
    role = next(name for name, kind in _ROLES.items() if type(settings) is kind)
    view = ActorView(settings.name, role, NO_ANSWER)
    # The health page knows more than the worker: whether the node beside it lives.
    if settings.health_port and _read_health(view, f"127.0.0.1:{settings.health_port}"):
        return view
    socket = settings.state / SOCKET
    try:
        told = json.loads(ask_bytes(socket, STATUS, b"", connect_seconds=0, answer_seconds=_SECONDS))
    except (WorkerError, ValueError) as error:
        view.problem = printable(str(error).replace(f" at {socket}", ""))
        return view
    _take(view, told)
    return view


def _look_at_coordinator(settings: CoordinatorSettings) -> ActorView:
    view = ActorView("coordinator", "coordinator", NO_ANSWER)
    if settings.health_port:
        _read_health(view, f"127.0.0.1:{settings.health_port}")
    else:
        _reach_link(view, settings)
    if view.state == NO_ANSWER:
        return view
    view.round = rounds_done(RunFolder(settings.run))
    events = [event for event in read_lines(settings.state / EVENTS) if isinstance(event, dict)]
    if events:
        view.note({"last": str(events[-1].get("event", "")).replace("_", " "), "problem": events[-1].get("reason")})
    return view


def _reach_link(view: ActorView, settings: CoordinatorSettings) -> None:
    from nescient_fl.deployment.control import Control

    try:
        control = Control(settings.listen, settings.ca)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        view.problem = f"{settings.ca.name}: {said}"
        return
    try:
        if control.reachable():
            view.state = "running"
        else:
            view.problem = f"no link answers at {settings.listen}"
    finally:
        control.close()


def _read_health(view: ActorView, address: str) -> bool:
    """Ask a health page. Returns whether it answered; the view says why not."""
    host, port = host_and_port(address)
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", "/health")
        told = json.loads(connection.getresponse().read(_LARGEST_PAGE))
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        view.problem = f"no health page at {address} ({said.lower()})"
        return False
    finally:
        connection.close()
    if not isinstance(told, dict) or not isinstance(told.get("healthy"), bool):
        view.problem = f"what answers at {address} is no health page"
        return False
    _take(view, told)
    if told["healthy"] is False and view.role != "coordinator":
        view.state = UNHEALTHY
        view.problem = view.problem or "its node ended: see supernode.log"
    return True


def _take(view: ActorView, told: Mapping[str, Any]) -> None:
    """Take over what an actor says of itself, its name and role too."""
    view.problem = ""
    view.note({"state": "running", **told})
    if isinstance(role := told.get("role"), str):
        view.role = printable(role)
        view.name = role if role == "coordinator" else view.name
    if isinstance(name := told.get("name"), str):
        view.name = printable(name)
