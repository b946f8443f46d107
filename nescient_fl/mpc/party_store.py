"""What a party must not forget, whatever happens to its process: reports it saw, sums it opened.

SQLite with full synchronisation: a statement that returned survives a crash of the machine. Every step of a sum is
one conditional statement, so that two processes of one party, one of them late, cannot both take it.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import SessionAborted

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (report TEXT PRIMARY KEY, session TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sums (
    model TEXT PRIMARY KEY, binding TEXT NOT NULL, session TEXT NOT NULL, reports TEXT NOT NULL,
    sites TEXT NOT NULL, excluded TEXT NOT NULL, share BLOB NOT NULL, released INTEGER NOT NULL DEFAULT 0,
    opened BLOB, serial INTEGER NOT NULL
);
"""
KEPT_SUMS = 100
"""The last sums whose words are kept, so that a coordinator that goes on from an older copy of a run gets them again;
of earlier ones it is remembered for ever that they were opened, and with whom. With the default network 1.6 MB each."""

_COLUMNS = "model, binding, session, reports, sites, excluded, share, released, opened"


@dataclass(frozen=True)
class StoredSum:
    """One sum: committed to, then released, when the share may be given away, then opened.

    ``reports`` digests the reports that the sum is of. share and opened are int64 [dimension]: this party's share
    of the sum, noise included, and the sum, None before it was opened here. Of a sum that is older than
    ``KEPT_SUMS`` others neither is left.
    """

    model: str
    binding: str
    session: str
    reports: str
    sites: tuple[str, ...]
    excluded: tuple[str, ...]
    share: NDArray[np.int64]
    released: bool = False
    opened: NDArray[np.int64] | None = None

    @property
    def kept(self) -> bool:
        """Whether the share is still here, so that the sum can be told again."""
        return len(self.share) > 0


class PartyStore:
    """One party's memory, a file that only its owner can read; ``kept_sums`` bounds how it grows."""

    def __init__(self, path: Path, kept_sums: int = KEPT_SUMS) -> None:
        self._kept_sums = kept_sums
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
        row = self._database.execute(f"SELECT {_COLUMNS} FROM sums WHERE model = ?", (model,)).fetchone()
        return None if row is None else _stored(row)

    def last_opened(self) -> StoredSum | None:
        """Return the last sum whose share left this party, so that others may have opened it; None before it."""
        row = self._database.execute(
            f"SELECT {_COLUMNS} FROM sums WHERE released ORDER BY serial DESC LIMIT 1"
        ).fetchone()
        return None if row is None else _stored(row)

    def commit(self, entry: StoredSum) -> None:
        """Note, before anything is opened, the one set and share that this model will ever be opened with.

        Raises SessionAborted when the model has an entry: another session was quicker.
        """
        try:
            self._database.execute(
                "INSERT INTO sums SELECT ?, ?, ?, ?, ?, ?, ?, 0, NULL, COALESCE(MAX(serial), 0) + 1 FROM sums",
                (
                    entry.model,
                    entry.binding,
                    entry.session,
                    entry.reports,
                    json.dumps(entry.sites),
                    json.dumps(entry.excluded),
                    entry.share.astype("<i8").tobytes(),
                ),
            )
        except sqlite3.IntegrityError:
            raise SessionAborted("another session committed to a sum for this model meanwhile") from None

    def withdraw(self, entry: StoredSum) -> None:
        """Forget a commitment whose share never left this party, so that it can never be opened.

        Raises SessionAborted when it was released or withdrawn meanwhile.
        """
        self._one(
            "DELETE FROM sums WHERE model = ? AND session = ? AND reports = ? AND NOT released",
            (entry.model, entry.session, entry.reports),
        )

    def release(self, entry: StoredSum) -> None:
        """Note, before the share leaves this party, that it does: from here on this sum is the model's for good.

        Raises SessionAborted when the commitment was withdrawn meanwhile.
        """
        self._one(
            "UPDATE sums SET released = 1 WHERE model = ? AND session = ? AND reports = ?",
            (entry.model, entry.session, entry.reports),
        )

    def opened(self, entry: StoredSum, total: NDArray[np.int64]) -> None:
        """Note the opened sum of a commitment that was released, and let go of the words of what is too old."""
        self._one(
            "UPDATE sums SET opened = ? WHERE model = ? AND session = ? AND released",
            (total.astype("<i8").tobytes(), entry.model, entry.session),
        )
        self._database.execute(
            "UPDATE sums SET share = x'', opened = NULL WHERE released AND length(share) > 0 "
            "AND serial <= (SELECT MAX(serial) FROM sums) - ?",
            (self._kept_sums,),
        )

    def _one(self, statement: str, values: tuple[str | bytes, ...]) -> None:
        if self._database.execute(statement, values).rowcount != 1:
            raise SessionAborted("another session changed this party's memory of the sum meanwhile")


def _stored(row: tuple[str, str, str, str, str, str, bytes, int, bytes | None]) -> StoredSum:
    model, bound_to, session, reports, sites, excluded, share, released, opened = row
    return StoredSum(
        model,
        bound_to,
        session,
        reports,
        tuple(json.loads(sites)),
        tuple(json.loads(excluded)),
        np.frombuffer(share, "<i8").astype(np.int64),
        bool(released),
        None if opened is None else np.frombuffer(opened, "<i8").astype(np.int64),
    )
