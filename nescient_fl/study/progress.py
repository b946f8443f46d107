"""The live view of a study in a terminal, and plain lines where there is none."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nescient_fl.study.pace import PlainLines


class TerminalWatcher:
    """Shows what a study does: bars with time left, and a line for each thing worth keeping.

    Where the output is not a terminal (a file, a pipe, a continuous-integration log) each round is a line.
    """

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._sites = 0
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=18),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}
        self._lines = PlainLines(self.say, every=30.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)

    def preparing(self, what: str, done: int, total: int) -> None:
        started = what in self._tasks
        self._update(what, done, total, f"{done:,} of {total:,}")
        if not self._console.is_terminal:
            if not started:
                self.say(f"{what}: {total:,}")
            self._lines(what, done, total)

    def sites_joined(self, names: Sequence[str]) -> None:
        self._sites = len(names)
        self.say(f"{len(names)} sites joined: {escape(', '.join(names))}")

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        if problem is not None:
            self.say(f"[yellow]round {round_number}: {escape(site)} left out: {escape(problem)}[/]")

    def round_aborted(self, round_number: int, reason: str) -> None:
        self.say(f"[yellow]round {round_number}: no sum was opened, trying again: {escape(reason)}[/]")

    def study_ended(self, reason: str) -> None:
        self.say(f"[yellow]{escape(reason)}[/]")

    def round_validated(self, line: dict[str, Any]) -> None:
        self._arm("Federated", "Federated training", line["round"], self._rounds, line["validation"])

    def alone_validated(self, arm: str, line: dict[str, Any]) -> None:
        name = "Pooled" if arm == "pooled" else f"Alone: {arm.removeprefix('local-')}"
        self._arm(name, name, line["round"], self._rounds, line)

    def scoring(self) -> None:
        self.say("Scoring every arm on the held-out patients")

    def encrypting(self, images: int) -> None:
        self.say(f"Scoring {images:,} held-out patients' radiographs under encryption")

    def left_out(self, reason: str) -> None:
        self.say(f"[yellow]left out: {escape(reason)}[/]")

    def _arm(self, key: str, title: str, done: int, total: int, figures: dict[str, Any]) -> None:
        note = f"round {done}/{total}  recall {_figure(figures['recall'])}  AUROC {_figure(figures['auroc'])}"
        self._update(key, done, total, note, title)
        if not self._console.is_terminal:
            self.say(f"{title}: {note}")

    def _update(self, key: str, done: int, total: int, note: str, title: str | None = None) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(escape(title or key), total=total, note="")
        self._progress.update(self._tasks[key], completed=done, total=total, note=note)


def _figure(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"
