"""Looks for replies: one that waits for a broken upload holds up no other reply, and no deadline."""

import threading
import time
from collections.abc import Iterable

import pytest
from fake_grid import FakeGrid, ToySite
from flwr.app import Message, MessageType, RecordDict

from strategies import exchange as exchange_module
from strategies import looks
from strategies.exchange import Overdue, exchange
from strategies.looks import Look, look_beside

NAMES = ["icu-1", "icu-2", "outpatient-1", "ward-1"]


class BrokenUpload(FakeGrid):
    """Hands the answer of one site out as a link does whose upload broke off: within a call that does not end."""

    def __init__(self, stuck: str) -> None:
        super().__init__([ToySite(name) for name in NAMES])
        self._stuck = next(f"-{node}" for node, site in self.sites.items() if site.name == stuck)
        self.whole = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        with self._lock:
            self.calls += 1
            taken = [self._replies.pop(key) for key in message_ids if key in self._replies]
        if any(reply.metadata.reply_to_message_id.endswith(self._stuck) for reply in taken):
            # Alone in its look, as it mostly is: what a look finds with it waits with it.
            late = [reply for reply in taken if not reply.metadata.reply_to_message_id.endswith(self._stuck)]
            with self._lock:
                self._replies |= {reply.metadata.reply_to_message_id: reply for reply in late}
            assert self.whole.wait(20)
            return [reply for reply in taken if reply not in late]
        return taken


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_STUCK_SECONDS", 0.1)
    monkeypatch.setattr(looks, "_LONGEST_WAIT", 0.05)


def questions(grid: FakeGrid) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]


@pytest.mark.usefixtures("quick")
def test_a_broken_upload_holds_up_neither_the_others_nor_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "HttpGrid", BrokenUpload)
    grid, told = BrokenUpload("icu-2"), []
    overdue = Overdue(lambda node, number: told.append((grid.sites[node].name, number)))
    overdue.round = 1
    started = time.monotonic()
    found = list(exchange(grid, questions(grid), 1.5, threading.Event(), overdue=overdue))
    assert time.monotonic() - started < 5
    assert sorted(grid.sites[reply.metadata.src_node_id].name for reply in found) == ["icu-1", "outpatient-1", "ward-1"]
    assert told == []
    # It arrives in the next round's time, and is an answer to nothing.
    overdue.round = 2
    grid.whole.set()
    again = list(exchange(grid, questions(grid), 5.0, threading.Event(), overdue=overdue))
    assert sorted(grid.sites[reply.metadata.src_node_id].name for reply in again) == NAMES
    assert told == [("icu-2", 1)]


@pytest.mark.usefixtures("quick")
def test_looks_are_begun_one_after_another_and_so_many_at_most() -> None:
    grid = BrokenUpload("icu-1")
    ids = list(grid.push_messages(questions(grid)))
    (stuck,) = [key for key in ids if key.endswith(grid._stuck)]
    open_looks: list[Look] = []
    assert look_beside(grid, [stuck], open_looks) == []
    assert look_beside(grid, ids, open_looks) == []
    assert grid.calls == 1
    time.sleep(0.15)
    assert len(look_beside(grid, ids, open_looks)) == 3
    assert (grid.calls, len(open_looks)) == (2, 1)
    grid.whole.set()
    assert open_looks[0].ended(5)
    assert [reply.metadata.reply_to_message_id for reply in look_beside(grid, ids, open_looks)] == [stuck]


@pytest.mark.usefixtures("quick")
def test_what_a_grid_raises_is_raised_to_whoever_looks() -> None:
    grid = FakeGrid([ToySite("x")])

    def refuse(_: int) -> None:
        raise ConnectionError("the link is gone")

    grid.before_pull = refuse
    open_looks: list[Look] = []
    with pytest.raises(ConnectionError, match="the link is gone"):
        look_beside(grid, ["1-1"], open_looks)
    assert open_looks == []


@pytest.mark.usefixtures("quick")
def test_no_more_looks_are_open_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_MOST", 2)
    grid, let_go = FakeGrid([ToySite("x")]), threading.Event()
    grid.before_pull = lambda _: let_go.wait(20) and None
    open_looks: list[Look] = []
    for _ in range(4):
        assert look_beside(grid, ["1-1"], open_looks) == []
        time.sleep(0.12)
    assert len(open_looks) == 2
    let_go.set()
