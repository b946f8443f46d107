"""The dealer: makes correlated randomness for the parties of one session, and sees nothing of theirs."""

import time
from dataclasses import dataclass

from nescient_fl.mpc.channel import BYE, DATA, Channel, Deadline, Listener
from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.material import MaterialRequest, deal
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.session import answer_hello, hello

_LARGEST_REQUEST = 4096


@dataclass(frozen=True)
class DealerSummary:
    """What a session took: bytes sent to all parties, and seconds; 0 bytes when nobody asked for anything."""

    bytes_sent: int
    seconds: float


def serve_session(
    keys: MemberKeys, roster: Roster, session_id: bytes, timeout: float = 10.0, deadline: float = 28.0
) -> DealerSummary:
    """Serve one session: wait for every party, hear the same request from all, give each its part.

    A session that ends without a request is served too. All that the dealer ever receives is a hello and one
    request a party. Raises SessionAborted naming who did not come or was lost, MaterialError when the parties
    ask for different things.
    """
    started = time.monotonic()
    limit = Deadline(deadline, timeout)
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
        _serve(channels, roster, limit)
    except BaseException as error:
        for channel in channels.values():
            channel.abort(str(error) if isinstance(error, SessionAborted) else type(error).__name__)
        raise
    finally:
        listener.close()
        for channel in channels.values():
            channel.close()
    return DealerSummary(sum(channel.bytes_sent for channel in channels.values()), time.monotonic() - started)


def _serve(channels: dict[str, Channel], roster: Roster, limit: Deadline) -> None:
    requests = [channels[party.name].receive_any((DATA, BYE), limit, _LARGEST_REQUEST) for party in roster.parties]
    if all(kind == BYE for kind, _ in requests):
        return
    if len(set(requests)) > 1:
        raise MaterialError("the parties asked the dealer for different things")
    request = MaterialRequest.from_json(requests[0][1].decode("utf-8", "replace"))
    blobs = deal(request, len(roster.parties), fresh_stream())
    for party, blob in zip(roster.parties, blobs, strict=True):
        channels[party.name].send(DATA, blob, limit.step())
    for party in roster.parties:
        channels[party.name].receive(BYE, limit.step(), 0)
