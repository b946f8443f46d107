"""Waiting for sites and for their answers."""

import threading
import time
from collections.abc import Iterable, Mapping

import pytest
from fake_grid import FLOWERS_WORDS, FakeGrid, ToySite
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo  # pylint: disable=no-name-in-module

from nescient_fl.errors import UserError
from strategies.exchange import Overdue, Stopped, exchange, failure_reason, wait_for_nodes

NAMES = ["icu-1", "icu-2", "outpatient-1", "ward-1"]


def never() -> threading.Event:
    return threading.Event()


def questions(grid: FakeGrid) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]


@pytest.mark.parametrize("seed", range(5))
def test_nodes_are_told_apart_by_the_site_they_say_they_are(seed: int) -> None:
    grid = FakeGrid([ToySite(name) for name in NAMES], seed)
    found = wait_for_nodes(grid, 4, 0, 5.0, never()).sites
    assert list(found) == NAMES
    assert {name: grid.sites[node].name for name, node in found.items()} == dict(zip(NAMES, NAMES, strict=True))


def test_the_last_node_is_waited_for() -> None:
    grid = FakeGrid([ToySite(name) for name in NAMES], joining=3)
    assert len(wait_for_nodes(grid, 4, 0, 5.0, never()).sites) == 4


def test_too_few_nodes_are_counted() -> None:
    with pytest.raises(UserError, match="only 3 of 4 nodes joined"):
        wait_for_nodes(FakeGrid([ToySite(name) for name in NAMES], joining=10**9), 4, 0, 0.1, never())


def test_two_nodes_may_not_be_one_site() -> None:
    with pytest.raises(UserError, match="two nodes say that they are x"):
        wait_for_nodes(FakeGrid([ToySite("x"), ToySite("x")]), 2, 0, 5.0, never())


class KeyedGrid(FakeGrid):
    """Knows each node's public key, as a real link does: here the name that it was admitted for."""

    def __init__(self, admitted: Mapping[str, str]) -> None:
        """``admitted`` has the key of each node by the name that it will say."""
        super().__init__([ToySite(name) for name in admitted])
        self._keys = admitted

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, public_key=self._keys[site.name].encode()) for node, site in self.sites.items()]


def test_nodes_are_who_their_keys_were_admitted_for() -> None:
    owners = {f"key of {name}": (name, "site") for name in NAMES}
    grid = KeyedGrid({name: f"key of {name}" for name in NAMES} | {"stranger": "key of nobody"})
    assert list(wait_for_nodes(grid, 4, 0, 5.0, never(), owners).sites) == NAMES


def test_a_node_that_says_anothers_name_is_refused_by_both_names() -> None:
    owners = {f"key of {name}": (name, "site") for name in ("icu-1", "ward-1")}
    grid = KeyedGrid({"icu-1": "key of icu-1", "outpatient-1": "key of ward-1"})
    with pytest.raises(UserError, match="the node of site ward-1 says that it is site outpatient-1"):
        wait_for_nodes(grid, 2, 0, 5.0, never(), owners)


def test_a_node_in_another_role_is_refused() -> None:
    owners = {"key of icu-1": ("icu-1", "party")}
    with pytest.raises(UserError, match="the node of party icu-1 says that it is site icu-1"):
        wait_for_nodes(KeyedGrid({"icu-1": "key of icu-1"}), 1, 0, 5.0, never(), owners)


class Unable(ToySite):
    """Cannot say which site it is, or says nothing."""

    def answer(self, content: RecordDict) -> RecordDict | Error | None:  # noqa: ARG002
        return Error(1, FLOWERS_WORDS.format("the pixel cache is gone")) if self.fails else None


def test_a_site_that_cannot_start_says_why() -> None:
    grid = FakeGrid([ToySite("x"), Unable("y", fails={0: "?"})])
    with pytest.raises(UserError, match=r"a node could not start: the pixel cache is gone$"):
        wait_for_nodes(grid, 2, 0, 5.0, never())


def test_a_site_that_never_says_its_name_is_counted() -> None:
    with pytest.raises(UserError, match="only 1 of 2 sites answered"):
        wait_for_nodes(FakeGrid([ToySite("x"), Unable("y")]), 2, 0, 0.2, never())


def test_every_reply_is_yielded_once() -> None:
    grid = FakeGrid([ToySite(name) for name in NAMES])
    replies = list(exchange(grid, questions(grid), 5.0, never()))
    assert sorted(reply.metadata.src_node_id for reply in replies) == sorted(grid.sites)


def test_the_deadline_holds_and_what_came_before_it_counts() -> None:
    grid = FakeGrid([ToySite("x"), ToySite("y"), Unable("z")])
    started = time.monotonic()
    replies = list(exchange(grid, questions(grid), 0.3, never()))
    assert len(replies) == 2
    assert 0.25 < time.monotonic() - started < 5


def test_a_request_to_stop_is_heard_while_waiting() -> None:
    grid, stop = FakeGrid([Unable("x")]), never()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        list(exchange(grid, questions(grid), 60.0, stop))
    assert time.monotonic() - started < 10
    with pytest.raises(Stopped):
        wait_for_nodes(FakeGrid([ToySite("x")], joining=10**9), 1, 0, 60.0, stop)


