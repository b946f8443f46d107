"""Node keys: how the SuperLink knows a node, tied to who the roster says it is.

Flower authenticates a node by a P-384 key. The member's own Ed25519 key signs that node key together with name
and role, so that the coordinator registers a node only for the member that it belongs to.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import UnknownMemberError
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import Roster

_DOMAIN = b"nescient/node/1\x1f"


@dataclass(frozen=True)
class NodeBinding:
    """A node's public key and whose it is.

    Attributes:
        name, role: the member.
        node_key: the P-384 public key, one OpenSSH line.
        signature: by the member's signing key, hex; empty in a federation without a roster.
    """

    name: str
    role: str
    node_key: str
    signature: str = ""

    @property
    def pem(self) -> bytes:
        """The public key as Flower keeps it. Raises UserError for anything but a P-384 key."""
        try:
            key = load_ssh_public_key(self.node_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise UserError(f"the node key of {self.name} is no P-384 key in OpenSSH's format")
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def message(self) -> bytes:
        """Return what is signed."""
        return _DOMAIN + b"\x1f".join([self.name.encode(), self.role.encode(), self.pem])


def create_node_key(path: Path) -> str:
    """Make a node's key at a path, mode 0600. Returns the public part as one OpenSSH line."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UserError(f"{path} is there already: keys are never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return _line(key)


def read_node_key(path: Path) -> str:
    """Return the public part of the key at a path. Raises UserError when it is missing, damaged or open to others."""
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise UserError(f"the node key {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise UserError(f"the node key {path} can be read by others: run chmod 600 on it, and think of it as lost")
    try:
        key = load_ssh_private_key(data, None)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"the node key {path} is no P-384 key in OpenSSH's format")
    return _line(key)


def bind(name: str, role: str, node_key: str, keys: MemberKeys | None) -> NodeBinding:
    """Tie a node key to a member; without keys the tie is unsigned, good for a federation in clear only."""
    plain = NodeBinding(name, role, node_key)
    if keys is None:
        return plain
    return NodeBinding(name, role, node_key, keys.signing.sign(plain.message()).hex())


def check_binding(binding: NodeBinding, roster: Roster) -> None:
    """Raise UserError, naming the member, unless the roster's member of that name and role signed the key."""
    try:
        public = roster.signing_public(binding.name, binding.role)
        public.verify(bytes.fromhex(binding.signature), binding.message())
    except UnknownMemberError:
        raise UserError(f"node {binding.name}: the roster has no {binding.role} of that name") from None
    except (InvalidSignature, ValueError):
        raise UserError(
            f"node {binding.name}: its key is not signed by the {binding.role} of that name in the roster"
        ) from None


def write_binding(binding: NodeBinding, path: Path) -> None:
    """Write a binding as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(binding), indent=1) + "\n")


def read_binding(path: Path) -> NodeBinding:
    """Read one binding. Raises UserError when it is missing or damaged."""
    try:
        values: Any = json.loads(path.read_text())
        binding = NodeBinding(**values)
    except OSError as error:
        raise UserError(f"the node file {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no node file ({type(error).__name__}): ask its member for it again") from None
    if any(not isinstance(value, str) for value in asdict(binding).values()):
        raise UserError(f"{path} is no node file: ask its member for it again")
    return binding


def read_bindings(folder: Path) -> list[NodeBinding]:
    """Read every ``*.json`` in a folder, in name order. Raises UserError for one that is damaged or there twice."""
    found = [read_binding(path) for path in sorted(folder.glob("*.json"))]
    for what in ("name", "node_key"):
        values = [getattr(binding, what) for binding in found]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UserError(f"two files in {folder} have the {what.replace('_', ' ')} {twice[0]}")
    return sorted(found, key=lambda binding: binding.name)


def _line(key: ec.EllipticCurvePrivateKey) -> str:
    data: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return data.decode()
