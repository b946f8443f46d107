"""The roster: the signed list of who takes part, in which role, with which keys, and where.

Whoever trusts the authority's one public key can check everybody else's. The relay never signs anything and
so cannot invent a site.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nescient_fl.mpc.errors import RosterError, UnknownMemberError

if TYPE_CHECKING:
    from nescient_fl.mpc.keys import MemberKeys

SITE, PARTY, DEALER, AUTHORITY = "site", "party", "dealer", "authority"
OWNER, CLINIC = "owner", "clinic"
"""Of encrypted inference: who owns a model and serves it, and who has images scored by it."""
ROLES = (SITE, PARTY, DEALER, OWNER, CLINIC, AUTHORITY)
CERTIFIED = (PARTY, DEALER, OWNER, CLINIC)
"""Who talks over TLS and has a certificate for it."""
LISTENING = (PARTY, DEALER, OWNER)
"""Who is connected to, and has an address."""

LARGEST_FILE = 8 * 2**20
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_ADDRESS = re.compile(r"unix:/[^\0]+|(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")
_DOMAIN = b"nescient/roster/1\x1f"


def check_name(name: str) -> None:
    """Raise RosterError for a name that is not 1 to 40 of a-z, 0-9 and -, the first no -."""
    if not _NAME.fullmatch(name):
        raise RosterError(f"a member's name is 1 to 40 of a-z, 0-9 and -, got {name!r}")


def check_address(name: str, address: str) -> None:
    """Raise RosterError for an address that is not host:port, [IPv6]:port or unix:/path."""
    good = _ADDRESS.fullmatch(address)
    if not good or (good[1] is not None and not 0 < int(good[1]) < 2**16):
        raise RosterError(f"{name}: an address is host:port or unix:/path, got {address!r}")


def default_minimum(sites: int) -> int:
    """Return the fewest sites in a sum for a federation of so many: four fifths, and three at least."""
    return max(3, math.ceil(0.8 * sites))


def fingerprint(signing_key: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of a public key, given in hex, in fours, to be read aloud.

    128 bits: nobody can find another key that sounds the same.
    """
    digits = sha256(bytes.fromhex(signing_key)).hexdigest()[:32]
    return "-".join(digits[start : start + 4] for start in range(0, 32, 4))


@dataclass(frozen=True)
class Member:
    """One member's public part; keys as hex of 32 bytes, the certificate as PEM.

    Raises RosterError for keys or a certificate that are damaged, do not fit each other, or miss for the role.
    """

    name: str
    role: str
    signing_key: str
    sealing_key: str | None = None
    address: str | None = None
    certificate: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and (value is not None or field.name in ("name", "role", "signing_key")):
                raise RosterError(f"a member's {field.name} is a text")
        check_name(self.name)
        if self.role not in ROLES:
            raise RosterError(f"{self.name}: a role is one of {', '.join(ROLES)}, got {self.role!r}")
        _key_bytes(self.name, self.signing_key)
        if (self.role == PARTY) != (self.sealing_key is not None):
            raise RosterError(f"{self.name}: parties, and only they, have a sealing key")
        if self.sealing_key is not None:
            _key_bytes(self.name, self.sealing_key)
        if (self.role in CERTIFIED) != (self.certificate is not None):
            raise RosterError(f"{self.name}: of the roles, {', '.join(CERTIFIED)} have a certificate, the others none")
        if self.address is not None:
            check_address(self.name, self.address)
        if self.certificate is not None and _certified_key(self.name, self.certificate) != self.signing_key:
            raise RosterError(f"{self.name}: the certificate is not that of its signing key")

    @property
    def signing_public(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signing_key))

    @property
    def sealing_public(self) -> X25519PublicKey:
        if self.sealing_key is None:
            raise UnknownMemberError(f"nothing can be sealed to {self.name}")
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.sealing_key))

    @property
    def fingerprint(self) -> str:
        """What is read aloud of the signing key, see ``fingerprint``."""
        return fingerprint(self.signing_key)


