"""Looking for replies at a link, so that one whose upload broke off holds up no other, and no deadline.

Flower's HTTP grid waits within the call for the rest of such a reply, for minutes. A reply is handed out once, so
a second look finds the others; only those that came within the same quarter of a second wait with it.
"""

import threading
import time
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

_LONGEST_WAIT = 1.0
"""Seconds that a look is waited for, before whoever waits may see to other things."""
_STUCK_SECONDS = 5.0
"""After so many seconds a look is thought to wait for a broken upload, and another is begun beside it."""
_MOST = 8
"""Looks at a time: each that is stuck holds one reply."""


class Look:
    """One call for replies, in a thread that ends with the process at the latest."""

    def __init__(self, grid: Grid, ids: Sequence[str]) -> None:
        self._begun = time.monotonic()
        self._done = threading.Event()
        self._replies: list[Message] = []
        self._error: Exception | None = None
        threading.Thread(target=self._look, args=(grid, ids), name="look", daemon=True).start()

    def _look(self, grid: Grid, ids: Sequence[str]) -> None:
        try:
            self._replies = list(grid.pull_messages(ids))
        except Exception as error:  # whoever asked hears of it
            self._error = error
        finally:
            self._done.set()

    @property
    def stuck(self) -> bool:
        return time.monotonic() - self._begun > _STUCK_SECONDS

    def ended(self, seconds: float) -> bool:
        """Wait for the end, so many seconds at most; return whether it came."""
        return self._done.wait(seconds)

    def replies(self) -> list[Message]:
        """Return what an ended look found. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._replies


def look_beside(grid: Grid, ids: Sequence[str], open_looks: list[Look]) -> list[Message]:
    """Return replies to questions of these ids that are there now, beside looks that may be stuck.

    ``open_looks`` are those that have not ended, and is kept up to date; what they were begun for comes when it comes.
    Raises what the grid raises.
    """
    if len(open_looks) < _MOST and all(look.stuck for look in open_looks):
        open_looks.append(Look(grid, ids))
    open_looks[-1].ended(_LONGEST_WAIT)
    ended = [look for look in open_looks if look.ended(0)]
    open_looks[:] = [look for look in open_looks if look not in ended]
    return [reply for look in ended for reply in look.replies()]
