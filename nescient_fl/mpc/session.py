"""The parties of one computation, connected to each other and to the dealer, for as long as it takes.

A session is never mended: whatever goes wrong ends it at every party, with the name of who was lost, and the next
attempt is a new session with fresh shares.
"""

import contextlib
import json
from types import TracebackType

from nescient_fl.mpc.channel import BYE, DATA, HELLO, LARGEST_PAYLOAD, Channel, Deadline, Listener, connect
from nescient_fl.mpc.errors import SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.material import MaterialRequest
from nescient_fl.mpc.roster import Member, Roster

PROTOCOL = 1
SESSION_ID_BYTES = 32
STEP_SECONDS, SESSION_SECONDS = 10.0, 20.0
"""How long one step, and a whole session, may take: with the relay's own part, an abort is known within 30 s."""
REQUEST_SHARE, _DEALER_SHARE = 0.5, 0.8
"""Of a step: what the dealer waits for the last request after the first, and a party for the dealer's answers."""
_LARGEST_HELLO = 1024
_BUFFERED = 1 << 15
"""Payloads up to this size fit the system's buffers, so that all parties may send before any receives."""


class Session:
    """One party's end of a session; a context manager.

    Attributes:
        rank, parties: this party's number, by the roster's order, and how many there are.
        rounds: exchanges so far.

    Args:
        keys, roster: who this party is, and who the others are.
        session_id: 32 bytes that all give alike.
        timeout: seconds that any one step may wait.
        deadline: seconds that the whole session may take.
    """

    def __init__(
        self,
        keys: MemberKeys,
        roster: Roster,
        session_id: bytes,
        timeout: float = STEP_SECONDS,
        deadline: float = SESSION_SECONDS,
    ) -> None:
        if len(session_id) != SESSION_ID_BYTES:
            raise SessionAborted(f"a session's name has {SESSION_ID_BYTES} bytes")
        names = [party.name for party in roster.parties]
        if keys.name not in names:
            raise SessionAborted(f"{keys.name} is no party of this roster")
        self.rank, self.parties = names.index(keys.name), len(names)
        self.rounds = 0
        self._keys, self._roster, self._id = keys, roster, session_id
        self._limits = (deadline, timeout)
        self._channels: dict[int, Channel] = {}
        self._dealer: Channel | None = None

    def __enter__(self) -> "Session":
        self._deadline = Deadline(*self._limits)
        own = self._roster.parties[self.rank]
        listener = None
        dealerless: SessionAborted | None = None
        try:
            if self.rank < self.parties - 1:
                assert own.address is not None
                listener = Listener(own.address)
            # Everybody meets the dealer first, so that it knows who is missing, whoever they wait for afterwards;
            # and meets the others even without it, so that they hear who was lost.
            try:
                self._dealer = self._greeted(self._roster.dealer, _DEALER_SHARE)
            except SessionAborted as error:
                dealerless = error
            try:
                self._meet(listener)
            except SessionAborted as error:
                raise dealerless or error from None
            if dealerless is not None:
                raise dealerless
        except BaseException as error:
            self.abort(*told(error))
            raise
        finally:
            if listener is not None:
                listener.close()
        return self

    def _meet(self, listener: Listener | None) -> None:
        """Connect to the parties of lower rank, and wait for those of higher rank."""
        for rank in range(self.rank):
            self._channels[rank] = self._greeted(self._roster.parties[rank])
        awaited = {self._roster.parties[rank].name: rank for rank in range(self.rank + 1, self.parties)}
        arrival = self._deadline.step()
        while awaited:
            expected = [self._roster.parties[rank] for rank in awaited.values()]
            assert listener is not None
            channel = listener.accept(self._keys, expected, arrival)
            if channel is not None and answer_hello(channel, self._hello(), arrival):
                self._channels[awaited.pop(channel.peer)] = channel

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(*told(error))
            return
        if self._dealer is not None:
            with contextlib.suppress(SessionAborted):  # what was computed is not worth less for it
                self._dealer.send(BYE, b"", self._deadline.step())
        self._close()

    def exchange(self, payload: bytes) -> list[bytes]:
        """Give every party ``payload`` and return everybody's by rank, the own one included.

        Raises SessionAborted when one is lost, silent, or a step ahead or behind.
        """
        deadline = self._deadline.step()
        self.rounds += 1
        answers: list[bytes] = [b""] * self.parties
        answers[self.rank] = payload
        early = len(payload) <= _BUFFERED
        if early:
            for channel in self._channels.values():
                channel.send(DATA, payload, deadline)
        # Pairs take their turns in one order everywhere, and the lower rank of a pair sends first, so that no two
        # large messages wait for each other.
        for rank, channel in sorted(self._channels.items()):
            if not early and rank > self.rank:
                channel.send(DATA, payload, deadline)
            answers[rank] = channel.receive(DATA, deadline)
            if not early and rank < self.rank:
                channel.send(DATA, payload, deadline)
        return answers

    def material(self, request: MaterialRequest) -> bytes:
        """Return this party's part of what the dealer makes; every party asks for the same, once a session."""
        if self._dealer is None:
            raise SessionAborted("the dealer was asked already")
        # A party that has its part already waits for this one: it must hear who was lost before its own patience ends.
        deadline = self._deadline.step(_DEALER_SHARE)
        dealer, self._dealer = self._dealer, None
        try:
            dealer.send(DATA, request.to_json().encode(), deadline)
            blob = dealer.receive(DATA, deadline, LARGEST_PAYLOAD)
            with contextlib.suppress(SessionAborted):
                dealer.send(BYE, b"", deadline)
        finally:
            dealer.close()
        return blob

    @property
    def bytes_sent(self) -> int:
        """Bytes that this party sent to the others, frames included."""
        return sum(channel.bytes_sent for channel in self._channels.values())

    def abort(self, reason: str, lost: str | None = None) -> None:
        """End the session, telling everybody who still listens why, and who was lost."""
        for channel in self._channels.values():
            channel.abort(reason, lost)
        if self._dealer is not None:
            self._dealer.abort(reason, lost)
        self._close()

    def _close(self) -> None:
        for channel in (*self._channels.values(), self._dealer):
            if channel is not None:
                channel.close()
        self._dealer = None

    def _greeted(self, peer: Member, share: float = 1.0) -> Channel:
        return greeted(self._keys, peer, self._hello(), self._deadline.step(share))

    def _hello(self) -> bytes:
        return hello(self._id, self._roster)


