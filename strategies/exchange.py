"""Sending to nodes and collecting what comes back, in a way that can be watched and stopped."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

from nescient_fl.errors import UserError
from nescient_fl.messages import DEALER, PARTY, SITE, read_node
from strategies.looks import Look, look_beside

_POLL_SECONDS, _REMOTE_POLL_SECONDS = 0.05, 0.25
"""Between two looks for replies; over HTTP a look costs both ends some ten milliseconds of work."""

_MOST_TIMES = 5
"""How often one node is asked again in an exchange."""

REJOIN_SECONDS = 90.0
"""How long a node that was given up may take to come back: a host's service manager, or its link, needs a while."""


_LOST = {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE}
"""Flower's errors for a question that died with its node, and for an answer that died on its way: nobody read it."""


class Patience:
    """How long replies are waited for, once all is sent; whoever reads them may shorten it meanwhile."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        self._end = time.monotonic() + self._seconds

    def shorten(self, seconds: float) -> None:
        """Wait at most so many seconds from now."""
        self._end = min(self._end, time.monotonic() + seconds)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end


class Overdue:
    """Questions whose answers had not come when the waiting ended: what still comes is thrown away, and told of.

    ``discarded`` is called with the node and the round of an answer that came too late; an error in its place is
    nobody's answer. ``round`` is the one that questions are being asked for; ``looks`` are still open, one of which may
    bring such an answer.
    """

    def __init__(self, discarded: Callable[[int, int], None]) -> None:
        self.round = 0
        self.looks: list[Look] = []
        self._discarded = discarded
        self._asked: dict[str, tuple[int, int]] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of the questions."""
        return list(self._asked)

    def add(self, questions: Mapping[str, Message]) -> None:
        """Take over questions by their ids."""
        self._asked |= {key: (question.metadata.dst_node_id, self.round) for key, question in questions.items()}

    def take(self, reply: Message) -> bool:
        """Throw a reply away if it answers one of these; return whether it does."""
        found = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if found is not None and not reply.has_error():
            self._discarded(*found)
        return found is not None


Exchanger = Callable[[Grid, Iterable[Message], Patience], Iterable[Message]]
"""``exchange`` with the user's wish to stop already in it."""


