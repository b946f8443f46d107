"""The private folder of a federation that lives on one machine: everybody's keys and the parties' memories.

In a simulation all actors share a machine and an owner, so their keys stand side by side in one folder that only
the owner can read, outside of the run folder; on real hosts every actor has a key folder of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nescient_fl.mpc.errors import KeyFileError
from nescient_fl.mpc.keys import KEY_FILES, MemberKeys, load_keys, new_keys, public_part
from nescient_fl.mpc.party_store import PartyStore
from nescient_fl.mpc.roster import Roster, read_signed, sign_roster, write_signed

_LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path: the system's own limit is 108, or 104."""
_SHORT_PLACES = (Path("/tmp"), Path("/var/tmp"))
"""For sockets where TMPDIR itself is too long."""


@dataclass(frozen=True)
class Vault:
    """Where the keys of a simulated federation are."""

    folder: Path

    @property
    def roster_path(self) -> Path:
        return self.folder / "roster.json"

    @property
    def _authority(self) -> Path:
        return self.folder / "authority.txt"

    @property
    def authority(self) -> str:
        """The public key, hex, of whoever signs the roster. Raises KeyFileError when the folder is gone."""
        try:
            return self._authority.read_text().strip()
        except OSError as error:
            raise KeyFileError(f"the keys in {self.folder} are gone: {error.strerror}") from None

    def roster(self) -> Roster:
        """Read the roster. Raises RosterError, or KeyFileError when the folder is gone."""
        return read_signed(self.roster_path, self.authority)

    def keys(self, name: str) -> MemberKeys:
        """Read one member's keys. Raises KeyFileError."""
        return load_keys(self.folder / name)

    def store(self, party: str) -> PartyStore:
        """Open one party's memory."""
        return PartyStore(self.folder / party / "memory.sqlite")

    @property
    def _sockets(self) -> Path:
        """Names the folder of the sockets, where they lie elsewhere."""
        return self.folder / "sockets.txt"

    def remove(self) -> None:
        """Delete the folder and the sockets, with every key that was made for it; borrowed ones stay where they are."""
        if self._sockets.exists():
            shutil.rmtree(self._sockets.read_text(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def create_vault(folder: Path, federation: str, sites: Sequence[str], parties: int, minimum: int) -> Vault:
    """Make new keys for every site, for ``parties`` compute parties and a dealer, and the roster of them.

    Raises FileExistsError when the folder is there, RosterError for names or a minimum that cannot be, KeyFileError
    when the paths here are too long for sockets.
    """
    folder.mkdir(parents=True, mode=0o700)
    vault = Vault(folder)
    try:
        sockets = _place_for_sockets(folder)
    except KeyFileError:
        folder.rmdir()
        raise
    if sockets != folder:
        vault._sockets.write_text(str(sockets))
    members = [public_part(new_keys(folder / name, name, "site")) for name in sites]
    helpers = [(f"party-{index + 1}", "party") for index in range(parties)] + [("dealer", "dealer")]
    for name, role in helpers:
        address = f"unix:{sockets / name}.socket"
        members.append(public_part(new_keys(folder / name, name, role), address))
    authority = new_keys(folder / "authority", "authority", "authority")
    roster = Roster(federation, 1, tuple(members), minimum)
    write_signed(sign_roster(roster, authority), vault.roster_path)
    vault._authority.write_text(public_part(authority).signing_key + "\n")
    return vault


def borrow_vault(folder: Path, roster: Path, authority: str, keys: Mapping[str, Path]) -> Vault:
    """Make the folder for keys and a signed roster that exist elsewhere: nothing but links to them.

    ``keys`` has each member's folder of keys by its name. What a party must not forget is written beside the links,
    and removing the folder leaves keys and roster as they are. Raises FileExistsError when the folder is there.
    """
    folder.mkdir(parents=True, mode=0o700)
    vault = Vault(folder)
    vault.roster_path.symlink_to(roster.resolve())
    vault._authority.write_text(authority + "\n")
    for name, home in keys.items():
        own = folder / name
        own.mkdir(mode=0o700)
        for path in (home / file for file in KEY_FILES):
            if path.exists():
                (own / path.name).symlink_to(path.resolve())
    return vault


def _place_for_sockets(folder: Path) -> Path:
    """Return a folder for sockets: the given one, or a new temporary one where its path is too long."""
    if _fits(folder):
        return folder
    for place in (Path(tempfile.gettempdir()), *_SHORT_PLACES):
        if _fits(place / "nescient-12345678") and os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="nescient-", dir=place))
    raise KeyFileError(f"{tempfile.gettempdir()} is too long a path for sockets: set TMPDIR to a shorter one")


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / "party-9.socket")) <= _LONGEST_SOCKET
