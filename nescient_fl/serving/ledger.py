"""How many images each clinic has had scored: the model owner's guard against a model being copied by its answers.

(Tramer et al., "Stealing Machine Learning Models via Prediction APIs", USENIX Security 2016: enough answers give a
model away.) SQLite with full synchronisation: what was charged stays charged, whatever happens to the process.
"""

import sqlite3
from pathlib import Path

from nescient_fl.mpc.errors import QueryLimitError

_SCHEMA = "CREATE TABLE IF NOT EXISTS used (clinic TEXT PRIMARY KEY, images INTEGER NOT NULL)"


class QueryLedger:
    """The count of every clinic, against one limit for each."""

    def __init__(self, path: Path, limit: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(_SCHEMA)
        self.limit = limit

    def close(self) -> None:
        self._database.close()

    def used(self, clinic: str) -> int:
        """Return the images that were charged to a clinic."""
        row = self._database.execute("SELECT images FROM used WHERE clinic = ?", (clinic,)).fetchone()
        return int(row[0]) if row else 0

    def left(self, clinic: str) -> int:
        return max(self.limit - self.used(clinic), 0)

    def charge(self, clinic: str, images: int) -> None:
        """Charge images to a clinic before they are scored: what fails after that may have been learned in part.

        Raises QueryLimitError, and charges nothing, when the limit would be passed.
        """
        statement = (
            "INSERT INTO used VALUES (?1, ?2) "
            "ON CONFLICT (clinic) DO UPDATE SET images = images + ?2 WHERE images + ?2 <= ?3"
        )
        changed = 0
        if images <= self.limit:
            changed = self._database.execute(statement, (clinic, images, self.limit)).rowcount
        if changed != 1:
            raise QueryLimitError(f"{images} images are asked for, {self.left(clinic)} are left of {self.limit}")
