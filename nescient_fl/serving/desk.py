"""A standing server of one role: members of the roster connect, and each is served on a thread of its own."""

import socket
import threading
from collections.abc import Callable, Sequence

from nescient_fl.mpc.channel import BYE, DATA, Channel, Deadline, Listener, identified
from nescient_fl.mpc.errors import MaterialError, MpcError, PlanError, QueryLimitError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import Member, Roster
from nescient_fl.mpc.session import answer_hello, hello
from nescient_fl.serving.messages import LARGEST_MESSAGE, PURPOSE, Message, Refusal, decode, tell

STEP_SECONDS = 20.0
"""How long any one step may wait for the other side."""
_ARRIVAL_SECONDS = 10.0
_POLL_SECONDS = 0.25
_MOST_AT_A_TIME = 32
_LAST_SECONDS = 5.0

Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Say nothing."""


class Desk:
    """Serves who connects until it is told to stop.

    Args:
        keys, roster: who serves, and whom it believes.
        expected: who may connect.
        answer: is given a connection and a message, answers it, and raises what it refuses.
        say: is told what is worth a line.
        own: the member that serves; its address is listened at.
    """

    def __init__(
        self,
        keys: MemberKeys,
        roster: Roster,
        own: Member,
        expected: Sequence[Member],
        answer: Callable[[Channel, Message], None],
        say: Say,
    ) -> None:
        assert own.address is not None
        self._keys, self._roster, self._expected = keys, roster, expected
        self._answer, self._say = answer, say
        self._listener = Listener(own.address)
        self._threads: list[threading.Thread] = []

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set, then let those who are being served finish for a little while."""
        try:
            while not stop.is_set():
                plain = self._listener.take(Deadline(_POLL_SECONDS))
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                if plain is None:
                    continue
                if len(self._threads) >= _MOST_AT_A_TIME:
                    plain.close()
                    continue
                thread = threading.Thread(target=self._meet, args=(plain,), daemon=True)
                thread.start()
                self._threads.append(thread)
        finally:
            self._listener.close()
            end = Deadline(_LAST_SECONDS)
            for thread in self._threads:
                thread.join(end.left())

    def _meet(self, plain: socket.socket) -> None:
        arrival = Deadline(_ARRIVAL_SECONDS)
        channel = identified(plain, self._keys, self._expected, arrival)
        if channel is None or not answer_hello(channel, hello(PURPOSE, self._roster), arrival):
            return
        try:
            self._serve(channel)
        except MpcError as error:
            self._say(f"{channel.peer}: {error}")
            channel.abort(str(error))
        except Exception as error:
            # Others hear only of what kind it was; it is a defect, and said here in full.
            self._say(f"{channel.peer}: {type(error).__name__}: {error}")
            channel.abort(type(error).__name__)
        finally:
            channel.close()

    def _serve(self, channel: Channel) -> None:
        while True:
            kind, payload = channel.receive_any((DATA, BYE), Deadline(STEP_SECONDS), LARGEST_MESSAGE)
            if kind == BYE:
                return
            message = decode(payload, channel.peer)
            try:
                self._answer(channel, message)
            except REFUSED as error:
                self._say(f"{channel.peer}: {error}")
                tell(channel, Refusal(type(error).__name__, str(error)[:1000]), Deadline(STEP_SECONDS))


REFUSED = (QueryLimitError, MaterialError, PlanError)
"""What is told as an answer, after which the connection goes on; anything else ends it."""


def unexpected(channel: Channel, message: Message) -> SessionAborted:
    """Return the error for a message that has no place here."""
    return SessionAborted(f"{channel.peer} said {type(message).__name__}, which is not for it to say", channel.peer)
