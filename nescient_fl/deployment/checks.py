"""What a role looks at before it joins: data, keys, clock, reachability, versions; what is wrong, in words."""

import os
import platform
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cryptography import x509

from nescient_fl import __version__
from nescient_fl.deployment.coordinator import admitted
from nescient_fl.deployment.member import member_keys
from nescient_fl.deployment.node_keys import read_node_key
from nescient_fl.deployment.reach import describe_clock, describe_link
from nescient_fl.deployment.roles import CoordinatorSettings, MemberSettings, SiteSettings, host_and_port
from nescient_fl.deployment.site_data import describe_site_folder, open_site_folder
from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder

FLOWER = "1.41"
"""The release of Flower that all ends of a federation speak."""
Check = tuple[str, Callable[[], str]]
"""What is looked at, and a function that says what was found, or raises UserError or OSError."""


def check_member(settings: MemberSettings) -> int:
    """Print a line for each thing that a member needs. Returns 0 when it may join, else 2."""
    checks: list[Check] = [("versions", _versions)]
    if isinstance(settings, SiteSettings):
        site = settings
        checks.append(("data", lambda: _data(site)))
    checks += [
        ("keys", lambda: _keys(settings)),
        ("node key", lambda: f"{settings.node_key}: {read_node_key(settings.node_key).split()[0]}"),
        ("folder", lambda: _writable(settings.state)),
        ("link", lambda: describe_link(settings.superlink, settings.ca)),
        ("clock", lambda: describe_clock(settings.superlink, settings.ca)),
    ]
    return _report(checks)


def check_coordinator(settings: CoordinatorSettings) -> int:
    """Print a line for each thing that a coordinator needs. Returns 0 when it may begin, else 2."""
    return _report(
        [
            ("versions", _versions),
            ("run", lambda: str(RunFolder.open(settings.run).path)),
            ("members", lambda: f"{len(admitted(settings))} nodes may join"),
            ("certificate", lambda: _certificate(settings)),
            ("folder", lambda: _writable(settings.state)),
            ("address", lambda: _free(settings.listen)),
        ]
    )


def _report(checks: list[Check]) -> int:
    wrong = 0
    for name, look in checks:
        try:
            print(f"ok     {name}: {look()}")
        except UserError as error:
            wrong += 1
            print(f"wrong  {name}: {error}")
        except OSError as error:
            wrong += 1
            print(f"wrong  {name}: {error.filename}: {error.strerror}" if error.filename else f"wrong  {name}: {error}")
    return 2 if wrong else 0


def _versions() -> str:
    found = version("flwr")
    if not found.startswith(f"{FLOWER}."):
        raise UserError(f"Flower is {found}, and the federation speaks {FLOWER}: install nescient_fl again")
    return f"nescient_fl {__version__}, Flower {found}, torch {version('torch')}, Python {platform.python_version()}"


def _data(settings: SiteSettings) -> str:
    open_site_folder(settings.data, settings.name)
    counts = describe_site_folder(settings.data)
    return ", ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "validation", "test")) + " radiographs"


def _keys(settings: MemberSettings) -> str:
    keys, roster = member_keys(settings)
    if keys is None or roster is None:
        return "none: this federation sends updates in clear"
    member = roster.member(keys.name, keys.role)
    return f"{keys.role} {keys.name}, {member.fingerprint}, in roster {roster.federation} number {roster.serial}"


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        probe.unlink(missing_ok=True)
    return str(folder)


def _certificate(settings: CoordinatorSettings) -> str:
    try:
        own = x509.load_pem_x509_certificate(settings.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(settings.ca.read_bytes())
    except ValueError as error:
        raise UserError(f"{settings.certificate} or {settings.ca} is damaged ({error})") from None
    try:
        own.verify_directly_issued_by(authority)
    except Exception:  # several kinds, one meaning
        raise UserError(f"{settings.certificate} is not from {settings.ca}") from None
    left = own.not_valid_after_utc.timestamp() - time.time()
    if left <= 0:
        raise UserError(f"{settings.certificate} expired on {own.not_valid_after_utc:%d %B %Y}: issue another")
    return f"counts for another {left / 86400:.0f} days"


def _free(address: str) -> str:
    host, port = host_and_port(address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"{address} cannot be listened at: {error.strerror}") from None
    return f"{address} is free"
