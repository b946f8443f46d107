"""The Flower ServerApp of the coordinator."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, append_line, read_json
from nescient_fl.study.settings import StudySettings, make_settings
from strategies.federation import FederatedAveraging, FederationPlan, Watcher
from strategies.secure import SecurePlan
from strategies.server_optimiser import ServerOptimiser

_HELPER_SECONDS = 240.0
"""How long a deployment's round waits for a party or the dealer that was lost: a host that restarts takes minutes."""


def make_plan(run: Path) -> FederationPlan:
    """Read a run folder's settings into what the coordinator needs.

    Raises UserError when the folder holds no run, or its settings cannot be.
    """
    config = read_json(RunFolder.open(run).config)
    settings: StudySettings = make_settings(config["settings"])
    sites = len(config["sites"])
    step = settings.server_step()
    return FederationPlan(
        run=run,
        sites=sites,
        rounds=settings.rounds,
        local_epochs=settings.local_epochs,
        seed=settings.seed,
        recipe=settings.federated_recipe(),
        asked_sites=settings.asked_sites(sites),
        needed_sites=settings.needed_sites(sites),
        round_timeout=settings.round_timeout,
        server=ServerOptimiser(step.optimiser, step.momentum or 0.0, step.learning_rate or 0.0),
        secure=_secure_plan(run, settings, config["secure"]),
        **_deployed(run),
    )


def _deployed(run: Path) -> dict[str, Any]:
    """Return what a deployment adds to a plan: whose key each node has, and how long to wait for all of them."""
    path = run / "nodes.json"
    if not path.exists():
        return {}
    known = read_json(path)
    owners = {node["public_key"]: (node["name"], node["role"]) for node in known["nodes"]}
    waits = {"join_timeout": float(known["join_timeout"]), "helper_patience": _HELPER_SECONDS}
    return {"owners": owners, **waits}


def _secure_plan(run: Path, settings: StudySettings, part: Mapping[str, Any] | None) -> SecurePlan | None:
    if part is None:
        return None
    ledger = None
    if part["noise_multiplier"]:
        from nescient_fl.mpc.privacy import PrivacyBudget, PrivacyLedger

        assert settings.dp_epsilon is not None
        assert settings.dp_delta is not None
        budget = PrivacyBudget(settings.dp_epsilon, settings.dp_delta, part["noise_multiplier"])
        ledger = PrivacyLedger(RunFolder(run).ledger, budget)
    try:
        # A run that was founded for a coordinator has it inside, wherever the folder is copied to.
        roster = Vault(run / part["vault"]).roster()
    except MpcError as error:
        raise UserError(f"the run cannot go on: {error}") from None
    return SecurePlan(
        run=part["run"],
        roster=roster,
        clip=settings.clip,
        weight_max=part["weight_max"],
        minimum=part["minimum"],
        strict_membership=settings.strict_membership,
        noise_multiplier=part["noise_multiplier"],
        ledger=ledger,
    )


class Printer:
    """A watcher that prints a line for each thing worth knowing."""

    def sites_joined(self, names: Sequence[str]) -> None:
        print(f"{len(names)} sites joined: {', '.join(names)}", flush=True)

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        if problem is not None:
            print(f"round {round_number}: left out {site}: {problem}", flush=True)

    def round_aborted(self, round_number: int, reason: str) -> None:
        print(f"round {round_number}: no sum was opened, trying again: {reason}", flush=True)

    def study_ended(self, reason: str) -> None:
        print(reason, flush=True)

    def round_validated(self, line: dict[str, Any]) -> None:
        print(f"round {line['round']}: validation {line['validation']}", flush=True)


class EventLog:
    """A watcher that writes what it is told as lines of JSON, for whoever follows the file.

    A line has ``event``, the name of what it was told, and what it was told by name; the last one is ``finished``,
    or ``failed`` with the reason why the study cannot go on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def sites_joined(self, names: Sequence[str]) -> None:
        self._note("sites_joined", names=list(names))

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        self._note("site_answered", round_number=round_number, site=site, problem=problem)

    def round_aborted(self, round_number: int, reason: str) -> None:
        self._note("round_aborted", round_number=round_number, reason=reason)

    def round_validated(self, line: dict[str, Any]) -> None:
        self._note("round_validated", line=line)

    def study_ended(self, reason: str) -> None:
        self._note("study_ended", reason=reason)

    def finished(self) -> None:
        """Note that every round was run."""
        self._note("finished")

    def failed(self, reason: str) -> None:
        """Note why the study cannot go on."""
        self._note("failed", reason=reason)

    def _note(self, event: str, **told: Any) -> None:
        append_line(self._path, {"event": event, **told})


@contextlib.contextmanager
def _telling(teller: Watcher, folder: Path) -> Iterator[None]:
    """Tell an event log how a run ended. Raises what was raised, of a disk that failed in words (UserError)."""
    if not isinstance(teller, EventLog):
        yield
        return
    try:
        yield
        teller.finished()
    except (UserError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = (
                f"{error.filename or folder}: {error.strerror or error}; mend it and start the coordinator again: "
                "it goes on from the last whole round"
            )
        # The event log may lie on the same full disk; Flower tells the coordinator what is raised here too.
        with contextlib.suppress(OSError):
            teller.failed(reason)
        raise UserError(reason) from error


def make_app(run: Path | None = None, watcher: Watcher | None = None, stop: threading.Event | None = None) -> ServerApp:
    """Make the app for one run folder; without one, the run configuration's ``run`` names it."""
    app = ServerApp()

    @app.main()
    def conduct(grid: Grid, context: Context) -> None:
        folder = run or Path(str(context.run_config["run"]))
        events = str(context.run_config.get("events", ""))
        teller = watcher or (EventLog(Path(events)) if events else Printer())
        with _telling(teller, folder), RunFolder(folder).conducted():
            FederatedAveraging(make_plan(folder), teller, stop or threading.Event()).start(grid)

    return app


app = make_app()
