"""How far long work is: a bar with the time left in a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY_SECONDS = 10.0


class PlainLines:
    """Says how far work is in lines, none for work that is soon over, then one every ``every`` seconds.

    Called with what is done, how many of it are, and of how many. ``clock`` gives seconds.
    """

    def __init__(
        self, say: Callable[[str], None], every: float = EVERY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._every, self._clock = say, every, clock
        self._began: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        began, first = self._began.setdefault(what, (now, done))
        if done >= total:
            # The next work of this name is another.
            del self._began[what]
            if self._said.pop(what, None) is not None:
                self._say(f"{what}: {total:,} of {total:,}")
        elif now - self._said.get(what, began) >= self._every:
            self._said[what] = now
            left = "" if done <= first else f", about {_words((now - began) * (total - done) / (done - first))} left"
            self._say(f"{what}: {done:,} of {total:,}{left}")


class WorkProgress:
    """Shows how far each of some pieces of work is while the context lasts; called as ``PlainLines`` is.

    In a terminal there is a moving bar named ``first`` until the first of them is told.
    """

    def __init__(self, console: Console, first: str) -> None:
        self._lines = PlainLines(lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False))
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._terminal = console.is_terminal
        self._first: TaskID | None = self._bars.add_task(escape(first), total=None, note="")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._terminal:
            self._lines(what, done, total)
            return
        if self._first is not None:
            self._bars.remove_task(self._first)
            self._first = None
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(escape(what), total=total, note="")
        self._bars.update(self._tasks[what], completed=done, total=total, note=f"{done:,} of {total:,}")


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60):,} min"
