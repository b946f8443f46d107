"""Sealed reports: a header everybody may read, one HPKE envelope a party, one signature over all of it.

HPKE is RFC 9180 in base mode (DHKEM X25519 with HKDF-SHA256, HKDF-SHA256, ChaCha20-Poly1305); the header is bound
to every envelope through ``info``. The signature is Ed25519 (RFC 8032).
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from numpy.typing import NDArray

from nescient_fl.mpc.errors import HeaderError, SealError, SignatureInvalidError, UnknownMemberError
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.randomness import SEED_BYTES
from nescient_fl.mpc.roster import SITE, Roster
from nescient_fl.mpc.shares import Split, expand

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_SEAL_DOMAIN = b"nescient/envelope/1"
_SIGN_DOMAIN = b"nescient/report/1"
_LARGEST_HEADER = 2048
_DIGEST_BYTES = 32
_HEX = {"roster": 64, "model": 64, "report_id": 32}


@dataclass(frozen=True)
class ReportHeader:
    """What the relay may read of a report, and what every share in it is bound to.

    Attributes:
        protocol: version of this protocol.
        run, round: which round of which run.
        roster: digest of the roster the site holds.
        model: binding of global model, order and terms (``terms.binding``).
        site: who sent it.
        parties, dimension, fraction_bits: how it was shared and encoded.
        minimum: fewest sites in a sum that this site takes part in.
        report_id: 16 random bytes in hex; a party takes each once.
    """

    protocol: int
    run: str
    round: int
    roster: str
    model: str
    site: str
    parties: int
    dimension: int
    fraction_bits: int
    minimum: int
    report_id: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type:
                raise HeaderError(f"a header's {field.name} has the wrong type")
            if isinstance(value, int) and not 0 <= value < 2**53:
                raise HeaderError(f"a header's {field.name} is out of range")
        for name, length in _HEX.items():
            if not re.fullmatch(f"[0-9a-f]{{{length}}}", getattr(self, name)):
                raise HeaderError(f"a header's {name} is {length} hex digits")
        if len(self.to_bytes()) > _LARGEST_HEADER:
            raise HeaderError("a header is too long")

    def to_bytes(self) -> bytes:
        """Return the canonical form: JSON, keys sorted, no spaces."""
        return json.dumps(vars(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ReportHeader":
        """Read a header. Raises HeaderError for anything but a canonical form of this version's fields."""
        if len(data) > _LARGEST_HEADER:
            raise HeaderError("a header is too long")
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise HeaderError("a header is no JSON") from None
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise HeaderError("a header's fields are not those of this version")
        header = cls(**values)
        if header.to_bytes() != data:
            raise HeaderError("a header is not in its canonical form")
        return header


@dataclass(frozen=True, repr=False)
class SealedReport:
    """What leaves a site: the header's bytes, an envelope a party in rank order, the signature."""

    header: bytes
    ciphertexts: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, repr=False)
class PartyCopy:
    """What one party gets of a report: its own envelope, and the digests of all of them."""

    header: bytes
    digests: tuple[bytes, ...]
    ciphertext: bytes
    signature: bytes


def seal_report(header: ReportHeader, split: Split, roster: Roster, keys: MemberKeys) -> SealedReport:
    """Seal each share to its party and sign the whole. Raises HeaderError when the header fits them not."""
    parties = roster.parties
    if header.parties != len(parties) or len(split.seeds) + 1 != len(parties):
        raise HeaderError(f"the report is for {header.parties} parties, the roster has {len(parties)}")
    if header.site != keys.name or header.dimension != len(split.last):
        raise HeaderError("the header is not that of this site and vector")
    text = header.to_bytes()
    payloads = [*split.seeds, split.last.astype("<i8", copy=False).tobytes()]
    ciphertexts = tuple(
        _SUITE.encrypt(payload, party.sealing_public, info=_info(text, rank, party.name))
        for rank, (payload, party) in enumerate(zip(payloads, parties, strict=True))
    )
    digests = [hashlib.sha256(ciphertext).digest() for ciphertext in ciphertexts]
    return SealedReport(text, ciphertexts, keys.signing.sign(_signed(text, digests)))


def copy_for(report: SealedReport, rank: int) -> PartyCopy:
    """Return what the relay hands to the party of this rank."""
    digests = tuple(hashlib.sha256(ciphertext).digest() for ciphertext in report.ciphertexts)
    return PartyCopy(report.header, digests, report.ciphertexts[rank], report.signature)


def verify_copy(copy: PartyCopy, roster: Roster, rank: int) -> ReportHeader:
    """Check who made a report and that nothing in it was changed; return its header.

    Raises HeaderError, UnknownMemberError for a site that is not in the roster, SignatureInvalidError, and
    SealError when the envelope is not the one that was signed.
    """
    header = ReportHeader.from_bytes(copy.header)
    site = roster.member(header.site, SITE)
    if len(copy.digests) != len(roster.parties) or any(len(d) != _DIGEST_BYTES for d in copy.digests):
        raise HeaderError(f"a report of {header.site} has the wrong number of envelopes")
    try:
        site.signing_public.verify(copy.signature, _signed(copy.header, list(copy.digests)))
    except InvalidSignature:
        raise SignatureInvalidError(f"the signature of {header.site} does not fit its report") from None
    if hashlib.sha256(copy.ciphertext).digest() != copy.digests[rank]:
        raise SealError(f"the envelope of {header.site} is not the one it signed")
    return header


def open_copy(copy: PartyCopy, header: ReportHeader, keys: MemberKeys, rank: int, dimension: int) -> NDArray[np.int64]:
    """Open a verified copy: this party's share of the report, int64 [dimension].

    Raises SealError when the envelope was sealed to somebody else or for another header, or holds no share of
    that length.
    """
    if keys.sealing is None:
        raise UnknownMemberError(f"nothing can be sealed to {keys.name}")
    try:
        payload = _SUITE.decrypt(copy.ciphertext, keys.sealing, info=_info(copy.header, rank, keys.name))
    except (InvalidTag, ValueError):
        raise SealError(f"the envelope of {header.site} cannot be opened") from None
    if rank < header.parties - 1:
        if len(payload) != SEED_BYTES:
            raise SealError(f"the envelope of {header.site} holds no seed")
        return expand(payload, dimension)
    if len(payload) != 8 * dimension:
        raise SealError(f"the envelope of {header.site} holds {len(payload)} bytes, not {8 * dimension}")
    return np.frombuffer(payload, "<i8").astype(np.int64, copy=False)


def _info(header: bytes, rank: int, party: str) -> bytes:
    return b"\x1f".join([_SEAL_DOMAIN, header, str(rank).encode(), party.encode()])


def _signed(header: bytes, digests: list[bytes]) -> bytes:
    # The header's length is fixed by its own hash, so no two reports sign the same bytes.
    return b"\x1f".join([_SIGN_DOMAIN, hashlib.sha256(header).digest(), *digests])
