"""A certificate authority of one's own, and the SuperLink's certificate from it.

Every member trusts this one authority for the coordinator's link and no other; parties know each other by the
roster, not by this.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nescient_fl.errors import UserError

_LONGEST_NAME = 64
"""Letters of a common name."""
_EARLY = datetime.timedelta(days=1)
"""Clocks differ, some by an hour (time zones, summer time): a certificate counts from a day before it is made."""


@dataclass(frozen=True)
class ServerCertificate:
    """The files that a SuperLink needs; members need ``authority`` alone."""

    authority: Path
    certificate: Path
    key: Path


def create_authority(folder: Path, name: str, days: float = 3650) -> Path:
    """Make an authority's key and certificate in a folder. Returns the certificate's path.

    The P-384 key stays in the folder, readable by its owner alone. Raises UserError when one is there already, or for
    a name that cannot be.
    """
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise UserError(f"--name has 1 to {_LONGEST_NAME} letters, got {len(name)}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    _write_new(folder / "ca-key.pem", _pem(key))
    path = folder / "ca.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def issue_server_certificate(folder: Path, hosts: Sequence[str], out: Path, days: float = 365) -> ServerCertificate:
    """Issue a certificate for the SuperLink's host names and addresses from the authority in ``folder``.

    Raises UserError when the authority is not there or a certificate is, or for hosts that cannot be.
    """
    try:
        authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        signing = load_pem_private_key((folder / "ca-key.pem").read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no certificate authority ({error}): make one first") from None
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    names = [_name(host) for host in hosts]
    if not names:
        raise _bad_host("none")
    key = ec.generate_private_key(ec.SECP384R1())
    # What counts are the alternative names; this one is for people, and short.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:_LONGEST_NAME])])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .sign(signing, hashes.SHA384())
    )
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_new(out / "server-key.pem", _pem(key))
    (out / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (out / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    return ServerCertificate(out / "ca.pem", out / "server.pem", out / "server-key.pem")


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not (host and host.isascii() and host.isprintable() and " " not in host):
            raise _bad_host(repr(host)) from None
        return x509.DNSName(host)


def _bad_host(got: str) -> UserError:
    return UserError(f"a host is a name in plain letters, or an address, got {got}")


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UserError(f"{path} is there already: keys are never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
