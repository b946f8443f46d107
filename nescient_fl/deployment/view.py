"""One live view of all actors of a deployment, with the study's bars below it."""

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nescient_fl.deployment.actors import ActorView
from nescient_fl.study.progress import TerminalWatcher

_STATES = {
    "train": "training",
    "query": "answering",
    "query.aggregate": "summing",
    "query.deal": "dealing",
}
"""What a worker's state is called in the view."""
_STYLES = {"ended": "dim", "no answer": "red", "unhealthy": "red"}


class DeploymentWatcher(TerminalWatcher):
    """A terminal watcher with a table of actors: state, round, last message, bytes.

    Where the output is not a terminal it says a line whenever an actor's process was started again.
    """

    def __init__(self, console: Console, rounds: int) -> None:
        super().__init__(console, rounds)
        self._views: list[ActorView] = []
        self._restarts: dict[str, int] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._drawn, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def actors(self, views: list[ActorView]) -> None:
        """Show how all actors are."""
        self._views = list(views)
        for view in views:
            if view.restarts > self._restarts.get(view.name, 0):
                self.say(f"[yellow]{escape(view.name)} ended and was started again[/]")
            self._restarts[view.name] = view.restarts

    def scoring(self) -> None:
        self._views = []
        super().scoring()

    def _drawn(self) -> Group:
        return Group(*([actors_table(self._views)] if self._views else []), self._progress.get_renderable())


def actors_table(views: list[ActorView]) -> Table:
    """Return a table of actors; what went wrong has a column when something did."""
    problems = any(view.problem for view in views)
    table = Table(box=None, pad_edge=False)
    for name in ("actor", "role", "state", "round", "last message", "in", "out", *(["problem"] if problems else [])):
        table.add_column(name, overflow="fold", no_wrap=name not in ("last message", "problem"))
    for view in views:
        state = _STATES.get(view.state, view.state)
        table.add_row(
            escape(view.name),
            escape(view.role),
            escape(f"{state} ({view.restarts} restarts)" if view.restarts else state),
            str(view.round or "-"),
            escape(view.last or "-"),
            _size(view.bytes_in),
            _size(view.bytes_out),
            *([escape(view.problem)] if problems else []),
            style="green" if view.state in _STATES else _STYLES.get(view.state, ""),
        )
    return table


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else "-"
