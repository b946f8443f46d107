"""Two parties on one connection, as the protocol of encrypted inference needs them."""

from nescient_fl.mpc.channel import DATA, Channel, Deadline

SLOWEST_BYTES = 1 << 16
"""A second: a link that is slower than half a megabit is as good as none."""
BUFFERED = 1 << 15
"""Payloads up to this size fit the system's buffers, so that both may send before either receives."""


class Pair:
    """One end of a connection as an ``Exchange`` of two parties.

    Attributes:
        rank, parties: 0 for the model owner, 1 for the data owner, of 2.
        rounds: exchanges so far.

    ``timeout`` is how many seconds nothing may move in an exchange; a peer that takes longer is a SessionAborted.
    """

    parties = 2

    def __init__(self, channel: Channel, rank: int, timeout: float) -> None:
        self.rank, self.rounds = rank, 0
        self._channel, self._timeout = channel, timeout

    def exchange(self, payload: bytes) -> list[bytes]:
        """Give the other party ``payload`` and return both parties' by rank."""
        deadline = Deadline(self._timeout, slowest=SLOWEST_BYTES)
        self.rounds += 1
        channel = self._channel
        # Large messages go one after the other, the model owner's first, so that they never wait for each other.
        first = len(payload) <= BUFFERED or self.rank == 0
        if first:
            channel.send(DATA, payload, deadline)
        answer = channel.receive(DATA, deadline)
        if not first:
            channel.send(DATA, payload, deadline)
        return [payload, answer] if self.rank == 0 else [answer, payload]
