"""A federation's keys, node keys, certificate and roster in one folder, made and named as docs/deploy.md does."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nescient_fl.deployment.certificates import create_authority, issue_server_certificate
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.node_keys import bind, create_node_key, write_binding
from nescient_fl.mpc.ceremony import add_member, make_member, read_member, set_minimum, sign_draft, start_draft
from nescient_fl.mpc.keys import load_keys

SITES = ("site-1", "site-2", "site-3")


def make_federation(folder: Path, sites: Sequence[str] = SITES, parties: int = 2) -> Path:
    """Make everything in a new folder, parties and dealer at free ports of this machine. Returns the roster."""
    folder.mkdir()
    make_member("authority", "authority", folder / "authority.keys", None, folder / "authority.member.json")
    helpers = [(f"party-{number + 1}", "party") for number in range(parties)] + [("dealer", "dealer")]
    for name, role in [*((name, "site") for name in sites), *helpers]:
        add_to(folder, name, role, None if role == "site" else f"127.0.0.1:{free_port()}")
    create_authority(folder / "ca", "tests")
    issue_server_certificate(folder / "ca", ["127.0.0.1"], folder / "link")
    return sign(folder, [*sites, *(name for name, _ in helpers)])


def add_to(folder: Path, name: str, role: str, address: str | None) -> None:
    """Make a member's keys, member file, node key and node file."""
    make_member(name, role, folder / f"{name}.keys", address, folder / f"{name}.member.json")
    key = create_node_key(folder / f"{name}.node-key")
    write_binding(bind(name, role, key, load_keys(folder / f"{name}.keys")), folder / f"{name}.node.json")


def sign(folder: Path, names: Sequence[str], roster: str = "roster.json", minimum: int | None = None) -> Path:
    """Sign a roster of members whose files lie in the folder; one that is there is replaced."""
    draft = folder / "draft.json"
    start_draft("lungs", draft)
    for name in names:
        add_member(draft, read_member(folder / f"{name}.member.json"))
    if minimum is not None:
        set_minimum(draft, minimum)
    (folder / roster).unlink(missing_ok=True)
    sign_draft(draft, folder / "authority.keys", folder / roster)
    draft.unlink()
    return folder / roster


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and the mode of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
