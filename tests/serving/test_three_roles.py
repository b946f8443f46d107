"""The roster of encrypted inference: a model owner, clinics and a dealer, with or without a federation."""

from dataclasses import replace
from pathlib import Path

import pytest

from nescient_fl.mpc.errors import RosterError
from nescient_fl.mpc.keys import new_keys, public_part
from nescient_fl.mpc.roster import Member, Roster, read_signed, sign_roster, write_signed


def made(folder: Path, name: str, role: str, address: str | None = None) -> Member:
    return public_part(new_keys(folder / name, name, role), address)


@pytest.fixture
def serving(tmp_path: Path) -> Roster:
    members = [
        made(tmp_path, "maker", "owner", "127.0.0.1:4001"),
        made(tmp_path, "clinic-1", "clinic"),
        made(tmp_path, "clinic-2", "clinic"),
        made(tmp_path, "dealer", "dealer", "127.0.0.1:4002"),
    ]
    return Roster("serving", 1, tuple(members), 3)


def test_a_roster_without_a_federation_is_signed_and_read(tmp_path: Path, serving: Roster) -> None:
    authority = new_keys(tmp_path / "authority", "authority", "authority")
    write_signed(sign_roster(serving, authority), tmp_path / "roster.json")
    roster = read_signed(tmp_path / "roster.json", public_part(authority).signing_key)
    assert [member.name for member in roster.owners] == ["maker"]
    assert [member.name for member in roster.clinics] == ["clinic-1", "clinic-2"]
    assert all(member.certificate for member in roster.members)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ({"maker"}, "two compute parties"),
        ({"dealer"}, "one dealer"),
        ({"clinic-1", "clinic-2"}, "a model owner and a clinic"),
    ],
)
def test_whoever_is_missing_is_named(serving: Roster, left_out: set[str], words: str) -> None:
    left = tuple(member for member in serving.members if member.name not in left_out)
    with pytest.raises(RosterError, match=words):
        replace(serving, members=left).check_complete()


def test_an_owner_needs_an_address_and_a_federation_beside_it_is_checked_too(tmp_path: Path, serving: Roster) -> None:
    members = [replace(member, address=None) if member.name == "maker" else member for member in serving.members]
    with pytest.raises(RosterError, match="maker needs an address"):
        replace(serving, members=tuple(members)).check_complete()
    site = made(tmp_path, "site-1", "site")
    with pytest.raises(RosterError, match="two compute parties"):
        replace(serving, members=(*serving.members, site)).check_complete()
