"""What a party must not forget, whatever happens to its process: reports it saw, sums it opened.

SQLite with full synchronisation: a statement that returned survives a crash of the machine.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (report TEXT PRIMARY KEY, session TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sums (
    model TEXT PRIMARY KEY, binding TEXT NOT NULL, session TEXT NOT NULL, sites TEXT NOT NULL,
    excluded TEXT NOT NULL, share BLOB NOT NULL, opened BLOB, serial INTEGER NOT NULL
);
"""


@dataclass(frozen=True)
class StoredSum:
    """One sum: committed to when ``opened`` is None, else opened.

    share and opened are int64 [dimension]: this party's share of the sum, noise included, and the sum.
    """

    model: str
    binding: str
    session: str
    sites: tuple[str, ...]
    excluded: tuple[str, ...]
    share: NDArray[np.int64]
    opened: NDArray[np.int64] | None = None


class PartyStore:
    """One party's memory, a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "PartyStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seen(self, report: str) -> bool:
        """Say whether a report id was ever taken."""
        return self._database.execute("SELECT 1 FROM seen WHERE report = ?", (report,)).fetchone() is not None

    def remember(self, reports: Iterable[str], session: str) -> None:
        """Note report ids as taken; one that already is stays as it is."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR IGNORE INTO seen VALUES (?, ?)", [(report, session) for report in reports]
            )

    def sum_for(self, model: str) -> StoredSum | None:
        """Return what was committed or opened for a global model, None when nothing was."""
        row = self._database.execute(
            "SELECT model, binding, session, sites, excluded, share, opened FROM sums WHERE model = ?",
            (model,),
        ).fetchone()
        return None if row is None else _stored(row)

    def last_opened(self) -> StoredSum | None:
        """Return the sum opened last, None before the first."""
        row = self._database.execute(
            "SELECT model, binding, session, sites, excluded, share, opened FROM sums "
            "WHERE opened IS NOT NULL ORDER BY serial DESC LIMIT 1"
        ).fetchone()
        return None if row is None else _stored(row)

    def commit(self, entry: StoredSum) -> None:
        """Note, before anything is opened, the one set and share that this model will ever be opened with.

        Raises sqlite3.IntegrityError when the model has an entry.
        """
        self._database.execute(
            "INSERT INTO sums SELECT ?, ?, ?, ?, ?, ?, NULL, COALESCE(MAX(serial), 0) + 1 FROM sums",
            (
                entry.model,
                entry.binding,
                entry.session,
                json.dumps(entry.sites),
                json.dumps(entry.excluded),
                entry.share.astype("<i8").tobytes(),
            ),
        )

    def withdraw(self, model: str) -> None:
        """Forget a commitment that was never opened: another party never made it, so nothing was shown."""
        self._database.execute("DELETE FROM sums WHERE model = ? AND opened IS NULL", (model,))

    def opened(self, model: str, total: NDArray[np.int64]) -> None:
        """Note the opened sum of a model that was committed to."""
        self._database.execute("UPDATE sums SET opened = ? WHERE model = ?", (total.astype("<i8").tobytes(), model))


def _stored(row: tuple[str, str, str, str, str, bytes, bytes | None]) -> StoredSum:
    model, bound_to, session, sites, excluded, share, opened = row
    return StoredSum(
        model,
        bound_to,
        session,
        tuple(json.loads(sites)),
        tuple(json.loads(excluded)),
        np.frombuffer(share, "<i8").astype(np.int64),
        None if opened is None else np.frombuffer(opened, "<i8").astype(np.int64),
    )
