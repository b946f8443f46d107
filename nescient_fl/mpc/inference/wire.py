"""What the two parties say to each other, counted: rounds, bytes and seconds, by layer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.crypten_bridge import Exchange
from nescient_fl.mpc.errors import SessionAborted


@dataclass
class Count:
    """What one layer took at this party; seconds include those spent waiting for the other."""

    rounds: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, other: "Count") -> None:
        self.rounds += other.rounds
        self.bytes_sent += other.bytes_sent
        self.bytes_received += other.bytes_received
        self.seconds += other.seconds
        self.waiting += other.waiting


class Wire:
    """One of two parties' end of an exchange, and one itself. ``counts`` has an entry for every layer.

    Every message has one right length, by the plan; SessionAborted when another comes.
    """

    def __init__(self, session: Exchange) -> None:
        if session.parties != 2 or session.rank not in (0, 1):
            raise SessionAborted("encrypted inference is between two: a model owner and a data owner")
        self.rank, self.parties = session.rank, 2
        self.counts: dict[str, Count] = {}
        self._session = session
        self._layer = Count()

    @contextmanager
    def layer(self, name: str) -> Iterator[None]:
        """Count what happens inside under a name."""
        before, self._layer = self._layer, self.counts.setdefault(name, Count())
        started = time.perf_counter()
        try:
            yield
        finally:
            self._layer.seconds += time.perf_counter() - started
            self._layer = before

    @property
    def total(self) -> Count:
        total = Count()
        for count in self.counts.values():
            total.add(count)
        return total

    def swap(self, payload: bytes, expected: int) -> bytes:
        """Give the other party bytes and return its own, of the expected length; one round."""
        theirs = self.exchange(payload)[1 - self.rank]
        if len(theirs) != expected:
            raise SessionAborted(f"the other party sent {len(theirs)} bytes where {expected} belong")
        return theirs

    def exchange(self, payload: bytes) -> list[bytes]:
        """Give the other party bytes; return both parties', by rank, of whatever length; one round."""
        started = time.perf_counter()
        answers = self._session.exchange(payload)
        theirs = answers[1 - self.rank]
        self._layer.waiting += time.perf_counter() - started
        self._layer.rounds += 1
        self._layer.bytes_sent += len(payload)
        self._layer.bytes_received += len(theirs)
        return answers

    def send(self, payload: bytes) -> None:
        """Give the other party bytes, nothing in return; one round."""
        self.swap(payload, 0)

    def receive(self, expected: int) -> bytes:
        """Hear the other party, give nothing in return; one round."""
        return self.swap(b"", expected)

    def swap_planes(self, planes: Sequence[NDArray[np.uint64]]) -> list[NDArray[np.uint64]]:
        """Give bits side by side, and return the other party's, of the same shapes; one round."""
        payload = b"".join(np.ascontiguousarray(part, "<u8").tobytes() for part in planes)
        words = np.frombuffer(self.swap(payload, len(payload)), "<u8").astype(np.uint64, copy=False)
        found, start = [], 0
        for part in planes:
            found.append(words[start : start + part.size].reshape(part.shape))
            start += part.size
        return found
