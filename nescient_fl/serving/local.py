"""All three roles of encrypted inference as processes of this machine, with keys of their own, over mutual TLS.

``score_locally`` starts ``nescient deal`` and ``nescient serve-model`` as anybody would, and the clinic as a third
process (this module run as a program), which alone opens the radiographs and writes what it learned.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.keys import load_keys, new_keys, public_part
from nescient_fl.mpc.roster import Roster, read_signed, sign_roster, write_signed
from nescient_fl.radiographs.cache import PixelCache, open_cache
from nescient_fl.serving.clinic import Inputs, Told, score
from nescient_fl.serving.memory import peak_memory
from nescient_fl.serving.messages import Card
from nescient_fl.serving.settings import state_folder
from nescient_fl.serving.standing import READY
from nescient_fl.study.run_folder import read_json, read_lines, write_json
from nescient_fl.tether import start_tethered, stop

OWNER, CLINIC, DEALER = "owner", "clinic", "dealer"
_START_SECONDS = 120.0
_END_SECONDS = 30.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class LocalScores:
    """What a clinic learned, and what all three processes took.

    Attributes:
        logits: float64 [n], in the order of the rows.
        layers: by layer what the clinic counted: rounds, bytes_sent, bytes_received, seconds, waiting.
        batches, seconds: of the sessions, set-up included.
        offline_seconds, offline_bytes: of making material.
        owner_bytes: what the owner sent to the clinic in the protocol.
        peak_memory: bytes, by role.
    """

    logits: NDArray[np.float64]
    layers: dict[str, dict[str, float]]
    batches: int
    seconds: float
    offline_seconds: float
    offline_bytes: int
    owner_bytes: int
    peak_memory: dict[str, int]


def score_locally(
    model: Path,
    cache: PixelCache,
    rows: NDArray[np.int64],
    batch: int = 8,
    calibration: Path | None = None,
    progress: Told | None = None,
    tick: Callable[[], None] | None = None,
    twice: bool = False,
) -> LocalScores:
    """Score rows of a pixel cache under encryption with the model of a run's folder or a file.

    ``progress`` is told how far the clinic is; ``tick`` is called again and again, and may raise to end it all.
    ``twice`` is the clinic's check of the dealer.
    Raises UserError with what a role said when one fails.
    """
    with tempfile.TemporaryDirectory(prefix="nescient-") as folder:
        place = LocalPlace(Path(folder), partial(_pass_on, progress), tick or (lambda: None))
        place.make_keys()
        extra = [] if calibration is None else ["--calibration", str(calibration)]
        serving = (str(model), "--limit", str(2 * len(rows) if twice else len(rows)), *extra, *place.who(OWNER))
        np.save(place.rows, rows)
        job = {"cache": str(cache.directory), "batch": batch, "twice": twice}
        write_json(place.job, job)
        dealing = place.role(DEALER, "nescient_fl.deal", *place.who(DEALER))
        with dealing, place.role(OWNER, "nescient_fl.serve_model", *serving):
            status = place.run(CLINIC, "nescient_fl.serving.local", str(place.folder))
        if status:
            raise UserError(place.last_words(CLINIC))
        return place.found()


@dataclass(frozen=True)
class LocalPlace:
    """The folder of one local session: everybody's keys, what they say, and what comes out."""

    folder: Path
    say: Callable[[str], None]
    tick: Callable[[], None]

    @property
    def rows(self) -> Path:
        return self.folder / "rows.npy"

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    @property
    def logits(self) -> Path:
        return self.folder / "logits.npy"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def log(self, role: str) -> Path:
        return self.folder / f"{role}.log"

    def make_keys(self) -> None:
        """Make keys for the three, an authority, and the roster of them."""
        addresses = {OWNER: self.folder / "o.socket", DEALER: self.folder / "d.socket", CLINIC: None}
        members = [
            public_part(new_keys(self.folder / role, role, role), None if where is None else f"unix:{where}")
            for role, where in addresses.items()
        ]
        authority = new_keys(self.folder / "authority", "authority", "authority")
        write_signed(sign_roster(Roster("local", 1, tuple(members), 3), authority), self.folder / "roster.json")
        (self.folder / "authority.txt").write_text(public_part(authority).signing_key)

    def who(self, role: str) -> tuple[str, ...]:
        """Return the options that say who a command is."""
        keys, roster = str(self.folder / role), str(self.folder / "roster.json")
        return ("--keys", keys, "--roster", roster, "--authority", (self.folder / "authority.txt").read_text())

    def roster(self) -> Roster:
        """Read the roster."""
        return read_signed(self.folder / "roster.json", (self.folder / "authority.txt").read_text())

    def start(self, role: str, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a role, which ends when this process does, however that one ends."""
        return start_tethered(
            [sys.executable, "-m", module, *arguments],
            log=self.log(role),
            environment={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    @contextmanager
    def role(self, role: str, module: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Have a standing role ready, give its process, and end it."""
        process = self.start(role, module, *arguments)
        try:
            end = time.monotonic() + _START_SECONDS
            while not any(line.startswith(READY) for line in self.log(role).read_text().splitlines()):
                if process.poll() is not None or time.monotonic() > end:
                    raise UserError(self.last_words(role))
                self.tick()
                time.sleep(_POLL_SECONDS)
            yield process
        finally:
            stop(process, _END_SECONDS)

    def run(self, role: str, module: str, *arguments: str) -> int:
        """Run a role to its end, telling what it says. Returns its exit status, negative for a signal."""
        process = self.start(role, module, *arguments)
        try:
            self._follow(process, role)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def _follow(self, process: "subprocess.Popen[bytes]", role: str) -> None:
        """Wait for the end of a process, and tell what it says."""
        told = 0
        while process.poll() is None:
            lines = self.log(role).read_text(errors="replace").splitlines()
            for line in lines[told:]:
                self.say(line)
            told = len(lines)
            self.tick()
            time.sleep(_POLL_SECONDS)

    def last_words(self, role: str) -> str:
        """Return the last line that a role said."""
        lines = self.log(role).read_text(errors="replace").splitlines()
        return f"{role}: {lines[-1].removeprefix('error: ') if lines else 'ended without a word'}"

    def found(self) -> LocalScores:
        """Gather what came out."""
        result = read_json(self.result)
        sessions = read_lines(state_folder(load_keys(self.folder / OWNER)) / "sessions.jsonl")
        deliveries = read_lines(state_folder(load_keys(self.folder / DEALER)) / "deliveries.jsonl")
        return LocalScores(
            logits=np.load(self.logits, allow_pickle=False),
            layers=result["layers"],
            batches=result["batches"],
            seconds=result["seconds"],
            offline_seconds=result["offline_seconds"],
            offline_bytes=result["offline_bytes"],
            owner_bytes=sum(line["bytes_sent"] for line in sessions),
            peak_memory={
                CLINIC: result["peak_memory"],
                OWNER: max(line["peak_memory"] for line in sessions),
                DEALER: max(line["peak_memory"] for line in deliveries),
            },
        )


def cached_inputs(cache: PixelCache, rows: NDArray[np.int64], standardise: bool) -> Inputs:
    """Return rows of a cache as the network's inputs."""

    def make(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        chosen = rows[numbers]
        made: NDArray[np.float32] = cache.pixels[chosen].astype(np.float32)[:, None]
        if not standardise:
            return made * np.float32(1 / 255)
        made -= cache.mean[chosen, None, None, None]
        made *= (1 / cache.std[chosen, None, None, None]).astype(np.float32)
        return made

    return Inputs(make, np.arange(len(rows)))


def _tell(what: str, done: int, total: int) -> None:
    """Say how far the clinic is, for ``_pass_on`` at the other end of its output."""
    print(json.dumps([what, done, total]), flush=True)


def _pass_on(progress: Told | None, line: str) -> None:
    """Tell what ``_tell`` said; its last words, when it fails, are none of it."""
    if progress is not None and line.startswith("["):
        progress(*json.loads(line))


def _clinic(folder: Path) -> None:
    """Be the clinic of a local session."""
    place = LocalPlace(folder, print, lambda: None)
    job: Mapping[str, Any] = read_json(place.job)
    cache, rows = open_cache(Path(job["cache"])), np.load(place.rows, allow_pickle=False)
    keys = load_keys(folder / CLINIC)
    roster = place.roster()

    def inputs(card: Card) -> Inputs:
        return cached_inputs(cache, rows, card.standardise)

    scored = score(keys, roster, OWNER, inputs, state_folder(keys), job["batch"], _tell, job["twice"])
    layers: dict[str, dict[str, float]] = {}
    for session in scored.sessions:
        for name, count in session.counts.items():
            sums = layers.setdefault(name, dict.fromkeys(asdict(count), 0))
            for key, value in asdict(count).items():
                sums[key] += value
    np.save(place.logits, scored.logits)
    write_json(
        place.result,
        {
            "layers": layers,
            "batches": sum(session.batches for session in scored.sessions),
            "seconds": scored.seconds,
            "offline_seconds": scored.offline.seconds,
            "offline_bytes": scored.offline.bytes_sent,
            "peak_memory": peak_memory(),
        },
    )


if __name__ == "__main__":
    try:
        _clinic(Path(sys.argv[1]))
    except (MpcError, UserError) as error:
        print(json.dumps(str(error))[1:-1], flush=True)
        raise SystemExit(2) from None
