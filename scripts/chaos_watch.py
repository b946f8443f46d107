"""Reads a run folder all the time while it is written, as any reader might, and notes whatever it cannot read."""

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder
from strategies.state import FederationState, load_state

_POLL_SECONDS = 0.05
_CUT_SECONDS = 2.0
"""How long the last line may be seen without its end: it is written in one go, but a reader may come in between."""


@dataclass
class Progress:
    """How far a run was seen to come: for each finished round its sites, failures and aborted sums, and when."""

    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    at: dict[int, float] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The last finished round; 0 before the first."""
        return max(self.lines, default=0)


class Watch:
    """A thread that reads rounds.jsonl and the newest checkpoint until the context is left.

    ``problems`` says, with the time, everything that could not be read or was lost: a line that is no JSON, a round
    missing or twice, a history that got more than its unfinished last line shorter, a checkpoint that does not load,
    went back, or is gone.
    """

    def __init__(self, run: RunFolder) -> None:
        self.problems: list[str] = []
        self.looks = 0
        self.progress = Progress()
        self._run = run
        self._most_lines = 0
        self._reached = -1
        self._seen: tuple[Any, ...] | None = None
        self._cut_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self.look()
            except Exception as error:  # a watch that ended in silence would find nothing
                self._note(f"the watch itself failed: {error!r}")

    def look(self) -> None:
        """Read both once."""
        self.looks += 1
        self._look_at_rounds()
        self._look_at_checkpoint()

    def _look_at_rounds(self) -> None:
        try:
            data = self._run.rounds.read_bytes()
        except FileNotFoundError:
            if self._most_lines:
                self._note("rounds.jsonl is gone")
            return
        whole, _, tail = data.rpartition(b"\n")
        if not tail:
            self._cut_since = None
        elif self._cut_since is None:
            self._cut_since = time.monotonic()
        elif time.monotonic() - self._cut_since > _CUT_SECONDS:
            self._note(f"rounds.jsonl ends in half a line: {tail[:60]!r}")
        numbers = []
        for line in whole.split(b"\n") if whole else []:
            try:
                found = json.loads(line)
                numbers.append(found["round"])
                self._take(found)
            except (ValueError, KeyError, TypeError) as error:
                self._note(f"rounds.jsonl has a line that is none: {line[:60]!r} ({error})")
                return
        if numbers != list(range(len(numbers))):
            self._note(f"rounds.jsonl has the rounds {numbers}")
        # A coordinator that died between a line and its checkpoint writes that line anew.
        if len(numbers) < self._most_lines - 1:
            self._note(f"rounds.jsonl had {self._most_lines} lines and has {len(numbers)}")
        self._most_lines = max(self._most_lines, len(numbers))

    def _look_at_checkpoint(self) -> None:
        paths = sorted(self._run.checkpoints.glob("federated-*.safetensors"))
        if not paths:
            if self._reached >= 0:
                self._note("the checkpoint is gone")
            return
        newest = paths[-1]
        try:
            now = newest.stat()
        except FileNotFoundError:  # a newer one took its place meanwhile
            return
        seen = (newest, now.st_mtime_ns, now.st_ino)
        if seen == self._seen:
            return
        state = self._load()
        if state is None:
            return
        self._seen = seen
        if state.round < self._reached:
            self._note(f"the checkpoint went back from round {self._reached} to {state.round}")
        self._reached = max(self._reached, state.round)
        if state.round:
            self._take(state.pending)

    def _load(self) -> FederationState | None:
        """Read the newest checkpoint as a coordinator would. One that is removed while it is read is no problem."""
        try:
            return load_state(self._run.checkpoints)
        except UserError as error:
            again = sorted(self._run.checkpoints.glob("federated-*.safetensors"))
            if again and str(again[-1]) in str(error):
                self._note(str(error))
            return None

    def _take(self, line: dict[str, Any]) -> None:
        number = int(line["round"])
        if number and number not in self.progress.lines:
            self.progress.at[number] = time.monotonic()
        if number:
            self.progress.lines[number] = line

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def newest_checkpoint(run: Path) -> FederationState | None:
    """Return where a run stands. Raises UserError when its checkpoint is damaged."""
    return load_state(RunFolder(run).checkpoints)
