"""How far long work is, in a terminal and where there is none."""

import io

from rich.console import Console

from nescient_fl.study.pace import PlainLines, WorkProgress
from nescient_fl.study.progress import TerminalWatcher


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_every_ten_seconds_with_the_time_that_is_left() -> None:
    said: list[str] = []
    clock = Clock()
    lines = PlainLines(said.append, every=10.0, clock=clock)
    for after, done in ((0, 0), (5, 50), (9.9, 99), (10, 100), (15, 150), (20, 160), (40, 1000)):
        clock.now = 100.0 + after
        lines("Scoring images", done, 2000)
    # 100 in 10 s, so 1,900 more take 190; 160 in 20, so 1,840 take 230; 1,000 in 40.
    assert said == [
        "Scoring images: 100 of 2,000, about 3 min left",
        "Scoring images: 160 of 2,000, about 4 min left",
        "Scoring images: 1,000 of 2,000, about 40 s left",
    ]
    clock.now += 1
    lines("Scoring images", 2000, 2000)
    assert said[3:] == ["Scoring images: 2,000 of 2,000"]


def test_work_that_is_soon_over_is_not_told_and_the_next_of_its_name_begins_anew() -> None:
    said: list[str] = []
    clock = Clock()
    lines = PlainLines(said.append, every=10.0, clock=clock)
    for start in (0.0, 60.0):
        for after, done in ((0, 0), (6, 2), (9, 3)):
            clock.now = start + after
            lines("Dealing", done, 3)
    assert said == []
    clock.now = 100.0
    lines("Dealing", 2, 4)
    clock.now = 110.0
    lines("Dealing", 2, 4)
    assert said == ["Dealing: 2 of 4"], "what was done before it was first told says nothing of the pace"


def test_without_a_terminal_a_short_session_says_nothing() -> None:
    out = io.StringIO()
    with WorkProgress(Console(file=out, width=80), "connecting") as progress:
        for done in range(4):
            progress("Scoring images", done, 3)
    assert out.getvalue() == ""


def test_in_a_terminal_there_is_a_bar_with_counts() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with WorkProgress(console, "connecting") as progress:
        progress._bars.refresh()
        assert "connecting" in out.getvalue()
        progress("Scoring [images]", 1500, 3000)
        progress._bars.refresh()
        assert "Scoring [images]" in out.getvalue().splitlines()[-1]
        assert "1,500 of 3,000" in out.getvalue().splitlines()[-1]
        assert "connecting" not in out.getvalue().splitlines()[-1]


def test_a_studys_plain_lines_go_on_while_something_is_prepared(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    out, clock = io.StringIO(), Clock()
    with TerminalWatcher(Console(file=out, width=80), rounds=2) as watcher:
        monkeypatch.setattr(watcher._lines, "_clock", clock)
        for after, done in ((0, 0), (31, 310), (40, 1000)):
            clock.now = 100.0 + after
            watcher.preparing("Scoring images", done, 1000)
    assert out.getvalue().splitlines() == [
        "Scoring images: 1,000",
        "Scoring images: 310 of 1,000, about 69 s left",
        "Scoring images: 1,000 of 1,000",
    ]
