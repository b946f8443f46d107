"""A federation whose keys, certificates and roster exist already, for a deployment on this machine to use.

They lie in one folder, the roster's, named as docs/deploy.md names them: ``authority.member.json``, for each
member ``NAME.keys``, ``NAME.node-key`` and ``NAME.node.json``, and the link's certificate in ``link``. All of it is
only read; actors get links to it.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nescient_fl.deployment.certificates import ServerCertificate
from nescient_fl.deployment.node_keys import NodeBinding, check_binding, read_binding, read_node_key
from nescient_fl.errors import UserError, UserErrors
from nescient_fl.mpc.ceremony import authority_key
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.keys import load_keys, public_part
from nescient_fl.mpc.roster import Member, Roster, read_signed
from nescient_fl.mpc.vault import borrow_vault
from nescient_fl.study.run_folder import RunFolder, read_json

LINK_HOST = "127.0.0.1"
"""Where the link of a deployment on one machine listens; its certificate must name it."""
_LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path: the system's own limit is 108, or 104."""


@dataclass(frozen=True)
class GivenFederation:
    """What ``--roster`` names, all of it seen to be there and to fit when it was read.

    Attributes:
        path: the signed roster.
        roster: what it says.
        authority: public key, hex, of whoever signs it.
    """

    path: Path
    roster: Roster
    authority: str

    @property
    def place(self) -> Path:
        """The folder of all of it."""
        return self.path.parent

    @property
    def members(self) -> tuple[Member, ...]:
        """The members that a deployment starts; a roster may have others, for encrypted inference."""
        return self.roster.training

    @property
    def link(self) -> ServerCertificate:
        """The link's certificate, its key, and the authority that they are from."""
        return _link(self.place)

    def node_key(self, name: str) -> Path:
        return self.place / f"{name}.node-key"

    def binding(self, name: str) -> NodeBinding:
        return read_binding(self.place / f"{name}.node.json")

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the study's options that the roster decides. Raises UserErrors when others were given."""
        decided = {"clients": len(self.roster.sites), "parties": len(self.roster.parties)}
        wrong = [
            f"--{name} {given[name]}: the roster {self.path} has {count}; leave --{name} away, or take another roster"
            for name, count in decided.items()
            if given.get(name) not in (None, count)
        ]
        if given.get("aggregation") == "plain":
            wrong.append("--aggregation plain uses no roster: leave --roster or --aggregation away")
        if wrong:
            raise UserErrors(wrong)
        return decided

    def check(self, sites: Sequence[str], minimum: int) -> None:
        """Raise UserErrors unless the roster has these sites, and opens a sum of as few as ``minimum``."""
        wrong = []
        known = {site.name for site in self.roster.sites}
        if lacking := sorted(set(sites) - known):
            others = sorted(known - set(sites))
            wrong.append(
                f"the roster {self.path} has no site {', '.join(lacking)}: the study's hospitals are "
                f"{', '.join(sorted(sites))}, and the roster's {', '.join(others)} would have no radiographs; sign a "
                "roster of these names, or choose another --partition"
            )
        if minimum < self.roster.minimum_sites:
            wrong.append(
                f"--min-sites {minimum}: by the roster {self.path} no sum is of fewer than "
                f"{self.roster.minimum_sites} hospitals"
            )
        if wrong:
            raise UserErrors(wrong)

    def make_vault(self, folder: Path) -> None:
        """Make a run's private folder, of links to the members' keys and the roster."""
        keys = {member.name: _keys_folder(self.place, member) for member in self.members}
        borrow_vault(folder, self.path, self.authority, keys)


@contextmanager
def held_roster(run: RunFolder) -> Iterator[None]:
    """Keep the roster that a run was given to this process; nothing is held for a run that has made its own.

    Parties and dealer would be in each other's way at the roster's addresses. Raises UserError when another process
    has it.
    """
    given = (read_json(run.config).get("secure") or {}).get("given")
    with nullcontext() if given is None else _held(Path(given)):
        yield


@contextmanager
def _held(roster: Path) -> Iterator[None]:
    # The kernel's lock ends with the process, and writes nothing.
    with roster.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another deployment uses the roster {roster} now: wait for its end") from None
        yield


def read_given(place: Path) -> GivenFederation:
    """Read what belongs to a roster's file, or to the ``roster.json`` of a folder, and check all of it.

    Raises UserErrors with a line for each thing that is missing, open to others, or does not fit.
    """
    path = (place / "roster.json" if place.is_dir() else place).resolve()
    trusted = path.parent / "authority.member.json"
    try:
        authority = authority_key(str(trusted))
        given = GivenFederation(path, read_signed(path, authority), authority)
    except MpcError as error:
        raise UserError(f"--roster {place}: {error}") from None
    if not given.roster.sites:
        raise UserError(f"--roster {place}: the roster has no sites: it is for encrypted inference alone")
    wrong: list[str] = []
    for member in given.members:
        for look in (_check_keys, _check_node):
            with _noting(wrong, member.name):
                look(given, member)
    with _noting(wrong, "the link"):
        _check_link(given.link)
    wrong += _unusable_addresses(given.roster)
    if wrong:
        raise UserErrors([f"--roster {place}: {problem}" for problem in wrong])
    return given


@contextmanager
def _noting(wrong: list[str], whose: str) -> Iterator[None]:
    """Add what goes wrong to a list, with whose it is."""
    try:
        yield
    except (UserError, MpcError) as error:
        wrong.append(f"{whose}: {error}")


