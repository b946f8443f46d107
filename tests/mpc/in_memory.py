"""Parties as threads of one process, with an exchange that never leaves it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

WAIT = 20.0


@dataclass
class _Table:
    parties: int
    payloads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.payloads = [b""] * self.parties
        self.barrier = threading.Barrier(self.parties, timeout=WAIT)


class InMemoryExchange:
    """One party's end; ``sent`` and ``seen`` keep everything it gave and got."""

    def __init__(self, rank: int, table: _Table) -> None:
        self.rank, self.parties = rank, table.parties
        self._table = table
        self.sent: list[bytes] = []
        self.seen: list[list[bytes]] = []

    def exchange(self, payload: bytes) -> list[bytes]:
        self._table.payloads[self.rank] = payload
        self._table.barrier.wait()
        answers = list(self._table.payloads)
        self._table.barrier.wait()
        self.sent.append(payload)
        self.seen.append(answers)
        return answers

    def leave(self) -> None:
        self._table.barrier.abort()


def run_parties(parties: int, function: Callable[[Any], T]) -> list[T]:
    """Run ``function(exchange)`` at every party at once; the first that raises stops them all."""
    table = _Table(parties)
    ends = [InMemoryExchange(rank, table) for rank in range(parties)]

    def run(end: InMemoryExchange) -> T:
        try:
            return function(end)
        except BaseException:
            end.leave()
            raise

    with ThreadPoolExecutor(parties) as pool:
        futures = [pool.submit(run, end) for end in ends]
        errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
