"""How a roster comes about: members make keys at home and send a public file; the authority gathers and signs.

A member file carries the member's own signature over all of it, so that comparing one fingerprint over another
channel (a call, a letter) settles the signing key, and with it the sealing key, the certificate and the address.
No private key leaves the folder that it was made in, and no file is ever written over, but for a draft.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature

from nescient_fl.mpc.errors import RosterError, UnknownMemberError
from nescient_fl.mpc.keys import MemberKeys, load_keys, new_keys, public_part
from nescient_fl.mpc.roster import (
    AUTHORITY,
    LISTENING,
    ROLES,
    Member,
    Roster,
    check_address,
    check_name,
    default_minimum,
    member_from,
    read_object,
    read_signed,
    roster_from,
    sign_roster,
    write_new,
    write_signed,
)

MEMBER_SUFFIX = ".member.json"
UNSET_MINIMUM = 0
"""In a draft: the usual minimum for as many sites as there are when it is signed."""

_MEMBER_DOMAIN = b"nescient/member/1\x1f"


@dataclass(frozen=True)
class RosterFile:
    """What a roster's file says.

    Attributes:
        roster: it.
        authority: public key, hex, that its signature is good under; None for a draft.
    """

    roster: Roster
    authority: str | None


def make_member(name: str, role: str, folder: Path, address: str | None, public: Path) -> Member:
    """Make keys in a new folder, and the public member file to send to the authority.

    Raises RosterError or KeyFileError, before anything is written, when a name, role or address cannot be or
    something is in the way.
    """
    check_name(name)
    if role not in ROLES:
        raise RosterError(f"a role is one of {', '.join(ROLES)}, got {role!r}")
    _check_address(name, role, address)
    for path in (folder, public):
        if path.exists():
            raise RosterError(f"{path} is there already: nothing is overwritten, choose another place")
    if folder.absolute() in public.absolute().parents:
        raise RosterError(f"{public} is inside of the folder of private keys, of which nothing is ever sent")
    if not (public.parent.is_dir() or public.absolute().parent in folder.absolute().parents):
        raise RosterError(f"{public.parent} is no folder")
    keys = new_keys(folder, name, role)
    return write_member(keys, address, public)


def write_member(keys: MemberKeys, address: str | None, path: Path) -> Member:
    """Write the public file of keys that exist. Raises RosterError."""
    _check_address(keys.name, keys.role, address)
    member = public_part(keys, address)
    signature = keys.signing.sign(_member_bytes(member)).hex()
    write_new(path, {"member": asdict(member), "signature": signature})
    return member


def read_member(path: Path) -> Member:
    """Read a member file and check that its owner signed exactly that. Raises RosterError."""
    values = read_object(path)
    if set(values) != {"member", "signature"}:
        raise RosterError(f"{path} is no member file: `nescient roster keys` writes one")
    member = member_from(values["member"])
    try:
        member.signing_public.verify(bytes.fromhex(str(values["signature"])), _member_bytes(member))
    except (InvalidSignature, ValueError):
        raise RosterError(f"{path} was changed on its way: its own signature does not fit, ask for it again") from None
    return member


def start_draft(federation: str, path: Path) -> Roster:
    """Begin an empty roster. Raises RosterError."""
    roster = Roster(federation, 1, (), UNSET_MINIMUM)
    write_new(path, asdict(roster))
    return roster


def revise(signed: Path, path: Path) -> Roster:
    """Begin a draft from a signed roster, its serial number one higher. Raises RosterError."""
    found = read_file(signed)
    if found.authority is None:
        raise RosterError(f"{signed} is a draft: change it as it is")
    roster = replace(found.roster, serial=found.roster.serial + 1)
    write_new(path, asdict(roster))
    return roster


def read_file(path: Path) -> RosterFile:
    """Read a draft, or a roster that is signed well by whoever; is it the right authority is for others to ask.

    Raises RosterError when it is damaged or its signature does not fit.
    """
    values = read_object(path)
    if "signature" not in values:
        return RosterFile(roster_from(values), None)
    authority = str(values.get("authority", ""))
    return RosterFile(read_signed(path, authority), authority)


def add_member(path: Path, member: Member, spoken: str | None = None) -> Roster:
    """Add a member to a draft; ``spoken`` is the fingerprint that its owner read out, if it was.

    Raises RosterError for an authority, a fingerprint that differs, or a name or key that is taken.
    """
    if member.role == AUTHORITY:
        raise RosterError(f"{member.name} is an authority: it signs the roster and is no member of it")
    if spoken is not None and _plain(spoken) != _plain(member.fingerprint):
        raise RosterError(
            f"{member.name}'s fingerprint is {member.fingerprint}, not {spoken}: this is another key, add nothing"
        )
    roster = _draft(path)
    if any(other.name == member.name for other in roster.members):
        raise RosterError(f"{member.name} is in the roster already: remove it first, to put another in its place")
    return _rewrite(path, replace(roster, members=(*roster.members, member)))


def remove_member(path: Path, name: str) -> Roster:
    """Take a member out of a draft. Raises UnknownMemberError when nobody has that name."""
    roster = _draft(path)
    left = tuple(member for member in roster.members if member.name != name)
    if len(left) == len(roster.members):
        raise UnknownMemberError(f"the roster has no {name!r}")
    return _rewrite(path, replace(roster, members=left))


def set_minimum(path: Path, sites: int) -> Roster:
    """Set a draft's fewest sites in a sum. Raises RosterError below 2: one site's sum is that site's update."""
    if sites < 2:
        raise RosterError(f"the fewest sites in a sum are 2 or more, got {sites}: one site's sum is its update")
    return _rewrite(path, replace(_draft(path), minimum_sites=sites))


