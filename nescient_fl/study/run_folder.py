"""A study's folder: what is in it, written so that a killed process never leaves half a file behind."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from nescient_fl.errors import UserError

_LEAVE_SECONDS, _LOOK_SECONDS = 60.0, 0.1


class RunFolder:
    """The files of one run: settings, rounds, checkpoints, metrics, model, report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: Path | None) -> Self:
        """Make a new run folder: ``out`` itself, else a new one below ``runs/``.

        Raises UserError when the folder already holds something or cannot be written.
        """
        path = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
        if path.is_file():
            raise UserError(f"--out {path} is a file: name a folder")
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"--out {path} is not empty: name a new folder, or go on with --resume {path}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to {path} ({os.strerror(error.errno or 0)}): name another with --out"
            ) from None
        run = cls(path.resolve())
        run.checkpoints.mkdir()
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run that was begun. Raises UserError when there is none."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no run (no config.json): name the folder of an earlier run")
        run = cls(path.resolve())
        run.checkpoints.mkdir(exist_ok=True)
        return run

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def ledger(self) -> Path:
        return self.path / "privacy.jsonl"

    @property
    def first_sum(self) -> Path:
        """The first average that a secure study opened, kept for the audit of its error."""
        return self.checkpoints / "opened-00001.safetensors"

    @property
    def cohort(self) -> Path:
        return self.path / "cohort.csv"

    @property
    def partition(self) -> Path:
        return self.path / "partition.csv"

    @property
    def rounds(self) -> Path:
        return self.path / "rounds.jsonl"

    @property
    def transcript(self) -> Path:
        return self.path / "transcript.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    @property
    def deployment(self) -> Path:
        """Where a deployment on this machine lies; there only while one runs."""
        return self.path / "deployment.json"

    def in_use(self) -> bool:
        """Say whether a process works on the run now."""
        try:
            with (self.path / ".lock").open() as file:
                # Shared, and let go of at once: only a study that starts in this very moment could be refused.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _discard_unbegun(self) -> None:
        if not self.partition.exists() and not any(self.checkpoints.iterdir()):
            for path in (self.config, self.path / ".lock", self.engine_log):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # whatever else stands there is not ours to remove
                self.checkpoints.rmdir()
                self.path.rmdir()

    @contextmanager
    def locked(self, *, new: bool = False) -> Iterator[None]:
        """Hold the run for this process. Raises UserError when another process works on it.

        A new run whose user made a mistake (UserError) before there was anything to lose is removed again,
        so that the same command can be given with the mistake mended.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process works on {self.path}: wait for it, or name another run") from None
            try:
                yield
            except UserError:
                if new:
                    self._discard_unbegun()
                raise

    @contextmanager
    def conducted(self, seconds: float = _LEAVE_SECONDS) -> Iterator[None]:
        """Hold rounds and checkpoints for the one federation that writes them.

        A coordinator that was killed leaves its app behind for a moment: for so many seconds its end is waited for.
        Raises UserError when another federation still works on the run then.
        """
        deadline = time.monotonic() + seconds
        with (self.path / ".conducted").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise UserError(
                            f"another coordinator works on {self.path}: stop one of them, and start the other again"
                        ) from None
                    time.sleep(_LOOK_SECONDS)
            yield


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in an error of a descriptor's, which knows none: a full disk is told with the path to free."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or none: to a temporary name beside it, flushed to disk, then renamed.

    Raises OSError that names the file when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _named(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, NaN refused (ValueError): an undefined figure is null."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:  # not JSON, or not even text
        raise UserError(f"{path} is damaged ({error})") from None


def append_line(path: Path, value: Any) -> None:
    """Append one line of JSON in a single write, flushed to disk, so that several processes may append.

    After a line that a crash cut off it starts a new one, so that only the cut line is lost. Raises OSError that
    names the file when the disk is full; the part of a line that still found room is taken back.
    """
    line = (json.dumps(value, allow_nan=False) + "\n").encode()
    with _named(path), path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        written = file.write(line)
        try:
            # A disk that fills up takes the beginning without a word, and says so only when asked for the rest.
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            if os.fstat(file.fileno()).st_size == end + written:
                os.ftruncate(file.fileno(), end)
            raise
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """Read the whole lines of a JSON-lines file; a line cut off by a crash is left out."""
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError):
            values.append(json.loads(line))
    return values


def rewrite_lines(path: Path, values: list[Any]) -> None:
    """Replace a JSON-lines file atomically."""
    write_atomically(path, "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode())