@dataclass(frozen=True)
class Roster:
    """Who takes part. Members are kept in the order of role and name.

    Attributes:
        federation: its name.
        serial: counts up with every change.
        minimum_sites: fewest sites in a sum that any party opens.
    """

    federation: str
    serial: int
    members: tuple[Member, ...]
    minimum_sites: int

    def __post_init__(self) -> None:
        check_name(self.federation)
        if type(self.serial) is not int or self.serial < 1 or type(self.minimum_sites) is not int:
            raise RosterError("the serial number and the fewest sites are whole numbers from 1")
        order = {role: index for index, role in enumerate(ROLES)}
        ordered = tuple(sorted(self.members, key=lambda member: (order[member.role], member.name)))
        object.__setattr__(self, "members", ordered)
        for what, values in (
            ("name", [member.name for member in self.members]),
            ("signing key", [member.signing_key for member in self.members]),
            ("sealing key", [member.sealing_key for member in self.members if member.sealing_key]),
        ):
            if len(set(values)) < len(values):
                raise RosterError(f"two members have the same {what}")

    def check_complete(self) -> "Roster":
        """Return the roster if what it is for can run with it, else raise RosterError saying what is missing.

        With model owners it serves encrypted inference, with sites or parties a federation, with both it does both.
        """
        federation = not self.owners or bool(self.parties or self.sites)
        if federation and len(self.parties) < 2:
            raise RosterError(f"two compute parties are needed, the roster has {len(self.parties)}")
        dealers = [member for member in self.members if member.role == DEALER]
        if len(dealers) != 1:
            raise RosterError(f"one dealer is needed, the roster has {len(dealers)}")
        if lacking := [member.name for member in self.members if member.role in LISTENING and member.address is None]:
            raise RosterError(f"{lacking[0]} needs an address: the others connect to it")
        if any(member.role == AUTHORITY for member in self.members):
            raise RosterError("the authority signs the roster and is no member of it")
        if bool(self.owners) != bool(self.clinics):
            raise RosterError("a model owner and a clinic are needed together")
        if federation:
            self._check_minimum()
        return self

    def _check_minimum(self) -> None:
        if self.minimum_sites < 2:
            raise RosterError(
                f"the fewest sites in a sum must be 2 or more, got {self.minimum_sites}: one site's sum is its update"
            )
        if len(self.sites) < self.minimum_sites:
            raise RosterError(f"{self.minimum_sites} sites are needed in a sum, the roster has {len(self.sites)}")

    @property
    def sites(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == SITE)

    @property
    def parties(self) -> tuple[Member, ...]:
        """The compute parties in rank order."""
        return tuple(member for member in self.members if member.role == PARTY)

    @property
    def owners(self) -> tuple[Member, ...]:
        """The model owners of encrypted inference."""
        return tuple(member for member in self.members if member.role == OWNER)

    @property
    def clinics(self) -> tuple[Member, ...]:
        """Whose images are scored under encryption."""
        return tuple(member for member in self.members if member.role == CLINIC)

    @property
    def training(self) -> tuple[Member, ...]:
        """Who takes part in training: sites, parties and the dealer."""
        return (*self.sites, *self.parties, self.dealer)

    @property
    def dealer(self) -> Member:
        return next(member for member in self.members if member.role == DEALER)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical bytes; computed once, since every report is compared with it."""
        return sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the canonical form: JSON, keys sorted, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def member(self, name: str, role: str) -> Member:
        """Return a member. Raises UnknownMemberError when nobody of that name has that role."""
        for member in self.members:
            if member.name == name and member.role == role:
                return member
        raise UnknownMemberError(f"the roster has no {role} {name!r}")

    def signing_public(self, name: str, role: str) -> Ed25519PublicKey:
        return self.member(name, role).signing_public


@dataclass(frozen=True)
class SignedRoster:
    """A roster with the authority's public key and its Ed25519 signature (RFC 8032), both in hex."""

    roster: Roster
    authority: str
    signature: str


def sign_roster(roster: Roster, authority: "MemberKeys") -> SignedRoster:
    """Sign a complete roster. Raises RosterError when it is not complete or the keys are not an authority's."""
    if authority.role != AUTHORITY:
        raise RosterError(f"{authority.name} is a {authority.role}: an authority signs rosters")
    roster.check_complete()
    public = authority.signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return SignedRoster(roster, public, authority.signing.sign(_DOMAIN + roster.to_bytes()).hex())


def write_signed(signed: SignedRoster, path: Path) -> None:
    """Write a signed roster as JSON, into a new file. Raises RosterError."""
    write_new(path, {"roster": asdict(signed.roster), "authority": signed.authority, "signature": signed.signature})


def read_signed(path: Path, authority: str) -> Roster:
    """Read a roster and check that the authority of this public key, hex, signed exactly that.

    Raises RosterError when it is missing, damaged, incomplete, or signed by somebody else.
    """
    values = read_object(path)
    if set(values) != {"roster", "authority", "signature"}:
        raise RosterError(f"{path} is no signed roster: sign it with `nescient roster sign`")
    if values["authority"] != authority:
        raise RosterError(f"{path} is signed by another authority than the one this member trusts")
    roster = roster_from(values["roster"])
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(authority))
        public.verify(bytes.fromhex(str(values["signature"])), _DOMAIN + roster.to_bytes())
    except (InvalidSignature, ValueError):
        raise RosterError(f"{path}: the authority's signature does not fit: the roster was changed") from None
    return roster.check_complete()


def roster_from(values: Any) -> Roster:
    """Make a roster of JSON values. Raises RosterError for anything unknown, missing or of another type."""
    known = {field.name for field in fields(Roster)}
    if not isinstance(values, Mapping) or set(values) != known or not isinstance(values["members"], list):
        raise RosterError(f"a roster has {', '.join(sorted(known))}, and nothing else")
    return Roster(
        values["federation"] if isinstance(values["federation"], str) else "",
        values["serial"],
        tuple(member_from(member) for member in values["members"]),
        values["minimum_sites"],
    )


def member_from(values: Any) -> Member:
    """Make a member of JSON values. Raises RosterError."""
    known = {field.name for field in fields(Member)}
    if not isinstance(values, Mapping) or set(values) != known:
        raise RosterError(f"a member has {', '.join(sorted(known))}, and nothing else")
    return Member(**values)


def write_new(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON into a file that is not there yet. Raises RosterError."""
    try:
        with path.open("x") as file:
            file.write(json.dumps(values, sort_keys=True, indent=1) + "\n")
    except FileExistsError:
        raise RosterError(f"{path} is there already: nothing is overwritten, choose another name") from None
    except OSError as error:
        raise RosterError(f"{path} cannot be written: {error.strerror}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of unknown origin. Raises RosterError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RosterError(f"{path} is too large for a roster")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise RosterError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RosterError(f"{path} is damaged: it is no JSON") from None
    if not isinstance(values, dict):
        raise RosterError(f"{path} is neither a roster nor a member file")
    return values


def _key_bytes(name: str, text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise RosterError(f"{name}: a public key is 64 lower-case hex digits")
    return bytes.fromhex(text)


def _certified_key(name: str, pem: str) -> str:
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise RosterError(f"{name}: its certificate is damaged") from None
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex() if isinstance(key, Ed25519PublicKey) else ""