def sign_draft(path: Path, authority: Path, out: Path) -> Roster:
    """Sign a complete draft with the authority's keys, into a new file. Raises RosterError, KeyFileError."""
    roster = _draft(path)
    if roster.minimum_sites == UNSET_MINIMUM:
        roster = replace(roster, minimum_sites=default_minimum(len(roster.sites)))
    write_signed(sign_roster(roster, load_keys(authority)), out)
    return roster


def authority_key(text: str) -> str:
    """Return an authority's public key, hex, given as that or as the path of its member file. Raises RosterError."""
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text
    member = read_member(Path(text))
    if member.role != AUTHORITY:
        raise RosterError(f"{text} is the file of a {member.role}, not of an authority")
    return member.signing_key


def verify_file(path: Path, authority: str, keys: Path | None = None, after: Path | None = None) -> Roster:
    """Check a roster before it is put to use: who signed it, that one is in it, that it is newer than the last.

    Raises RosterError, KeyFileError, or UnknownMemberError.
    """
    roster = read_signed(path, authority)
    if keys is not None:
        _check_own(roster, load_keys(keys))
    if after is not None:
        last = read_signed(after, authority)
        if (roster.federation, roster.serial > last.serial) != (last.federation, True):
            raise RosterError(
                f"{path} is {roster.federation} {roster.serial}, no successor of {last.federation} {last.serial}: "
                "an older roster may name members that were removed"
            )
    return roster


def missing_from(roster: Roster) -> str | None:
    """Say what a draft lacks before it can be signed, None when nothing."""
    if roster.minimum_sites == UNSET_MINIMUM:
        roster = replace(roster, minimum_sites=default_minimum(len(roster.sites)))
    try:
        roster.check_complete()
    except RosterError as error:
        return str(error)
    return None


def _check_own(roster: Roster, keys: MemberKeys) -> None:
    member = roster.member(keys.name, keys.role)
    if member != public_part(keys, member.address):
        raise RosterError(
            f"the roster has other keys for {keys.name} than {keys.folder}: ask its authority for a new one"
        )


def _check_address(name: str, role: str, address: str | None) -> None:
    if role in LISTENING and address is None:
        raise RosterError(f"{name}: the others must find a {role}: give --address host:port")
    if role not in LISTENING and address is not None:
        raise RosterError(f"{name}: nobody connects to a {role}: leave --address out")
    if address is not None:
        check_address(name, address)


def _draft(path: Path) -> Roster:
    found = read_file(path)
    if found.authority is not None:
        raise RosterError(f"{path} is signed and stays as it is: `nescient roster revise` makes a draft of it")
    return found.roster


def _rewrite(path: Path, roster: Roster) -> Roster:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_new(beside, asdict(roster))
    beside.replace(path)
    return roster


def _member_bytes(member: Member) -> bytes:
    return _MEMBER_DOMAIN + json.dumps(asdict(member), sort_keys=True, separators=(",", ":")).encode()


def _plain(spoken: str) -> str:
    return spoken.replace("-", "").replace(" ", "").lower()
