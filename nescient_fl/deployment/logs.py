"""Structured logs: a line of JSON for each thing that happened, on standard output."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

Log = Callable[..., None]
"""Called with an event's name and its fields."""


def make_log(role: str, name: str, stream: TextIO | None = None) -> Log:
    """Return a log for one actor; its lines have ``time``, ``role``, ``name``, ``event``, then their own fields.

    A line that cannot be written (the disk that the log is on is full) is lost, and nothing else with it.
    """
    lock = threading.Lock()

    def log(event: str, **fields: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "role": role, "name": name, "event": event, **fields}, default=str)
        with lock, contextlib.suppress(OSError):
            print(line, file=stream or sys.stdout, flush=True)

    return log
