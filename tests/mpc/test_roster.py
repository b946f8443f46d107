"""The roster: what is signed comes back, and nothing else is believed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nescient_fl.mpc.ceremony import (
    read_file,
    read_member,
)
from nescient_fl.mpc.errors import MpcError, RosterError
from nescient_fl.mpc.keys import new_keys
from nescient_fl.mpc.roster import (
    Member,
    Roster,
    default_minimum,
    member_from,
    read_signed,
    roster_from,
    sign_roster,
    write_signed,
)
from nescient_fl.mpc.vault import Vault, create_vault

SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return create_vault(tmp_path_factory.mktemp("vault") / "v", "test", SITES, 2, 3)


@pytest.fixture(scope="module")
def roster(vault: Vault) -> Roster:
    return vault.roster()


def test_a_roster_comes_back_as_it_was_signed(vault: Vault, roster: Roster) -> None:
    assert [member.name for member in roster.sites] == list(SITES)
    assert [member.name for member in roster.parties] == ["party-1", "party-2"]
    assert vault.roster() == roster
    assert vault.roster().digest == roster.digest


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_a_roster_is_refused_or_changes_nothing(
    vault: Vault, roster: Roster, tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray((vault.folder / "roster.json").read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.json"
    path.write_bytes(bytes(whole))
    authority = (vault.folder / "authority.txt").read_text().strip()
    try:
        found = read_signed(path, authority)
    except RosterError:
        return
    assert found == roster  # a space became a tab, say


def test_a_roster_of_another_authority_is_refused(vault: Vault, roster: Roster, tmp_path: Path) -> None:
    other = new_keys(tmp_path / "a", "authority", "authority")
    write_signed(sign_roster(roster, other), tmp_path / "r.json")
    with pytest.raises(RosterError, match="another authority"):
        read_signed(tmp_path / "r.json", (vault.folder / "authority.txt").read_text().strip())
    with pytest.raises(RosterError, match="an authority signs"):
        sign_roster(roster, vault.keys("site-1"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: [x for x in m if x.role != "dealer"], "one dealer"),
        (lambda m: [x for x in m if x.name != "party-1"], "two compute parties"),
        (lambda m: [replace(x, address=None) if x.name == "party-1" else x for x in m], "an address"),
        (lambda m: [x for x in m if x.role != "site"][:] + [x for x in m if x.name == "site-1"], "3 sites are needed"),
        (lambda m: [*m, replace(m[0], name="twin")], "same signing key"),
        (lambda m: [*m, m[0]], "same name"),
    ],
)
def test_a_roster_that_no_federation_can_run_with(roster: Roster, change: Any, words: str) -> None:
    with pytest.raises(RosterError, match=words):
        Roster("test", 1, tuple(change(list(roster.members))), 3).check_complete()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Site 1"),
        ("name", ""),
        ("role", "spy"),
        ("signing_key", "00"),
        ("sealing_key", None),
        ("address", "nowhere"),
        ("address", "host:0"),
        ("address", "host:65536"),
        ("address", "unix:/a\0b"),
        ("signing_key", None),
        ("certificate", None),
        ("certificate", "damaged"),
        ("name", 5),
    ],
)
def test_a_member_that_cannot_be(roster: Roster, field: str, value: Any) -> None:
    with pytest.raises(RosterError):
        replace(roster.parties[0], **{field: value})


def test_a_certificate_of_another_key_is_refused(roster: Roster) -> None:
    first, second = roster.parties
    with pytest.raises(RosterError, match="not that of its signing key"):
        replace(first, certificate=second.certificate)


def test_the_usual_minimum_is_four_fifths_and_three_at_least() -> None:
    assert [default_minimum(sites) for sites in (3, 4, 5, 6, 10, 100)] == [3, 4, 4, 5, 8, 80]


def test_members_of_a_roster_are_told_apart_by_ear(roster: Roster) -> None:
    prints = {member.fingerprint for member in roster.members}
    assert len(prints) == len(roster.members)
    assert all(isinstance(member, Member) and len(member.fingerprint) == 39 for member in roster.members)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(ANYTHING)
def test_json_that_is_no_roster_or_member_is_refused(values: Any) -> None:
    for read in (roster_from, member_from):
        with pytest.raises(RosterError):
            read(values)


@given(field=st.sampled_from(["federation", "serial", "members", "minimum_sites"]), value=ANYTHING)
def test_a_roster_with_a_field_of_another_kind_is_refused_or_comes_back(roster: Roster, field: str, value: Any) -> None:
    values = json.loads(json.dumps(asdict(roster))) | {field: value}
    try:
        found = roster_from(values)
    except MpcError:
        return
    assert json.loads(found.to_bytes()) == values | {"members": json.loads(found.to_bytes())["members"]}


@given(field=st.sampled_from(list(Member.__dataclass_fields__)), value=ANYTHING)
def test_a_member_with_a_field_of_another_kind_is_refused_or_comes_back(roster: Roster, field: str, value: Any) -> None:
    values = asdict(roster.parties[0]) | {field: value}
    try:
        found = member_from(values)
    except MpcError:
        return
    assert asdict(found) == values


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "\x00", "[" * 100_000, '{"roster": 1, "authority": 2}'])
def test_files_that_are_no_roster_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    for read in (read_file, read_member, lambda p: read_signed(p, "0" * 64)):
        with pytest.raises(RosterError):
            read(path)


def test_a_file_too_large_to_be_a_roster_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RosterError, match="too large"):
        read_file(tmp_path / "r.json")
