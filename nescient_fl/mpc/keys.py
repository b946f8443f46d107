"""A member's keys: who it is, what is sealed to it, and its TLS certificate; each in a file of its own."""

import datetime
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nescient_fl.mpc.errors import KeyFileError
from nescient_fl.mpc.roster import CERTIFIED, PARTY, ROLES, Member, check_name

_SIGNING, _SEALING, _CERTIFICATE, _ABOUT = "signing.pem", "sealing.pem", "certificate.pem", "member.txt"
KEY_FILES = (_SIGNING, _SEALING, _CERTIFICATE, _ABOUT)
"""What a member's folder of keys may hold; not every role has all of them."""
_YEARS = 10
"""A certificate counts only because the roster names it; a roster is renewed sooner."""


@dataclass(frozen=True, repr=False)
class MemberKeys:
    """One member's private keys; neither its text nor a pickle ever shows them.

    Attributes:
        signing: identity: signs reports, sets and the roster, and is the key of the TLS certificate.
        sealing: what envelopes are sealed to; parties only.
        certificate_pem: self-signed TLS certificate; of who talks over TLS only.
        folder: where the files are.
    """

    name: str
    role: str
    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey | None
    certificate_pem: str | None
    folder: Path

    def __repr__(self) -> str:
        return f"MemberKeys({self.name!r}, {self.role!r})"

    def __reduce__(self) -> Any:
        raise TypeError("keys are never pickled")

    @property
    def signing_path(self) -> Path:
        return self.folder / _SIGNING

    @property
    def certificate_path(self) -> Path:
        return self.folder / _CERTIFICATE


def new_keys(folder: Path, name: str, role: str) -> MemberKeys:
    """Make keys for a member and write them to a new folder of mode 0700, files of mode 0600.

    Raises KeyFileError when the folder holds keys already, RosterError for a name or role that cannot be.
    """
    check_name(name)
    if role not in ROLES:
        raise KeyFileError(f"a role is one of {', '.join(ROLES)}, got {role!r}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    signing = Ed25519PrivateKey.generate()
    sealing = X25519PrivateKey.generate() if role == PARTY else None
    certificate = _certificate(name, signing) if role in CERTIFIED else None
    _write_new(folder / _SIGNING, _private_pem(signing))
    if sealing is not None:
        _write_new(folder / _SEALING, _private_pem(sealing))
    if certificate is not None:
        _write_new(folder / _CERTIFICATE, certificate.encode())
    _write_new(folder / _ABOUT, f"{name}\n{role}\n".encode())
    return MemberKeys(name, role, signing, sealing, certificate, folder)


def load_keys(folder: Path) -> MemberKeys:
    """Read a member's keys. Raises KeyFileError when one is missing, damaged, or others can read it."""
    about = _read(folder / _ABOUT).decode("utf-8", "replace").splitlines()
    if len(about) != 2 or about[1] not in ROLES:
        raise KeyFileError(f"{folder / _ABOUT} is damaged")
    name, role = about
    signing = _load(folder / _SIGNING)
    sealing = _load(folder / _SEALING) if role == PARTY else None
    certificate = _read(folder / _CERTIFICATE).decode("utf-8", "replace") if role in CERTIFIED else None
    if not isinstance(signing, Ed25519PrivateKey):
        raise KeyFileError(f"{folder / _SIGNING} is no Ed25519 key")
    if sealing is not None and not isinstance(sealing, X25519PrivateKey):
        raise KeyFileError(f"{folder / _SEALING} is no X25519 key")
    return MemberKeys(name, role, signing, sealing, certificate, folder)


def public_part(keys: MemberKeys, address: str | None = None) -> Member:
    """Return what others may know of a member, for the roster; address as ``host:port`` or ``unix:/path``."""
    sealing = None if keys.sealing is None else _raw(keys.sealing.public_key())
    return Member(keys.name, keys.role, _raw(keys.signing.public_key()), sealing, address, keys.certificate_pem)


def _raw(key: Any) -> str:
    data: bytes = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return data.hex()


def _private_pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def _certificate(name: str, signing: Ed25519PrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(signing.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ, some by an hour (time zones, summer time): that is no reason to refuse.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(signing, algorithm=None)
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} is there already: keys are never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"{path} can be read by others: run chmod 600 on it, and think of the key as lost")
    return data


def _load(path: Path) -> Any:
    try:
        return load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} is damaged") from None
