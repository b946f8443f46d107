"""How a message's process asks its actor's worker: one question and one answer over a Unix socket.

A frame is a fixed header, the kind of message, and Flower's own serialised records; nothing is ever unpickled.
Both ends ask the kernel who the other is: it must be a process of the same user. This module imports Flower's
records and nothing else, since it is imported anew for every message.
"""

import contextlib
import os
import socket
import struct
import time
from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict  # pylint: disable=no-name-in-module

MAGIC = b"NSW1"
REQUEST = struct.Struct(">4sBQ")
"""Magic, bytes of the kind, bytes of the content."""
ANSWER = struct.Struct(">4sBQ")
"""Magic, status, bytes of the content or of the reason."""
DONE, FAILED = 0, 1

STATUS = "status"
"""The kind that asks a worker how it is; it is answered at once, with JSON, also while the actor works."""

LARGEST = 1 << 30
CONNECT_SECONDS = 60.0
"""How long a worker that is being started again is waited for."""
IDLE_SECONDS = 30.0
"""How long one end may take between two pieces of a frame that it has begun."""
_RETRY_SECONDS = 0.1
_CHUNK = 1 << 20


class WorkerError(Exception):
    """The worker could not be reached, or said why it could not answer."""


def ask(path: Path, kind: str, content: RecordDict, connect_seconds: float = CONNECT_SECONDS) -> RecordDict:
    """Ask the worker at a socket to answer a message; it may take as long as training does.

    Raises WorkerError with the worker's reason, or when it cannot be reached, is not this user's, or ends.
    """
    return unpack(ask_bytes(path, kind, pack(content), connect_seconds))


def ask_bytes(
    path: Path,
    kind: str,
    content: bytes,
    connect_seconds: float = CONNECT_SECONDS,
    answer_seconds: float | None = None,
) -> bytes:
    """Ask with serialised content; see ``ask``. The answer may be waited for a limited time only."""
    with _connected(path, connect_seconds) as connection:
        connection.settimeout(answer_seconds)
        try:
            # A worker that refuses says why and closes before it has read everything.
            with contextlib.suppress(BrokenPipeError):
                name = kind.encode()
                connection.sendall(REQUEST.pack(MAGIC, len(name), len(content)) + name)
                connection.sendall(content)
            magic, status, length = ANSWER.unpack(exactly(connection, ANSWER.size))
            if magic != MAGIC or length > LARGEST:
                raise WorkerError(f"what listens at {path} is no worker of this version")
            answer = exactly(connection, length)
        except OSError as error:
            raise WorkerError(f"the worker at {path} was lost ({_words(error)})") from None
    if status != DONE:
        raise WorkerError(answer.decode("utf-8", "replace"))
    return answer


def pack(content: RecordDict) -> bytes:
    """Serialise records as Flower does."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
    return data


def unpack(data: bytes) -> RecordDict:
    """Read serialised records. Raises WorkerError when they are damaged."""
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except Exception as error:  # protobuf's own exception types are of no use to anybody here
        raise WorkerError(f"a message to or from a worker is damaged ({type(error).__name__})") from None


def exactly(connection: socket.socket, length: int) -> bytes:
    """Receive so many bytes. Raises ConnectionError when the other end closes before."""
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(min(length - len(data), _CHUNK))
        if not piece:
            raise ConnectionError("it closed the connection")
        data += piece
    return bytes(data)


def peer_user(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket, as the kernel knows it."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise WorkerError("this system cannot say whose process is at the other end of a socket")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", data)[1]
    return user


def _connected(path: Path, seconds: float) -> socket.socket:
    deadline = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            break
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise WorkerError(f"no worker listens at {path} ({_words(error)})") from None
            time.sleep(_RETRY_SECONDS)
    if peer_user(connection) != os.geteuid():
        connection.close()
        raise WorkerError(f"the worker at {path} belongs to another user")
    return connection


def _words(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
