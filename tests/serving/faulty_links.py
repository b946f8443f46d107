"""Connections of which one frame, said by one role to another, is lost, held back, cut, or other than it should be."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from nescient_fl.mpc import session
from nescient_fl.mpc.channel import _FRAME, ABORT, HELLO, Channel, Deadline
from nescient_fl.mpc.errors import SessionAborted
from nescient_fl.serving import desk


class Left(SessionAborted):
    """The role that misbehaves is gone: nothing of it says another word."""


class Frame(NamedTuple):
    """A frame as it was sent: who said it to whom, its number between the two in this session, kind and length."""

    who: str
    to: str
    number: int
    kind: int
    length: int

    def __str__(self) -> str:
        return f"{self.who} to {self.to}, frame {self.number} (kind {self.kind}, {self.length} bytes)"


@dataclass
class Links:
    """Every connection of the roles of one process, watched; ``fault`` is the one frame that goes wrong, and how.

    ``garbled`` is what a frame becomes that is garbled.
    """

    frames: list[Frame] = field(default_factory=list)
    fault: tuple[Frame, str] | None = None
    garbled: Callable[[bytes], bytes] = bytes
    struck: bool = False
    serving: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, fault: tuple[Frame, str] | None) -> None:
        """Begin a session, with a fault or without one."""
        self.frames, self.fault, self.struck = [], fault, False

    def send(self, channel: Channel, kind: int, payload: bytes, deadline: Deadline) -> None:
        """Send a frame, unless it is the one that goes wrong."""
        with self._lock:
            way = None if kind == ABORT and not self._gone(channel) else self._noted(channel, kind, payload)
        if way is None:
            _send(channel, kind, payload, deadline)
        elif way == "garbled":
            _send(channel, kind, self.garbled(payload), deadline)
        else:
            _WAYS[way](channel, kind, payload, deadline)

    def _noted(self, channel: Channel, kind: int, payload: bytes) -> str | None:
        """Take note of a frame. Returns how it goes wrong, None if it does not."""
        who = getattr(channel, "own", "")
        if self._gone(channel):
            return "leaves"
        number = sum((frame.who, frame.to) == (who, channel.peer) for frame in self.frames)
        self.frames.append(Frame(who, channel.peer, number, kind, len(payload)))
        if self.fault is None or (who, channel.peer, number) != self.fault[0][:3]:
            return None
        self.struck = True
        return self.fault[1]

    def _gone(self, channel: Channel) -> bool:
        if not self.struck or self.fault is None:
            return False
        return self.fault[0].who == getattr(channel, "own", "") and self.fault[1] in GONE


_send = Channel.send


def _leaves(channel: Channel, *_: Any) -> None:
    channel.close()
    raise Left("gone")


def _half(channel: Channel, kind: int, payload: bytes) -> None:
    """Send the first half of a frame; of an empty one half its header."""
    frame = _FRAME.pack(kind, channel._sent, len(payload)) + payload
    with contextlib.suppress(OSError):
        channel._connection.sendall(frame[: len(frame) // 2])


def _leaves_midway(channel: Channel, kind: int, payload: bytes, *_: Any) -> None:
    _half(channel, kind, payload)
    _leaves(channel)


def _stalls(channel: Channel, *_: Any) -> None:
    """Say nothing more, and go once the other side has hung up."""
    with contextlib.suppress(OSError):
        channel._connection.settimeout(60.0)
        while channel._connection.recv(1 << 16):
            pass
    _leaves(channel)


def _stalls_midway(channel: Channel, kind: int, payload: bytes, *_: Any) -> None:
    _half(channel, kind, payload)
    _stalls(channel)


def _long(channel: Channel, kind: int, payload: bytes, deadline: Deadline) -> None:
    _send(channel, kind, payload + b"\0", deadline)


def _short(channel: Channel, kind: int, payload: bytes, deadline: Deadline) -> None:
    _send(channel, kind, payload[:-1], deadline)


def _of_another_kind(channel: Channel, kind: int, payload: bytes, deadline: Deadline) -> None:
    _send(channel, 99 if kind == HELLO else HELLO, payload, deadline)


def _out_of_order(channel: Channel, kind: int, payload: bytes, deadline: Deadline) -> None:
    """Send a frame with another number than is expected."""
    channel._sent += 1
    _send(channel, kind, payload, deadline)


def _boasts(channel: Channel, kind: int, *_: Any) -> None:
    """Announce a frame of nearly 2^64 bytes."""
    channel._connection.sendall(bytes([kind]) + channel._sent.to_bytes(8, "big") + b"\xff" * 8)
    _stalls(channel)


_WAYS = {
    "leaves": _leaves,
    "leaves midway": _leaves_midway,
    "stalls": _stalls,
    "stalls midway": _stalls_midway,
    "a byte long": _long,
    "a byte short": _short,
    "of another kind": _of_another_kind,
    "out of order": _out_of_order,
    "boasts": _boasts,
}
GONE = ("leaves", "leaves midway", "stalls", "stalls midway", "boasts")
"""Ways after which the role says nothing more, on any connection."""


@contextlib.contextmanager
def watched_links() -> Iterator[Links]:
    """Watch every connection that is made while the block runs."""
    links, connect, identified, meet = Links(), session.connect, desk.identified, desk.Desk._meet

    def connected(keys: Any, *arguments: Any) -> Channel:
        channel = connect(keys, *arguments)
        channel.own = keys.name  # type: ignore[attr-defined]
        return channel

    def known(plain: Any, keys: Any, *arguments: Any) -> Channel | None:
        channel = identified(plain, keys, *arguments)
        if channel is not None:
            channel.own = keys.name  # type: ignore[attr-defined]
        return channel

    def meeting(standing: Any, plain: Any) -> None:
        with links._lock:
            links.serving += 1
        try:
            meet(standing, plain)
        finally:
            with links._lock:
                links.serving -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "connect", connected)
        patch.setattr(desk, "identified", known)
        patch.setattr(desk.Desk, "_meet", meeting)
        patch.setattr(Channel, "send", lambda channel, *arguments: links.send(channel, *arguments))
        yield links