def _keys_folder(place: Path, member: Member) -> Path:
    return place / f"{member.name}.keys"


def _check_keys(given: GivenFederation, member: Member) -> None:
    folder = _keys_folder(given.place, member)
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: `nescient roster keys` makes it, or copy it there")
    keys = load_keys(folder)
    if (keys.name, keys.role) != (member.name, member.role):
        raise UserError(
            f"the keys in {folder} are those of {keys.role} {keys.name}, not of {member.role} {member.name}"
        )
    if public_part(keys, member.address) != member:
        raise UserError(f"the roster has other keys than {folder}: sign a roster of these")


def _check_node(given: GivenFederation, member: Member) -> None:
    key = read_node_key(given.node_key(member.name))
    binding = given.binding(member.name)
    if (binding.name, binding.role) != (member.name, member.role):
        raise UserError(
            f"{given.place / member.name}.node.json is the node file of {binding.role} {binding.name}, "
            f"not of {member.role} {member.name}"
        )
    check_binding(binding, given.roster)
    if binding.node_key != key:
        raise UserError(f"{given.node_key(member.name)} is another key than that of {member.name}.node.json")


def _link(place: Path) -> ServerCertificate:
    folder = place / "link"
    return ServerCertificate(folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")


def _check_link(link: ServerCertificate) -> None:
    again = f"`nescient federation certificate CA --host {LINK_HOST} --out {link.certificate.parent}` makes one"
    authority = _read(link.authority, x509.load_pem_x509_certificate, again)
    own = _read(link.certificate, x509.load_pem_x509_certificate, again)
    key = _read(link.key, lambda data: load_pem_private_key(data, password=None), again)
    if stat.S_IMODE(link.key.stat().st_mode) & 0o077:
        raise UserError(f"{link.key} can be read by others: run chmod 600 on it, and think of the key as lost")
    if key.public_key() != own.public_key():
        raise UserError(f"{link.key} is not the key of {link.certificate}: {again}")
    try:
        own.verify_directly_issued_by(authority)
    except Exception:  # several kinds, one meaning
        raise UserError(f"{link.certificate} is not from {link.authority}: {again}") from None
    for certificate, path in ((own, link.certificate), (authority, link.authority)):
        if certificate.not_valid_after_utc.timestamp() <= time.time():
            raise UserError(f"{path} expired on {certificate.not_valid_after_utc:%d %B %Y}: {again}")
        if certificate.not_valid_before_utc.timestamp() > time.time():
            raise UserError(f"{path} counts only from {certificate.not_valid_before_utc:%d %B %Y}: set the clock")
    if LINK_HOST not in (names := _names(own)):
        raise UserError(
            f"{link.certificate} is for {', '.join(names) or 'no host'}, and the link of a deployment is at "
            f"{LINK_HOST}: {again}"
        )


def _read(path: Path, parse: Callable[[bytes], Any], again: str) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: {again}") from None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found if isinstance(name, x509.IPAddress | x509.DNSName)]


def _unusable_addresses(roster: Roster) -> list[str]:
    """Say of every member that listens why it could not do so on this machine now."""
    # The last party connects to the others and listens to nobody.
    listening = [*roster.parties[:-1], roster.dealer]
    wrong = []
    for member in listening:
        try:
            _try_listening(member.address or "")
        except OSError as error:
            wrong.append(f"{member.name}: its address {member.address} {_words(error)}; give it another in the roster")
    for address, times in Counter(member.address for member in listening).items():
        if times > 1:
            names = " and ".join(member.name for member in listening if member.address == address)
            wrong.append(f"{names} have the same address {address}")
    return wrong


def _try_listening(address: str) -> None:
    """Take an address for a moment. Raises OSError where a member could not."""
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
        return
    path = Path(address.removeprefix("unix:"))
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OSError(errno.ENOENT, "in no folder that can be written")
    if not path.exists():
        return
    if not path.is_socket():  # whoever listens there would delete it
        raise OSError(errno.EEXIST, "a file of something else is there")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left by a process that is gone
    raise OSError(errno.EADDRINUSE, "")


def _words(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "is none of this machine's"
    if error.errno == errno.EADDRINUSE:
        return "is taken by another process"
    return f"cannot be used ({(error.strerror or type(error).__name__).lower()})"


def study_members(
    roster: Path | None, resume: Path | None, options: Mapping[str, Any]
) -> tuple[GivenFederation | None, dict[str, Any]]:
    """Return the given federation of a study, new or resumed, and the options that it decides; None when it has none.

    Raises UserError when ``roster`` cannot be used, is used by another deployment, does not go with the options that
    were given, or was named for a run that was begun before.
    """
    if resume is not None:
        if roster is not None:
            raise UserError("--resume goes on with the roster that the run was begun with: leave --roster away")
        saved = read_json(RunFolder.open(resume).config)
        secure = saved.get("secure") if isinstance(saved, dict) else None
        place = secure.get("given") if isinstance(secure, dict) else None
        if place is None:
            return None, {}
        given, decided = read_given(Path(place)), {}
    elif roster is None:
        return None, {}
    else:
        given = read_given(roster)
        decided = given.options(options)
    with _held(given.path):  # told now, before the radiographs are decoded; held while the actors run
        return given, decided
