"""Parties and dealer of one federation as processes: one attempt at a sum after the other, with or without faults."""

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from nescient_fl.mpc.envelope import SealedReport, copy_for
from nescient_fl.mpc.party_store import StoredSum
from nescient_fl.mpc.sums import SumRequest, SumResult
from nescient_fl.sealed_messages import SUM, read_opened, read_refusal, sum_content
from tests.faults.actors import Halt, run_helper
from tests.mpc.federation_in_memory import Federation, vector_of

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds that a test waits for what must happen; a busy machine may take its time."""


def forking() -> ForkServerContext:
    """Return a context whose processes are forked from one that has imported everything."""
    if multiprocessing.parent_process() is not None:
        # One of those already.
        return multiprocessing.get_context("fork")  # type: ignore[return-value]
    context = multiprocessing.get_context("forkserver")
    if str(ROOT) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context.set_forkserver_preload(["tests.faults.actors"])
    return context


@dataclass
class Actor:
    """A process and where its answer comes from."""

    process: ForkServerProcess
    answers: Connection
    halt: Halt | None

    @classmethod
    def start(cls, target: Any, *arguments: Any, halt: Halt | None, daemon: bool = True) -> "Actor":
        context = forking()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(*arguments, theirs), daemon=daemon)
        process.start()
        theirs.close()
        return cls(process, ours, halt)

    def answer(self) -> RecordDict | None:
        """Return what it said, None when it ended without a word."""
        try:
            content: RecordDict = self.answers.recv()
        except EOFError:
            return None
        return content

    def resume(self) -> None:
        """Let a stalled process go on."""
        os.kill(self.process.pid or 0, signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)
        self.answers.close()


@dataclass
class Attempt:
    """How one attempt ended: sums, refusals as (kind, reason, lost), and the seconds until the last was heard."""

    sums: dict[str, SumResult] = field(default_factory=dict)
    refusals: dict[str, tuple[str, str, str | None]] = field(default_factory=dict)
    seconds: float = 0.0
    actors: dict[str, Actor] = field(default_factory=dict)

    @property
    def lost(self) -> set[str | None]:
        return {lost for _, _, lost in self.refusals.values()}

    def end(self) -> None:
        for actor in self.actors.values():
            actor.end()


class Cluster(Federation):
    """A federation of five sites whose parties and dealer are processes."""

    @property
    def helpers(self) -> list[str]:
        return [*(party.name for party in self.roster.parties), "dealer"]

    def reports(self, request: SumRequest, numbers: Sequence[int] | None = None) -> list[SealedReport]:
        chosen = range(len(self.sites)) if numbers is None else numbers
        return [self.report(self.sites[number], vector_of(number), request) for number in chosen]

    def start(
        self,
        request: SumRequest,
        reports: Sequence[SealedReport],
        halts: Mapping[str, Halt] | None = None,
        times: Mapping[str, float] | None = None,
    ) -> Attempt:
        """Begin an attempt: every helper gets its part of the question."""
        attempt = Attempt()
        for rank, name in enumerate(self.helpers):
            if name == "dealer":
                content = RecordDict({SUM: ConfigRecord({"session": request.session})})
            else:
                content = sum_content(request, [copy_for(report, rank) for report in reports])
            halt = (halts or {}).get(name)
            given = (self.vault.folder, name, content, halt, dict(times or {}))
            attempt.actors[name] = Actor.start(run_helper, *given, halt=halt)
        return attempt

    def finish(self, attempt: Attempt) -> Attempt:
        """Wait until everybody who does not stop has answered."""
        started = time.monotonic()
        waiting = {actor.answers: name for name, actor in attempt.actors.items() if not _stalls(actor)}
        while waiting:
            left = started + PATIENCE - time.monotonic()
            ready = wait(list(waiting), max(left, 0.0))
            assert ready, f"no word of {sorted(waiting.values())}"
            for connection in ready:
                name = waiting.pop(connection)  # type: ignore[call-overload]
                self._hear(attempt, name)
        attempt.seconds = time.monotonic() - started
        return attempt

    def _hear(self, attempt: Attempt, name: str) -> None:
        content = attempt.actors[name].answer()
        if content is None:
            assert attempt.actors[name].halt is not None, f"{name} ended without a word"
        elif refusal := read_refusal(content):
            attempt.refusals[name] = refusal
        elif name != "dealer":
            attempt.sums[name] = read_opened(content)

    def attempt(self, request: SumRequest, reports: Sequence[SealedReport], **options: Any) -> Attempt:
        return self.finish(self.start(request, reports, **options))

    def stored(self, model: str) -> list[StoredSum | None]:
        """Return what each party's memory holds for a model."""
        found = []
        for party in self.roster.parties:
            with self.vault.store(party.name) as store:
                found.append(store.sum_for(model))
        return found


def _stalls(actor: Actor) -> bool:
    return actor.halt is not None and actor.halt.how == signal.SIGSTOP
