"""Compute parties, the dealer and sites as processes of their own that stop dead at a named step.

Everything they run is the product's; what stops them stands around it: a session and a memory that count the calls
which pass through them, and the dealer's functions, wrapped in its own process.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from flwr.app import RecordDict

from nescient_fl.mpc import channel, dealer
from nescient_fl.mpc.errors import MpcError, SessionAborted
from nescient_fl.mpc.material import MaterialRequest
from nescient_fl.mpc.party import aggregate
from nescient_fl.mpc.party_store import PartyStore
from nescient_fl.mpc.session import Session
from nescient_fl.mpc.vault import Vault
from nescient_fl.sealed_messages import SUM, opened_content, read_sum, refusal_content
from sites import sealing
from sites.sealing import SitePolicy
from tests.strategies.secure_grid import SealingSite


@dataclass(frozen=True)
class Halt:
    """Where an actor stops: before or after the n-th time that it takes a step, killed or only stopped."""

    step: str
    number: int = 1
    after: bool = True
    how: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        place = "after" if self.after else "before"
        return f"{'killed' if self.how == signal.SIGKILL else 'stalled'} {place} {self.step} {self.number}"


@dataclass
class Steps:
    """Counts an actor's steps, and stops it where its halt says."""

    halt: Halt | None
    taken: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self.taken[step] = self.taken.get(step, 0) + 1
        here = self.halt is not None and (self.halt.step, self.halt.number) == (step, self.taken[step])
        if here and self.halt is not None and not self.halt.after:
            os.kill(os.getpid(), self.halt.how)
        yield
        if here and self.halt is not None and self.halt.after:
            os.kill(os.getpid(), self.halt.how)

    def around(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            with self(step):
                return function(*arguments, **options)

        return stepped


_BEFORE_THE_DEALER = ("memories", "reports", "signatures")


class HaltingSession(AbstractContextManager["HaltingSession"]):
    """A session whose exchanges are steps with names: what the party says in them."""

    def __init__(self, session: Session, steps: Steps) -> None:
        self._session, self._steps = session, steps
        self.rank, self.parties = session.rank, session.parties

    def __enter__(self) -> "HaltingSession":
        with self._steps("session"):
            self._session.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def exchange(self, payload: bytes) -> list[bytes]:
        with self._steps(self._name(payload)):
            return self._session.exchange(payload)

    def _name(self, payload: bytes) -> str:
        if payload == b"committed":
            return "committed"
        if "release" in self._steps.taken:
            return "opening"
        if "material" in self._steps.taken:
            return "norm check"
        return _BEFORE_THE_DEALER[min(self._session.rounds, 2)]

    def material(self, request: MaterialRequest) -> bytes:
        with self._steps("material"):
            return self._session.material(request)

    @property
    def bytes_sent(self) -> int:
        return self._session.bytes_sent


class HaltingStore(PartyStore):
    """A party's memory whose writes are steps."""

    def __init__(self, path: Path, steps: Steps) -> None:
        super().__init__(path)
        for name in ("remember", "commit", "withdraw", "release", "opened"):
            setattr(self, name, steps.around(name, getattr(self, name)))


def party(vault: Vault, name: str, content: RecordDict, steps: Steps, times: dict[str, float]) -> RecordDict:
    """Take a party's part in one sum, as its node does."""
    keys, roster = vault.keys(name), vault.roster()
    request, copies = read_sum(content)

    def session() -> HaltingSession:
        return HaltingSession(Session(keys, roster, bytes.fromhex(request.session), **times), steps)

    with HaltingStore(vault.folder / name / "memory.sqlite", steps) as store:
        return opened_content(aggregate(request, copies, keys, roster, store, session))


def deal(vault: Vault, name: str, content: RecordDict, steps: Steps, times: dict[str, float]) -> RecordDict:
    """Serve one session, as the dealer's node does."""
    session_id = bytes.fromhex(str(content.config_records[SUM]["session"]))
    listener = dealer.Listener
    listener.accept = steps.around("accept", listener.accept)  # type: ignore[method-assign]
    dealer._requests = steps.around("requests", dealer._requests)
    dealer.deal = steps.around("deal", dealer.deal)  # type: ignore[attr-defined]
    send = channel.Channel.send

    def sending(self: channel.Channel, kind: int, *arguments: Any) -> None:
        if kind != channel.DATA:
            return send(self, kind, *arguments)
        with steps("part"):
            return send(self, kind, *arguments)

    channel.Channel.send = sending  # type: ignore[method-assign]
    with steps("session"):
        dealer.serve_session(vault.keys(name), vault.roster(), session_id, **times)
    return RecordDict()


def run_helper(
    folder: Path, name: str, content: RecordDict, halt: Halt | None, times: dict[str, float], answers: Connection
) -> None:
    """Be a party or the dealer for one sum, and send the answer: the entry of a process."""
    vault, steps = Vault(folder), Steps(halt)
    role = deal if name == "dealer" else party
    try:
        answer = role(vault, name, content, steps, times)
    except MpcError as error:
        lost = error.lost if isinstance(error, SessionAborted) else None
        answer = refusal_content(type(error).__name__, str(error), lost)
    with steps("answer"):
        answers.send(answer)


def sealing_site(vault: Vault, name: str, images: int, minimum: int) -> SealingSite:
    """Make a toy site that seals, with its keys out of the vault."""
    policy = SitePolicy(vault.keys(name), vault.roster(), minimum)
    return SealingSite(name, images=images, scale=0.1, policy=policy)


def run_site(
    folder: Path, name: str, images: int, minimum: int, content: RecordDict, halt: Halt | None, answers: Connection
) -> None:
    """Be a site for one round, and send the answer: the entry of a process."""
    steps = Steps(halt)
    site = sealing_site(Vault(folder), name, images, minimum)
    site.parts = steps.around("training", site.parts)  # type: ignore[method-assign]
    sealing.seal_report = steps.around("sealing", sealing.seal_report)  # type: ignore[attr-defined]
    answer = site.answer(content)
    with steps("answer"):
        answers.send(answer)
