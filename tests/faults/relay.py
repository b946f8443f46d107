"""A coordinator over actors that are processes: toy sites, parties and the dealer, with faults where asked for."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict

from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.messages import DEALER, ORDER, PARTY, node_content
from nescient_fl.mpc.vault import Vault, create_vault
from strategies import federation as federation_module
from strategies.federation import FederatedAveraging, FederationPlan
from strategies.secure import SecurePlan
from strategies.server_optimiser import ServerOptimiser
from tests.faults.actors import Halt, run_helper, run_site, sealing_site
from tests.faults.cluster import PATIENCE, Actor
from tests.half_grid import HalfGrid
from tests.strategies.fake_grid import coordinator_identity

NAMES = ("a-1", "b-1", "c-1", "d-1")
MINIMUM = 3

Faults = Mapping[tuple[str, int], Halt]
"""By an actor's name and the number of the question, from 1: a site's orders, a party's and the dealer's sums."""


class ProcessGrid(HalfGrid):
    """Carries messages to processes, and what they answer back; one that ends without a word never answers.

    With ``wakes`` a site that is stopped in one round goes on when the next one begins, and has answered before
    anybody else does.
    """

    def __init__(self, vault: Vault, faults: Faults, times: Mapping[str, float], wakes: bool = False) -> None:
        self.vault, self.faults, self.times = vault, faults, dict(times)
        self.actors: list[Actor] = []
        self._wakes = wakes
        self.asked: dict[str, int] = {}
        self.sealed: dict[str, list[bytes]] = {}
        names = [*NAMES, *(party.name for party in vault.roster().parties), "dealer"]
        self._names = dict(zip(random.Random(0).sample(range(1, 10**9), len(names)), names, strict=True))
        self._waiting: dict[str, tuple[Message, Actor]] = {}
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        if self._wakes and ORDER in (messages := list(messages))[0].content:
            for _, actor in self._waiting.values():
                actor.resume()
                assert actor.answers.poll(PATIENCE)
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._sent += 1
        key = f"message-{self._sent}"
        message.metadata.__dict__["_message_id"] = key
        name = self._names[message.metadata.dst_node_id]
        if not message.content:
            role = "site" if name in NAMES else DEALER if name == "dealer" else PARTY
            self._replies[key] = Message(node_content(name, role), reply_to=message)
            return key
        self.asked[name] = number = self.asked.get(name, 0) + 1
        halt = self.faults.get((name, number))
        if ORDER not in message.content:
            actor = Actor.start(run_helper, self.vault.folder, name, message.content, halt, self.times, halt=halt)
        elif halt is not None:
            images = 10 * (1 + NAMES.index(name))
            actor = Actor.start(run_site, self.vault.folder, name, images, MINIMUM, message.content, halt, halt=halt)
        else:
            site = sealing_site(self.vault, name, 10 * (1 + NAMES.index(name)), MINIMUM)
            self._replies[key] = Message(site.answer(message.content), reply_to=message)
            self.sealed.setdefault(name, []).append(site.sealed[0].header)
            return key
        self.actors.append(actor)
        self._waiting[key] = (message, actor)
        return key

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for key in message_ids:
            message, actor = self._waiting.get(key, (None, None))
            if message is None or actor is None or not actor.answers.poll():
                continue
            del self._waiting[key]
            if (content := actor.answer()) is not None:
                self._replies[key] = Message(content, reply_to=message)
        return [self._replies.pop(key) for key in list(message_ids) if key in self._replies]

    def close(self) -> None:
        for actor in self.actors:
            actor.end()


@dataclass
class Log:
    """A watcher that remembers, with the time since the round's last event."""

    problems: list[tuple[int, str, str]] = field(default_factory=list)
    aborted: list[tuple[int, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def sites_joined(self, names: Sequence[str]) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        self.since = time.monotonic()
        if problem is not None:
            self.problems.append((round_number, site, problem))

    def round_aborted(self, round_number: int, reason: str) -> None:
        self.aborted.append((round_number, reason))
        self.seconds.append(time.monotonic() - self.since)

    def round_validated(self, line: dict[str, Any]) -> None: ...

    def study_ended(self, reason: str) -> None: ...


def new_vault(folder: Path, parties: int = 2) -> Vault:
    return create_vault(folder / "vault", "test", NAMES, parties, MINIMUM)


def relay_plan(run: Path, vault: Vault, **changes: Any) -> FederationPlan:
    made = FederationPlan(
        run=run,
        sites=len(NAMES),
        rounds=1,
        local_epochs=1,
        seed=7,
        recipe=RECIPES["default"],
        asked_sites=len(NAMES),
        needed_sites=MINIMUM,
        round_timeout=60.0,
        server=ServerOptimiser("avgm", momentum=0.5),
        secure=SecurePlan(run="run", roster=vault.roster(), clip=8.0, weight_max=64, minimum=MINIMUM),
    )
    return replace(made, **changes)


def run_relay(plan: FederationPlan, grid: ProcessGrid) -> Log:
    log = Log()
    with coordinator_identity():
        FederatedAveraging(plan, log, threading.Event()).start(grid)
    return log


def run_watched_relay(run: Path, folder: Path, faults: Faults, answers: Connection) -> None:
    """Be a coordinator to the end, and send its log: the entry of a process."""
    vault = Vault(folder)
    grid = ProcessGrid(vault, faults, {})
    try:
        answers.send(run_relay(relay_plan(run, vault), grid))
    finally:
        grid.close()


def run_doomed_relay(run: Path, folder: Path, line: int, answers: Connection) -> None:
    """Be a coordinator that is killed when it is about to write its n-th line: the entry of a process."""
    vault, written = Vault(folder), 0
    append = federation_module.append_line

    def doomed(path: Path, value: Any) -> None:
        nonlocal written
        written += 1
        if written == line:
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, value)

    federation_module.append_line = doomed  # type: ignore[attr-defined]
    run_relay(relay_plan(run, vault), ProcessGrid(vault, {}, {}))
    answers.send(RecordDict())
