"""One authenticated connection between two members of the roster: TLS 1.3 both ways, framed, with time limits.

A certificate counts only by standing in the roster: it is the one trust anchor of its connection, and after the
handshake the peer's certificate is compared with it byte by byte.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from nescient_fl.mpc.errors import SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import Member

HELLO, DATA, ABORT, BYE = 1, 2, 3, 4
_FRAME = struct.Struct(">BQQ")
_CHUNK = 1 << 18
_LONGEST_REASON = 200
_LOST_END = b"\0"
LARGEST_PAYLOAD = 1 << 30
_HANDSHAKE_SECONDS = 3.0
"""For one handshake: somebody who connects and says nothing must not use up the others' time."""
_RETRY_SECONDS = 0.02
_DRAIN_SECONDS = 0.3


class Deadline:
    """A moment after which waiting ends; each step may also have a limit of its own.

    With ``slowest``, in bytes a second, it is put off as bytes arrive or leave, by the time that they take at that
    speed, and never further than ``seconds`` from now: a large message has the time that a slow link takes, a peer
    that stalls has not.
    """

    def __init__(self, seconds: float, step: float | None = None, slowest: float | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._seconds, self._step, self._slowest = seconds, step, slowest

    def moved(self, count: int) -> None:
        """Note that so many bytes went over the connection."""
        if self._slowest is not None:
            put_off = min(self._end + count / self._slowest, time.monotonic() + self._seconds)
            self._end = max(self._end, put_off)

    def left(self) -> float:
        """Return the seconds that the next step may take, 0 when none are left."""
        left = max(self._end - time.monotonic(), 0.0)
        return left if self._step is None else min(left, self._step)

    def step(self, share: float = 1.0) -> "Deadline":
        """Return the deadline of one step, or of a share of it: whoever depends on others gives up before they do."""
        left = max(self._end - time.monotonic(), 0.0)
        return Deadline(left if self._step is None else min(left, share * self._step))


class Channel:
    """A connection to one member, ``peer``. Every failure is a SessionAborted that names it."""

    def __init__(self, connection: ssl.SSLSocket, peer: str) -> None:
        self.peer = peer
        self.bytes_sent = self.bytes_received = 0
        self._connection = connection
        self._sent = self._received = 0

    def send(self, kind: int, payload: bytes, deadline: Deadline) -> None:
        """Send one frame."""
        header = _FRAME.pack(kind, self._sent, len(payload))
        self._sent += 1
        # Small payloads go with their header in one record, so that a message is one packet.
        pieces = [header + payload] if len(payload) <= _CHUNK else [header, payload]
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    self._wait(deadline)
                    sent = self._connection.send(view[:_CHUNK])
                    deadline.moved(sent)
                    view = view[sent:]
                self.bytes_sent += len(piece)
        except OSError as error:
            raise self._lost(error) from None

    def receive(self, kind: int, deadline: Deadline, largest: int = LARGEST_PAYLOAD) -> bytes:
        """Receive one frame of the kind. An ABORT in its place raises with the reason that the peer gave."""
        return self.receive_any((kind,), deadline, largest)[1]

    def receive_any(
        self, kinds: Sequence[int], deadline: Deadline, largest: int = LARGEST_PAYLOAD
    ) -> tuple[int, bytes]:
        """Receive one frame of any of the kinds, and say which."""
        found, sequence, length = _FRAME.unpack(self._exactly(_FRAME.size, deadline))
        if sequence != self._received:
            raise SessionAborted(f"{self.peer} sent frame {sequence}, not {self._received}", self.peer)
        self._received += 1
        if length > (_LONGEST_REASON * 4 if found == ABORT else largest):
            raise SessionAborted(f"{self.peer} announced {length} bytes, which is too much", self.peer)
        payload = self._exactly(length, deadline)
        if found == ABORT:
            lost, _, reason = payload.partition(_LOST_END)
            raise SessionAborted(f"{self.peer} gave up: {_printable(reason)}", _printable(lost) or self.peer)
        if found not in kinds:
            raise SessionAborted(f"{self.peer} sent a frame of kind {found}, not {kinds[0]}", self.peer)
        return found, payload

    def abort(self, reason: str, lost: str | None = None) -> None:
        """Tell the peer why this side ends and who was lost, if it still listens, and close."""
        payload = (lost or "").encode() + _LOST_END + reason.encode()
        with contextlib.suppress(SessionAborted):
            self.send(ABORT, payload[: _LONGEST_REASON * 4], Deadline(0.5))
        self._drain()
        self.close()

    def _drain(self) -> None:
        """Read what is on its way until the peer closes too: closing over unread data would destroy the reason."""
        deadline = Deadline(_DRAIN_SECONDS)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while deadline.left() > 0:
                self._connection.settimeout(max(deadline.left(), 0.001))
                if not self._connection.recv(_CHUNK):
                    break

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()

    def _exactly(self, length: int, deadline: Deadline) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        try:
            while view:
                self._wait(deadline)
                got = self._connection.recv_into(view[:_CHUNK])
                if not got:
                    raise SessionAborted(f"{self.peer} closed the connection", self.peer)
                deadline.moved(got)
                view = view[got:]
        except OSError as error:
            raise self._lost(error) from None
        self.bytes_received += length
        return bytes(data)

    def _wait(self, deadline: Deadline) -> None:
        left = deadline.left()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)

    def _lost(self, error: OSError) -> SessionAborted:
        if isinstance(error, TimeoutError):
            return SessionAborted(f"{self.peer} was silent for too long", self.peer)
        return SessionAborted(f"the connection to {self.peer} was lost ({_words(error)})", self.peer)


