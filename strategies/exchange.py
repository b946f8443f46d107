"""Sending to nodes and collecting what comes back, in a way that can be watched and stopped."""

import re
import threading
import time
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid

from nescient_fl.errors import UserError
from nescient_fl.messages import read_site

_POLL_SECONDS = 0.05


class Stopped(Exception):
    """The user asked the study to stop; the last checkpoint stands."""


def exchange(
    grid: Grid, messages: Iterable[Message], timeout: float, stop: threading.Event
) -> Iterator[Message]:
    """Send messages and yield each reply as it comes, until all are in or ``timeout`` seconds have passed.

    Raises Stopped as soon as ``stop`` is set.
    """
    waiting = set(grid.push_messages(messages))
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        if stop.is_set():
            raise Stopped
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if waiting:
            stop.wait(_POLL_SECONDS)


def wait_for_sites(grid: Grid, sites: int, timeout: float, stop: threading.Event) -> dict[str, int]:
    """Wait until every node is there, and ask each which site it is.

    Node ids are drawn anew for every run and round 1 could start before the last node has registered; the
    site's name is what stays. Returns node id by site name, in name order.

    Raises UserError when too few nodes come within ``timeout`` seconds, when one cannot say which site it is
    (its data cannot be opened, say), or when two say the same.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < sites:
        if stop.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise UserError(f"only {len(nodes)} of {sites} sites joined within {timeout:.0f} s")
        stop.wait(_POLL_SECONDS)
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    found: dict[str, int] = {}
    for reply in exchange(grid, questions, timeout, stop):
        if reply.has_error():
            raise UserError(f"a site could not start: {failure_reason(reply)}")
        name = read_site(reply.content)
        if name in found:
            raise UserError(f"two nodes say that they are site {name}")
        found[name] = reply.metadata.src_node_id
    if len(found) < sites:
        raise UserError(f"only {len(found)} of {sites} sites answered within {timeout:.0f} s")
    return dict(sorted(found.items()))


def failure_reason(reply: Message) -> str:
    """Return the last line of what a failed site said, without Python's wrapping."""
    text = (reply.error.reason or "").strip()
    text = re.sub(r"^<class '[^']*'>:<'(.*)'>$", r"\1", text, flags=re.DOTALL)
    text = text.rpartition("Exception ClientAppException occurred. Message: ")[2]
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
