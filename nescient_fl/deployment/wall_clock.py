"""Notices that a host's time of day was set while a program ran: Flower's link takes everybody for gone then."""

import time

_NOTICED_SECONDS = 5.0
"""What a clock may be moved by without a word: Flower takes times that are so far in the future."""


class WallClock:
    """Compares the time of day with the monotonic clock, from when it was made."""

    def __init__(self) -> None:
        self._apart = time.time() - time.monotonic()
        self._set_by = 0.0

    def look(self) -> float:
        """Return the seconds that the clock was set by since the last look, 0 when it was not."""
        moved = time.time() - time.monotonic() - self._apart
        if abs(moved) < _NOTICED_SECONDS:
            return 0.0
        self._apart += moved
        self._set_by = moved
        return moved

    def explain(self, reason: str) -> str:
        """Return why a run ended, and that the clock was set, if it was."""
        if not self._set_by:
            return reason
        return (
            f"{reason}; this host's clock was set by {self._set_by:+.0f} s meanwhile: keep it right (NTP), and start "
            "the coordinator again to go on"
        )
