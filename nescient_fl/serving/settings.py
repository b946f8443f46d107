"""Who a process of encrypted inference is: its keys and the roster it believes, from options or a TOML file."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.mpc.ceremony import authority_key
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.keys import MemberKeys, load_keys
from nescient_fl.mpc.roster import Member, Roster, read_signed

_KEY_DIGITS = 64
STATE = "serving"
"""Folder, inside of a member's folder of keys, of what it must not forget."""


@contextmanager
def refusals() -> Iterator[None]:
    """Tell what the library refuses like every other mistake of a user."""
    try:
        yield
    except MpcError as error:
        raise UserError(str(error)) from None


def merged(options: Mapping[str, Any], config: Path | None, known: Mapping[str, type]) -> dict[str, Any]:
    """Return options that were given, and those of a TOML file for the others.

    ``known`` names what the file may hold, and its type. Paths in the file are relative to it. Raises UserError.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if config is None:
        return given
    try:
        values = tomllib.loads(config.read_text())
    except OSError as error:
        raise UserError(f"--config {config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {config} is no TOML: {error}") from None
    for name, value in values.items():
        key = name.replace("-", "_")
        kind = known.get(key)
        if kind is None:
            raise UserError(f"--config {config}: {name} is unknown; it may say {', '.join(known)}")
        if type(value) is not (str if kind is Path else kind):
            raise UserError(f"--config {config}: {name} is a {'path' if kind is Path else kind.__name__}")
        # An authority is a key in hex, or the path of its file.
        path = kind is Path or (key == "authority" and len(str(value)) != _KEY_DIGITS)
        given.setdefault(key, config.parent / str(value) if path else value)
    return given


def open_member(options: Mapping[str, Any], role: str) -> tuple[MemberKeys, Roster, Member]:
    """Load keys and roster of a member that acts in a role.

    Raises UserError for what is missing, damaged, or does not fit together.
    """
    for name, what in (("keys", "folder of private keys"), ("roster", "signed roster"), ("authority", "trusted key")):
        if name not in options:
            raise UserError(f"--{name} is missing: name the {what}")
    with refusals():
        keys = load_keys(options["keys"])
        if keys.role != role:
            raise UserError(f"--keys {options['keys']} are for {_a(keys.role)}: this takes those of {_a(role)}")
        roster = read_signed(options["roster"], authority_key(str(options["authority"])))
        own = roster.member(keys.name, role)
        if own.certificate != keys.certificate_pem:
            raise UserError(f"the roster has other keys for {keys.name} than --keys: ask its authority for a new one")
    return keys, roster, own


def state_folder(keys: MemberKeys) -> Path:
    """Return where a member keeps what it must not forget."""
    return keys.folder / STATE


def _a(role: str) -> str:
    return f"an {role}" if role[0] in "aeio" else f"a {role}"