class Listener:
    """Takes connections at one address."""

    def __init__(self, address: str) -> None:
        family, where = _parsed(address)
        self._path = Path(str(where)) if family == socket.AF_UNIX else None
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            else:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(where)
            if self._path is not None:
                self._path.chmod(0o600)
                self._inode = self._path.stat().st_ino
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise SessionAborted(f"cannot listen at {address}: {_words(error)}") from None

    def accept(self, keys: MemberKeys, expected: Sequence[Member], deadline: Deadline) -> Channel | None:
        """Take one connection and find out by its certificate which of the expected members it is.

        Returns None for a stranger, whose connection is closed. Raises SessionAborted when nobody comes.
        """
        plain = self.take(deadline)
        if plain is None:
            names = ", ".join(member.name for member in expected)
            raise SessionAborted(f"{names} did not connect", expected[0].name)
        return identified(plain, keys, expected, deadline)

    def take(self, deadline: Deadline) -> socket.socket | None:
        """Take one connection of whoever it is; None when nobody comes."""
        left = deadline.left()
        try:
            if left <= 0:
                return None
            self._socket.settimeout(left)
            plain, _ = self._socket.accept()
        except OSError:
            return None
        return plain

    def close(self) -> None:
        self._socket.close()
        if self._path is not None:
            # A later session may listen at this address by now, if this one was late to end.
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
            self._path = None


def identified(
    plain: socket.socket, keys: MemberKeys, expected: Sequence[Member], deadline: Deadline
) -> Channel | None:
    """Find out by its certificate which of the expected members came; None for a stranger, and it is closed."""
    try:
        limit = Deadline(deadline.left(), _HANDSHAKE_SECONDS)
        return _secured(plain, _context(keys, expected, ssl.PROTOCOL_TLS_SERVER), expected, limit)
    except (OSError, SessionAborted):
        plain.close()
        return None


def connect(keys: MemberKeys, peer: Member, deadline: Deadline) -> Channel:
    """Connect to a member, which may start a little later than this side.

    Raises SessionAborted when it cannot be reached in time or is not who the roster says.
    """
    assert peer.address is not None
    family, where = _parsed(peer.address)
    context = _context(keys, [peer], ssl.PROTOCOL_TLS_CLIENT)
    while True:
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(max(deadline.left(), 0.001))
            plain.connect(where)
        except OSError as error:
            plain.close()
            if deadline.left() <= _RETRY_SECONDS:
                raise SessionAborted(f"{peer.name} cannot be reached ({_words(error)})", peer.name) from None
            time.sleep(_RETRY_SECONDS)
            continue
        try:
            return _secured(plain, context, [peer], Deadline(deadline.left(), _HANDSHAKE_SECONDS))
        except OSError as error:
            plain.close()
            # Behind a socket that takes connections may stand a process of an earlier session that hangs, and a new
            # one may take its place.
            if not isinstance(error, TimeoutError) or deadline.left() <= _RETRY_SECONDS:
                reason = _words(error)
                raise SessionAborted(f"{peer.name} could not prove who it is ({reason})", peer.name) from None


def readable(channels: Sequence[Channel], deadline: Deadline) -> list[Channel]:
    """Wait until at least one of the channels has something to receive; return those that have.

    Raises SessionAborted naming the first when all are silent until the deadline.
    """
    found = [channel for channel in channels if channel._connection.pending()]
    if found:
        return found
    by_socket = {channel._connection: channel for channel in channels}
    try:
        ready, _, _ = select.select(list(by_socket), [], [], deadline.left())
    except (OSError, ValueError):
        ready = []
    if not ready:
        names = " and ".join(channel.peer for channel in channels)
        raise SessionAborted(f"{names} {'was' if len(channels) == 1 else 'were'} silent for too long", channels[0].peer)
    return [by_socket[connection] for connection in ready]


def _context(keys: MemberKeys, expected: Sequence[Member], protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    # The certificate itself is compared after the handshake; names and host names prove nothing here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(keys.certificate_path, keys.signing_path)
    context.load_verify_locations(cadata="\n".join(member.certificate or "" for member in expected))
    # A session that could be resumed would skip the certificates.
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def _secured(plain: socket.socket, context: ssl.SSLContext, expected: Sequence[Member], deadline: Deadline) -> Channel:
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.settimeout(max(deadline.left(), 0.001))
    server = context.protocol == ssl.PROTOCOL_TLS_SERVER
    connection = context.wrap_socket(plain, server_side=server)
    shown = connection.getpeercert(binary_form=True)
    for member in expected:
        if member.certificate is not None and shown == ssl.PEM_cert_to_DER_cert(member.certificate):
            return Channel(connection, member.name)
    connection.close()
    raise SessionAborted("a stranger connected")


def _parsed(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))


def _printable(payload: bytes) -> str:
    text = payload.decode("utf-8", "replace")[:_LONGEST_REASON]
    return "".join(character if character.isprintable() else " " for character in text)


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "TLS failed").replace("_", " ").lower()
    return (error.strerror or type(error).__name__).lower()