class Stopped(Exception):
    """The user asked the study to stop; the last checkpoint stands."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    patience: Patience | float,
    stop: threading.Event,
    rejoin_seconds: float | None = None,
    overdue: Overdue | None = None,
) -> Iterator[Message]:
    """Send messages and yield each reply as it comes, until all are in or the patience (or seconds) is over.

    A node that Flower gives up, or that ended while its answer was on the way, has ``rejoin_seconds`` to come back,
    by default none in a simulation: then it is asked again, and else Flower's error is its reply. No question is
    counted twice: the first is gone with the process that had it. What has no answer when the patience is over goes
    to ``overdue``: an answer that comes later, during this exchange or another, is no answer to anything. Raises
    Stopped as soon as ``stop`` is set.
    """
    if overdue is None:
        overdue = Overdue(lambda *_: None)
    remote = isinstance(grid, HttpGrid)
    look = partial(look_beside, open_looks=overdue.looks) if remote else _look_at_once
    pause = _REMOTE_POLL_SECONDS if remote else _POLL_SECONDS
    if rejoin_seconds is None:
        rejoin_seconds = REJOIN_SECONDS if remote else 0.0
    if not isinstance(patience, Patience):
        patience = Patience(patience)
    sent = list(messages)
    waiting = dict(zip(grid.push_messages(sent), sent, strict=True))
    patience.begin()
    given_up: dict[int, tuple[Message, Message, float]] = {}
    asked_again: dict[int, int] = {}
    while (waiting or given_up) and not patience.over:
        if stop.is_set():
            raise Stopped
        for reply in look(grid, [*waiting, *overdue.ids]) if waiting else []:
            if overdue.take(reply):
                continue
            question = waiting.pop(reply.metadata.reply_to_message_id)
            node = question.metadata.dst_node_id
            # Flower's own errors name the link as their source; whose question it was is known here.
            reply.metadata.__dict__["_src_node_id"] = node
            lost = reply.has_error() and reply.error.code in _LOST and asked_again.get(node, 0) < _MOST_TIMES
            if rejoin_seconds and lost:
                given_up[node] = question, reply, time.monotonic() + rejoin_seconds
            else:
                yield reply
        back = set(grid.get_node_ids()) & set(given_up) if given_up else set()
        for node, (question, reply, until) in list(given_up.items()):
            if node in back:
                asked_again[node] = asked_again.get(node, 0) + 1
                again = Message(question.content, node, question.metadata.message_type)
                waiting |= dict(zip(grid.push_messages([again]), [again], strict=True))
            elif time.monotonic() > until:
                yield reply
            else:
                continue
            del given_up[node]
        if waiting or given_up:
            stop.wait(pause)
    overdue.add(waiting)


def _look_at_once(grid: Grid, ids: Sequence[str]) -> list[Message]:
    return list(grid.pull_messages(ids))


@dataclass(frozen=True)
class Nodes:
    """The node id of each actor by its name, names in order."""

    sites: dict[str, int]
    parties: dict[str, int]
    dealer: int | None


def wait_for_nodes(
    grid: Grid,
    sites: int,
    others: int,
    timeout: float,
    stop: threading.Event,
    owners: Mapping[str, tuple[str, str]] | None = None,
) -> Nodes:
    """Wait until every node is there, and ask each who it is.

    Node ids are drawn anew for every run and round 1 could start before the last node has registered; the
    name is what stays. ``others`` counts the parties and the dealer. ``owners`` has name and role of the
    member that each node's public key (PEM) belongs to: a node of another key is not asked, and none may say that
    it is somebody else.

    Raises UserError when too few nodes come within ``timeout`` seconds, when one cannot say who it is (its
    data cannot be opened, say), or when two say the same.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := _present(grid, owners)) < sites + others:
        if stop.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise UserError(f"only {len(nodes)} of {sites + others} nodes joined within {timeout:.0f} s")
        stop.wait(_POLL_SECONDS)
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    found: dict[str, dict[str, int]] = {SITE: {}, PARTY: {}, DEALER: {}}
    for reply in exchange(grid, questions, timeout, stop):
        if reply.has_error():
            raise UserError(f"a node could not start: {failure_reason(reply)}")
        name, role = read_node(reply.content)
        owner = nodes[reply.metadata.src_node_id]
        if owner is not None and owner != (name, role):
            raise UserError(f"the node of {owner[1]} {owner[0]} says that it is {role} {name}: it is not trusted")
        if any(name in names for names in found.values()):
            raise UserError(f"two nodes say that they are {name}")
        found.setdefault(role, {})[name] = reply.metadata.src_node_id
    if len(found[SITE]) < sites:
        raise UserError(f"only {len(found[SITE])} of {sites} sites answered within {timeout:.0f} s")
    if sum(len(names) for role, names in found.items() if role != SITE) < others:
        raise UserError(f"not every party and the dealer answered within {timeout:.0f} s")
    dealers = list(found[DEALER].values())
    return Nodes(dict(sorted(found[SITE].items())), dict(sorted(found[PARTY].items())), dealers[0] if dealers else None)


def _present(grid: Grid, owners: Mapping[str, tuple[str, str]] | None) -> Mapping[int, tuple[str, str] | None]:
    """Return the nodes that are there, each with name and role of whom its key belongs to, where keys are known."""
    if owners is None:
        return dict.fromkeys(grid.get_node_ids())
    found = {node.node_id: owners.get(node.public_key.decode("ascii", "replace")) for node in grid.get_nodes()}
    return {node: owner for node, owner in found.items() if owner is not None}


def failure_reason(reply: Message) -> str:
    """Return the last line of what a failed site said, without Python's wrapping."""
    text = (reply.error.reason or "").strip()
    text = re.sub(r"^<class '[^']*'>:<'(.*)'>$", r"\1", text, flags=re.DOTALL)
    text = text.rpartition("Exception ClientAppException occurred. Message: ")[2]
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