class LossyGrid(FakeGrid):
    """Gives up the node of one site at its first question, as a link does; it is back after some looks for it."""

    def __init__(self, lost: str, back_after: int, code: int = ErrorCode.NODE_UNAVAILABLE, times: int = 1) -> None:
        super().__init__([ToySite(name) for name in NAMES])
        self._code, self._times = code, times
        (self.lost,) = (node for node, site in self.sites.items() if site.name == lost)
        self._looks, self._back_after = 0, back_after
        self.questions: list[int] = []

    def get_node_ids(self) -> Iterable[int]:
        self._looks += 1
        return [node for node in self.sites if node != self.lost or self._looks > self._back_after]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        first = self.questions.count(self.lost) < self._times
        self.questions += [message.metadata.dst_node_id for message in sent]
        ids = list(super().push_messages(sent))
        for key, message in zip(ids, sent, strict=True):
            if first and message.metadata.dst_node_id == self.lost:
                reply = Message(Error(self._code, "Node Unavailable"), reply_to=message)
                # The link's own reply, not the node's.
                reply.metadata.__dict__["_src_node_id"] = 1
                self._replies[key] = reply
        return ids


def asked(grid: LossyGrid) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.QUERY) for node in grid.sites]


@pytest.mark.parametrize("code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE])
def test_a_node_that_comes_back_is_asked_again_and_counted_once(code: int) -> None:
    """Whether it died over the question or while its answer was on the way: the second is what chaos.py found."""
    grid = LossyGrid("ward-1", 3, code)
    replies = list(exchange(grid, asked(grid), 30.0, never(), rejoin_seconds=20.0))
    assert sorted(reply.metadata.src_node_id for reply in replies) == sorted(grid.sites)
    assert not any(reply.has_error() for reply in replies)
    assert sorted(grid.questions) == sorted([*grid.sites, grid.lost])


def test_a_node_whose_every_answer_breaks_off_is_not_asked_for_ever() -> None:
    grid = LossyGrid("ward-1", back_after=0, code=ErrorCode.MESSAGE_UNAVAILABLE, times=10**9)
    replies = list(exchange(grid, asked(grid), 30.0, never(), rejoin_seconds=20.0))
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [grid.lost]
    assert grid.questions.count(grid.lost) == 6


def test_a_node_that_stays_away_is_named_by_the_error() -> None:
    grid = LossyGrid("ward-1", back_after=10**9)
    replies = list(exchange(grid, asked(grid), 30.0, never(), rejoin_seconds=0.2))
    (error,) = (reply for reply in replies if reply.has_error())
    assert error.metadata.src_node_id == grid.lost
    assert failure_reason(error) == "Node Unavailable"
    assert len(replies) == len(NAMES)


def test_in_a_simulation_nobody_is_waited_for() -> None:
    grid = LossyGrid("ward-1", back_after=0)
    replies = list(exchange(grid, asked(grid), 30.0, never()))
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [grid.lost]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            FLOWERS_WORDS.format("training diverged: a weight is not finite"),
            "training diverged: a weight is not finite",
        ),
        (FLOWERS_WORDS.format("cannot read\nimage 3"), "image 3"),
        ("Traceback:\n  File x\nValueError: bad", "ValueError: bad"),
        (FLOWERS_WORDS.format(""), "no reason given"),
        ("", "no reason given"),
        (None, "no reason given"),
    ],
)
def test_the_reason_of_a_failure_is_one_line_in_the_sites_own_words(said: str | None, shown: str) -> None:
    question = Message(RecordDict(), 5, MessageType.QUERY)
    assert failure_reason(Message(Error(1, said), reply_to=question)) == shown


class LateGrid(FakeGrid):
    """Holds one site's first answer back until it is let go."""

    held: dict[str, Message]

    def hold(self, name: str) -> None:
        self.held = {key: self._replies.pop(key) for key in list(self._replies) if self._of(key) == name}

    def let_go(self) -> None:
        self._replies |= self.held

    def _of(self, key: str) -> str:
        return self.sites[int(key.partition("-")[2])].name


def test_an_answer_that_comes_too_late_answers_nothing_and_is_told_of_once() -> None:
    grid, told = LateGrid([ToySite(name) for name in NAMES]), []
    overdue = Overdue(lambda node, number: told.append((grid.sites[node].name, number)))
    overdue.round = 1
    grid.before_pull = lambda number: grid.hold("ward-1") if number == 1 else None
    first = list(exchange(grid, questions(grid), 0.3, never(), overdue=overdue))
    assert sorted(grid.sites[reply.metadata.src_node_id].name for reply in first) == NAMES[:3]
    assert told == []
    overdue.round = 2
    grid.before_pull = lambda _: None
    grid.let_go()
    second = list(exchange(grid, questions(grid), 5.0, never(), overdue=overdue))
    assert sorted(grid.sites[reply.metadata.src_node_id].name for reply in second) == NAMES
    assert len({reply.metadata.reply_to_message_id for reply in second}) == 4
    late = {key for key, reply in grid.held.items() if reply in second}
    assert late == set()
    # Replies come in any order, so it may still be there when the fourth answer of this round is in.
    third = list(exchange(grid, questions(grid), 5.0, never(), overdue=overdue))
    assert len(third) == 4
    assert told == [("ward-1", 1)]
    assert overdue.ids == []


def test_a_links_error_in_place_of_a_late_answer_is_no_answer() -> None:
    told: list[tuple[int, int]] = []
    overdue = Overdue(lambda *late: told.append(late))
    question = Message(RecordDict(), 7, MessageType.QUERY)
    question.metadata.__dict__["_message_id"] = "1-7"
    overdue.add({"1-7": question})
    assert overdue.take(Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=question))
    assert overdue.ids == told == []
