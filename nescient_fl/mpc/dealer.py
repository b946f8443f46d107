"""The dealer: makes correlated randomness for the parties of one session, and sees nothing of theirs."""

import contextlib
import time
from dataclasses import dataclass

from nescient_fl.mpc.channel import BYE, DATA, Channel, Deadline, Listener, readable
from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.material import MaterialRequest, deal
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.session import REQUEST_SHARE, SESSION_SECONDS, STEP_SECONDS, answer_hello, hello, told

_LARGEST_REQUEST = 4096
_LAST_WORD_SECONDS = 1.0


@dataclass(frozen=True)
class DealerSummary:
    """What a session took: bytes sent to all parties, and seconds; 0 bytes when nobody asked for anything."""

    bytes_sent: int
    seconds: float


def serve_session(
    keys: MemberKeys,
    roster: Roster,
    session_id: bytes,
    timeout: float = STEP_SECONDS,
    deadline: float = SESSION_SECONDS,
) -> DealerSummary:
    """Serve one session: wait for every party, hear the same request from all, give each its part.

    A session that ends without a request is served too. All that the dealer ever receives is a hello and one
    request a party. Raises SessionAborted naming who did not come or was lost, MaterialError when the parties
    ask for different things.
    """
    started = time.monotonic()
    whole, limit = Deadline(deadline), Deadline(deadline, timeout)
    assert roster.dealer.address is not None
    listener = Listener(roster.dealer.address)
    channels: dict[str, Channel] = {}
    try:
        awaited = {party.name: party for party in roster.parties}
        arrival = limit.step()
        while awaited:
            channel = listener.accept(keys, list(awaited.values()), arrival)
            if channel is not None and answer_hello(channel, hello(session_id, roster), arrival):
                channels[channel.peer] = channel
                del awaited[channel.peer]
        # Whoever connects from here on means a later session, and another process may serve that one.
        listener.close()
        _serve(channels, roster, limit, whole)
    except BaseException as error:
        for channel in channels.values():
            channel.abort(*told(error))
        raise
    finally:
        listener.close()
        for channel in channels.values():
            channel.close()
    return DealerSummary(sum(channel.bytes_sent for channel in channels.values()), time.monotonic() - started)


def _serve(channels: dict[str, Channel], roster: Roster, limit: Deadline, whole: Deadline) -> None:
    requests = _requests(channels, limit, whole)
    if all(kind == BYE for kind, _ in requests):
        return
    if len(set(requests)) > 1:
        raise MaterialError("the parties asked the dealer for different things")
    request = MaterialRequest.from_json(requests[0][1].decode("utf-8", "replace"))
    blobs = deal(request, len(roster.parties), fresh_stream())
    for party, blob in zip(roster.parties, blobs, strict=True):
        channels[party.name].send(DATA, blob, limit.step())
    # Closing before a party's last word is heard could destroy what it has not read yet. If it never comes, the
    # parties know more of that than the dealer.
    with contextlib.suppress(SessionAborted):
        for party in roster.parties:
            channels[party.name].receive(BYE, Deadline(limit.left(), _LAST_WORD_SECONDS), 0)


def _requests(channels: dict[str, Channel], limit: Deadline, whole: Deadline) -> list[tuple[int, bytes]]:
    """Hear one request from each party, in whatever order they come, or the first that gives up.

    Parties that wait for each other are all silent, and know better who was lost: for the first request the dealer
    waits longer than any of them does. Those that asked wait for the dealer: for the last one it waits less.
    """
    found: list[tuple[int, bytes]] = []
    waiting = list(channels.values())
    patience = whole
    while waiting:
        for channel in readable(waiting, patience):
            found.append(channel.receive_any((DATA, BYE), whole, _LARGEST_REQUEST))
            waiting.remove(channel)
        if patience is whole:
            patience = limit.step(REQUEST_SHARE)
    return found
