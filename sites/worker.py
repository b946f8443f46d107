"""The long-lived end of the wire: one actor behind a Unix socket, one message at a time.

What is slow to make (torch, mapped images, keys, a party's state) is made once and stays. Questions about the
worker's own state are answered by other threads while the actor works.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from nescient_fl.actions import SUM_UP, TRAIN
from nescient_fl.messages import ORDER
from nescient_fl.sealed_messages import SUM
from sites.actors import Actor
from sites.wire import (
    ANSWER,
    DONE,
    FAILED,
    IDLE_SECONDS,
    LARGEST,
    MAGIC,
    REQUEST,
    STATUS,
    WorkerError,
    exactly,
    pack,
    peer_user,
    unpack,
)

_LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path: the system's own limit is 108, or 104."""

Log = Callable[..., None]
"""Called with an event's name and its fields."""


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker is doing.

    Attributes:
        state: idle, or the kind of message that it works on.
        round: of the last message that had one, 0 before.
        last: kind of the last message that was answered, and ``answered`` when (seconds since 1970).
        bytes_in, bytes_out: of all messages so far, as serialised.
        answers, failures: how many messages were answered, and how many could not be.
        problem: why the last one could not be, empty when it could.
    """

    name: str
    role: str
    process: int
    state: str = "idle"
    round: int = 0
    last: str = ""
    answered: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    answers: int = 0
    failures: int = 0
    problem: str = ""


class Worker:
    """Serves one actor until ``stop``. A context manager: the socket is there inside of it, and gone after."""

    def __init__(self, actor: Actor, path: Path, log: Log) -> None:
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            raise WorkerError(f"the socket's path {path} is longer than {_LONGEST_SOCKET} bytes: name a shorter one")
        self._actor = actor
        self._path = path
        self._log = log
        self._working = threading.Lock()
        self._telling = threading.Lock()
        self._status = WorkerStatus(actor.name, actor.role, os.getpid())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closed = threading.Event()

    @property
    def status(self) -> WorkerStatus:
        with self._telling:
            return self._status

    def __enter__(self) -> "Worker":
        # The folder is the owner's alone, so between bind and chmod nobody else can connect either.
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        self._socket.listen(16)
        threading.Thread(target=self._accept, name="worker", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def finish(self, seconds: float) -> bool:
        """Wait until the message at work is answered. Returns whether it was in time; no other is begun."""
        self._closed.set()
        return self._working.acquire(timeout=seconds)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                user = peer_user(connection)
                if user != os.geteuid():
                    self._log("refused", reason="a process of another user connected", user=user)
                    return
                connection.settimeout(IDLE_SECONDS)
                magic, letters, length = REQUEST.unpack(exactly(connection, REQUEST.size))
                if magic != MAGIC or length > LARGEST:
                    self._log("refused", reason="a request that is not of this version, or too large")
                    _send(connection, FAILED, b"the request is not of this version, or too large")
                    return
                kind = exactly(connection, letters).decode("utf-8", "replace")
                content = exactly(connection, length)
                status, answer = self._answer(kind, content)
                # The message's process may be busy for a while before it reads.
                connection.settimeout(None)
                _send(connection, status, answer)
            except OSError as error:
                self._log("lost", reason=f"whoever asked went away ({error})")

    def _answer(self, kind: str, content: bytes) -> tuple[int, bytes]:
        if kind == STATUS:
            return DONE, json.dumps(asdict(self.status)).encode()
        with self._working:
            if self._closed.is_set():
                return FAILED, b"the worker is being stopped"
            return self._work(kind, content)

    def _work(self, kind: str, data: bytes) -> tuple[int, bytes]:
        started = time.monotonic()
        try:
            content = unpack(data)
            number = _round(kind, content)
            self._tell(state=kind, round=number or self._status.round, bytes_in=self._status.bytes_in + len(data))
            self._log("asked", kind=kind, round=number, bytes=len(data))
            answer = pack(self._actor.handle(kind, content))
        except Exception as error:  # whatever it is, the coordinator is told and the worker stays
            reason = _words(error)
            self._tell(
                state="idle", last=kind, answered=time.time(), failures=self._status.failures + 1, problem=reason
            )
            self._log("failed", kind=kind, error=type(error).__name__, reason=reason)
            return FAILED, reason.encode()
        self._tell(
            state="idle",
            last=kind,
            answered=time.time(),
            bytes_out=self._status.bytes_out + len(answer),
            answers=self._status.answers + 1,
            problem="",
        )
        seconds = round(time.monotonic() - started, 3)
        self._log("answered", kind=kind, round=number, bytes=len(answer), seconds=seconds)
        return DONE, answer

    def _tell(self, **changes: Any) -> None:
        with self._telling:
            self._status = replace(self._status, **changes)


def _words(error: Exception) -> str:
    """Return what went wrong; of a file its name alone, for its folder is nobody else's business."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return str(error) or type(error).__name__


def _send(connection: socket.socket, status: int, payload: bytes) -> None:
    connection.sendall(ANSWER.pack(MAGIC, status, len(payload)))
    if payload:  # whoever asked for nothing more may have closed already
        connection.sendall(payload)


def _round(kind: str, content: RecordDict) -> int:
    """Return the number of the round that a message is of, 0 for one that is of none."""
    record = {TRAIN: ORDER, SUM_UP: SUM}.get(kind, "")
    if record not in content.config_records:
        return 0
    try:
        return int(json.loads(str(content.config_records[record]["json"]))["round"])
    except (KeyError, TypeError, ValueError):
        return 0
