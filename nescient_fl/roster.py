"""Make keys and the signed roster of a federation: ``python -m nescient_fl.roster --help``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nescient_fl.cli import command_group, run_command
from nescient_fl.errors import UserError

if TYPE_CHECKING:
    from nescient_fl.mpc.roster import Roster

_Draft = Annotated[Path, typer.Argument(help="The draft of the roster.")]
_New = Annotated[Path, typer.Option("--out", help="File to write; it must not be there yet.")]
_Address = Annotated[
    str | None,
    typer.Option(help="Where the other parties find this one: host:port. Parties, dealer and owners only."),
]


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what the library refuses like every other mistake of a user."""
    from nescient_fl.mpc.errors import MpcError

    try:
        yield
    except MpcError as error:
        raise UserError(str(error)) from None


def keys(
    name: Annotated[str, typer.Argument(help="Name of the member: a-z, 0-9 and -.")],
    role: Annotated[str, typer.Option(help="site, party, dealer, owner, clinic or authority.")],
    out: Annotated[Path, typer.Option(help="New folder for the private keys; it stays on this machine.")],
    address: _Address = None,
    public: Annotated[
        Path | None, typer.Option(help="The public file to send. [dim](beside the folder: FOLDER.member.json)[/]")
    ] = None,
) -> None:
    """Make a member's keys, and the public member file to send to the authority."""
    from nescient_fl.mpc.ceremony import MEMBER_SUFFIX, make_member

    public = public or out.with_name(out.name + MEMBER_SUFFIX)
    with _refusals():
        member = make_member(name, role, out, address, public)
    print(f"private keys, never to be sent: {out}")
    print(f"public file, to be sent: {public}")
    print(f"fingerprint, to be read out to whoever adds it: {member.fingerprint}")


def member(
    keys: Annotated[Path, typer.Argument(help="Folder of private keys.")],
    out: _New,
    address: _Address = None,
) -> None:
    """Write the public member file of keys that exist, after a change of address say."""
    from nescient_fl.mpc.ceremony import write_member
    from nescient_fl.mpc.keys import load_keys

    with _refusals():
        written = write_member(load_keys(keys), address, out)
    print(f"public file of {written.name}: {out}; fingerprint {written.fingerprint}")


def start(
    federation: Annotated[str, typer.Argument(help="Name of the federation: a-z, 0-9 and -.")], out: _New
) -> None:
    """Begin the draft of a new roster."""
    from nescient_fl.mpc.ceremony import start_draft

    with _refusals():
        _tell_draft(start_draft(federation, out))


def revise(signed: Annotated[Path, typer.Argument(help="The signed roster to change.")], out: _New) -> None:
    """Begin a draft from a signed roster, its serial number one higher."""
    from nescient_fl.mpc.ceremony import revise as begin

    with _refusals():
        _tell_draft(begin(signed, out))


def add(
    draft: _Draft,
    file: Annotated[Path, typer.Argument(help="The public member file, NAME.member.json.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="What the member read out over another channel; anything else is refused.")
    ] = None,
) -> None:
    """Add a member to a draft."""
    from nescient_fl.mpc.ceremony import add_member, read_member

    with _refusals():
        added = read_member(file)
        roster = add_member(draft, added, fingerprint)
    print(f"added {added.role} {added.name}, fingerprint {added.fingerprint}")
    if fingerprint is None:
        print("have the member read its fingerprint out over another channel, and compare")
    _tell_draft(roster)


def remove(draft: _Draft, name: Annotated[str, typer.Argument(help="Name of the member.")]) -> None:
    """Take a member out of a draft."""
    from nescient_fl.mpc.ceremony import remove_member

    with _refusals():
        _tell_draft(remove_member(draft, name))


def minimum(draft: _Draft, sites: Annotated[int, typer.Argument(help="Fewest sites in a sum.")]) -> None:
    """Set the fewest sites in a sum that any party opens; without it, four fifths and three at least."""
    from nescient_fl.mpc.ceremony import set_minimum

    with _refusals():
        _tell_draft(set_minimum(draft, sites))


def sign(
    draft: _Draft,
    keys: Annotated[Path, typer.Option(help="The authority's folder of private keys.")],
    out: _New,
) -> None:
    """Sign a complete draft with the authority's keys."""
    from nescient_fl.mpc.ceremony import sign_draft
    from nescient_fl.mpc.keys import load_keys, public_part

    with _refusals():
        roster = sign_draft(draft, keys, out)
        authority = public_part(load_keys(keys))
    _print_members(roster)
    print(f"signed by {authority.name}, fingerprint {authority.fingerprint}: {out}")


def show(
    file: Annotated[Path, typer.Argument(help="A roster, draft or signed.")],
    authority: Annotated[
        str | None, typer.Option(help="Whom you trust: its member file, or its public key in hex.")
    ] = None,
) -> None:
    """Show the members of a roster, their fingerprints, and whether its signature is good."""
    from nescient_fl.mpc.ceremony import authority_key, missing_from, read_file
    from nescient_fl.mpc.roster import fingerprint

    with _refusals():
        trusted = None if authority is None else authority_key(authority)
        found = read_file(file)
    _print_members(found.roster)
    if found.authority is None:
        missing = missing_from(found.roster)
        print(f"a draft: {missing or 'complete, to be signed'}")
        return
    print(f"digest {found.roster.digest}")
    print_of = fingerprint(found.authority)
    if trusted is None:
        print(f"its signature is good, by {print_of}: is that whom you trust? (--authority)")
    elif trusted == found.authority:
        print(f"its signature is good, by the authority you trust, {print_of}")
    else:
        raise UserError(f"{file} is signed by {print_of}, not by the authority you trust, {fingerprint(trusted)}")


def verify(
    file: Annotated[Path, typer.Argument(help="A signed roster.")],
    authority: Annotated[str, typer.Option(help="Whom you trust: its member file, or its public key in hex.")],
    keys: Annotated[
        Path | None, typer.Option(help="A member's folder of keys: is it in the roster, with these keys?")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="The roster in use until now: the new one must have a higher serial number.")
    ] = None,
) -> None:
    """Check a signed roster before it is put to use; exit status 2 and one line when it is not good."""
    from nescient_fl.mpc.ceremony import authority_key, verify_file

    with _refusals():
        roster = verify_file(file, authority_key(authority), keys, after)
    print(f"good: {roster.federation} {roster.serial}, digest {roster.digest}")


def _tell_draft(roster: "Roster") -> None:
    from nescient_fl.mpc.ceremony import missing_from

    missing = missing_from(roster)
    counts = f"{len(roster.sites)} sites, {len(roster.parties)} parties"
    state = f"not yet to be signed: {missing}" if missing else "complete, to be signed"
    print(f"draft of {roster.federation} {roster.serial}, {counts}; {state}")


def _print_members(roster: "Roster") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    fewest = f"{roster.minimum_sites} sites" if roster.minimum_sites else "four fifths of the sites, 3 at least"
    print(f"{roster.federation}, serial {roster.serial}, in a sum at least {fewest}")
    table = Table()
    for column in ("role", "name", "fingerprint", "address"):
        table.add_column(column, overflow="fold", no_wrap=column == "fingerprint")
    for entry in roster.members:
        table.add_row(entry.role, entry.name, entry.fingerprint, escape(entry.address or ""))
    Console().print(table)


roster = command_group(
    "Make keys and the signed roster of a federation: who takes part, with which keys, and where.",
    [keys, member, start, revise, add, remove, minimum, sign, show, verify],
)

if __name__ == "__main__":
    run_command(roster)