def hello(session_id: bytes, roster: Roster) -> bytes:
    """Return what both ends of a connection must say alike."""
    values = {"protocol": PROTOCOL, "session": session_id.hex(), "roster": roster.digest}
    return json.dumps(values, sort_keys=True).encode()


def greeted(keys: MemberKeys, peer: Member, own: bytes, deadline: Deadline) -> Channel:
    """Connect to a member and exchange hellos; one that answers another is in an earlier session, or none of ours.

    Raises SessionAborted.
    """
    channel = connect(keys, peer, deadline)
    try:
        channel.send(HELLO, own, deadline)
        answer = channel.receive(HELLO, deadline, _LARGEST_HELLO)
    except SessionAborted:
        channel.close()
        raise
    if answer != own:
        channel.close()
        raise SessionAborted(f"{peer.name} is in another session, or holds another roster", peer.name)
    return channel


def answer_hello(channel: Channel, own: bytes, deadline: Deadline) -> bool:
    """Hear a hello and answer with the own one. False, and the connection closed, when they differ.

    A connection of an earlier, broken session may still stand in the queue: it is refused and no more.
    """
    try:
        heard = channel.receive(HELLO, deadline, _LARGEST_HELLO)
        channel.send(HELLO, own, deadline)
    except SessionAborted:
        channel.close()
        return False
    if heard != own:
        channel.close()
        return False
    return True


def told(error: BaseException) -> tuple[str, str | None]:
    """Return what others hear of an error, and who was lost: a reason in our own words, else only its kind."""
    return (str(error), error.lost) if isinstance(error, SessionAborted) else (type(error).__name__, None)
