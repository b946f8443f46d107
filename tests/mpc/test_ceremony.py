"""The ceremony: nobody comes into a roster but whom the authority put there, with the keys it meant."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.mpc.ceremony import (
    add_member,
    authority_key,
    make_member,
    missing_from,
    read_file,
    read_member,
    remove_member,
    revise,
    set_minimum,
    sign_draft,
    start_draft,
    verify_file,
    write_member,
)
from nescient_fl.mpc.errors import KeyFileError, RosterError, UnknownMemberError
from nescient_fl.mpc.keys import load_keys, new_keys
from nescient_fl.mpc.roster import (
    Member,
    read_signed,
)

SITES = ("site-1", "site-2", "site-3")


@dataclass
class Ceremony:
    """A folder in which members and the authority do their parts."""

    folder: Path

    def keys(self, name: str) -> Path:
        return self.folder / name

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.member.json"

    @property
    def draft(self) -> Path:
        return self.folder / "draft.json"

    @property
    def signed(self) -> Path:
        return self.folder / "roster.json"

    def make(self, name: str, role: str, address: str | None = None) -> Member:
        return make_member(name, role, self.keys(name), address, self.file(name))

    def add(self, *names: str) -> None:
        for name in names:
            add_member(self.draft, read_member(self.file(name)))

    @property
    def authority(self) -> str:
        return authority_key(str(self.file("authority")))


HELPERS = ("party-1", "party-2", "dealer")


@pytest.fixture
def ceremony(tmp_path: Path) -> Ceremony:
    """Everybody has keys; the draft is complete but not signed."""
    made = Ceremony(tmp_path)
    made.make("authority", "authority")
    for name in SITES:
        made.make(name, "site")
    for number, name in enumerate(HELPERS):
        made.make(name, name.partition("-")[0], f"{name}.example.org:70{number:02}")
    start_draft("test", made.draft)
    made.add(*SITES, *HELPERS)
    return made


def test_a_signed_roster_is_what_the_members_sent(ceremony: Ceremony) -> None:
    sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed)
    roster = verify_file(ceremony.signed, ceremony.authority, ceremony.keys("party-2"))
    assert (roster.federation, roster.serial, roster.minimum_sites) == ("test", 1, 3)
    assert [member.name for member in roster.members] == [*SITES, *HELPERS]
    assert roster.dealer.address == "dealer.example.org:7002"
    assert read_file(ceremony.signed).authority == ceremony.authority
    assert read_signed(ceremony.signed, ceremony.authority) == roster


def test_a_changed_roster_counts_up_and_replaces_the_older_one_only(ceremony: Ceremony) -> None:
    sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed)
    second, third = ceremony.folder / "second.json", ceremony.folder / "roster-2.json"
    revise(ceremony.signed, second)
    ceremony.make("site-4", "site")
    add_member(second, read_member(ceremony.file("site-4")))
    remove_member(second, "site-1")
    set_minimum(second, 2)
    sign_draft(second, ceremony.keys("authority"), third)
    roster = verify_file(third, ceremony.authority, after=ceremony.signed)
    assert (roster.serial, roster.minimum_sites) == (2, 2)
    assert [site.name for site in roster.sites] == ["site-2", "site-3", "site-4"]
    with pytest.raises(RosterError, match="no successor"):
        verify_file(ceremony.signed, ceremony.authority, after=third)
    with pytest.raises(RosterError, match="no successor"):
        verify_file(third, ceremony.authority, after=third)
    with pytest.raises(UnknownMemberError, match="no site 'site-1'"):
        verify_file(third, ceremony.authority, ceremony.keys("site-1"))


def test_the_usual_minimum_is_taken_when_none_was_set(ceremony: Ceremony) -> None:
    for number in range(4, 11):
        ceremony.make(f"site-{number}", "site")
        ceremony.add(f"site-{number}")
    assert sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed).minimum_sites == 8


def test_a_draft_says_what_it_lacks(ceremony: Ceremony) -> None:
    assert missing_from(read_file(ceremony.draft).roster) is None
    for name, words in (("site-1", "3 sites are needed"), ("dealer", "one dealer"), ("party-1", "two compute")):
        roster = remove_member(ceremony.draft, name)
        assert words in str(missing_from(roster))
        with pytest.raises(RosterError, match=words):
            sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed)
        assert not ceremony.signed.exists()


def test_what_is_signed_is_never_changed_in_place(ceremony: Ceremony) -> None:
    sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed)
    before = ceremony.signed.read_bytes()
    tries: list[Callable[[], Any]] = [
        lambda: remove_member(ceremony.signed, "site-1"),
        lambda: set_minimum(ceremony.signed, 2),
        lambda: add_member(ceremony.signed, read_member(ceremony.file("site-1"))),
        lambda: sign_draft(ceremony.signed, ceremony.keys("authority"), ceremony.folder / "x.json"),
        lambda: sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed),
        lambda: start_draft("other", ceremony.signed),
        lambda: revise(ceremony.signed, ceremony.signed),
        lambda: revise(ceremony.draft, ceremony.folder / "x.json"),
        lambda: ceremony.make("site-1", "site"),
        lambda: write_member(load_keys(ceremony.keys("site-1")), None, ceremony.file("site-1")),
    ]
    for attempt in tries:
        with pytest.raises(RosterError):
            attempt()
    assert ceremony.signed.read_bytes() == before
    assert not (ceremony.folder / "x.json").exists()


def test_only_an_authority_signs_and_it_is_no_member(ceremony: Ceremony) -> None:
    with pytest.raises(RosterError, match="site-1 is a site: an authority signs"):
        sign_draft(ceremony.draft, ceremony.keys("site-1"), ceremony.signed)
    with pytest.raises(RosterError, match="no member of it"):
        ceremony.add("authority")
    with pytest.raises(RosterError, match="the file of a site"):
        authority_key(str(ceremony.file("site-1")))
    with pytest.raises(KeyFileError):
        sign_draft(ceremony.draft, ceremony.folder / "nowhere", ceremony.signed)


@pytest.mark.parametrize("field", list(Member.__dataclass_fields__))
def test_a_member_file_changed_on_its_way_is_refused_though_the_fingerprint_stays(
    ceremony: Ceremony, field: str
) -> None:
    path = ceremony.file("party-1")
    values = json.loads(path.read_text())
    other = json.loads(ceremony.file("party-2").read_text())["member"]
    values["member"][field] = other[field] if field != "role" else "site"
    path.write_text(json.dumps(values))
    with pytest.raises(RosterError):
        read_member(path)


def test_a_member_file_replaced_on_its_way_is_found_out_by_its_fingerprint(ceremony: Ceremony, tmp_path: Path) -> None:
    spoken = read_member(ceremony.file("site-1")).fingerprint
    forged = make_member("site-1", "site", tmp_path / "forged", None, tmp_path / "forged.member.json")
    remove_member(ceremony.draft, "site-1")
    before = ceremony.draft.read_bytes()
    with pytest.raises(RosterError, match="this is another key"):
        add_member(ceremony.draft, forged, spoken)
    assert ceremony.draft.read_bytes() == before
    true = read_member(ceremony.file("site-1"))
    add_member(ceremony.draft, true, spoken.replace("-", " ").upper())


def test_a_name_or_a_key_is_in_a_roster_once(ceremony: Ceremony, tmp_path: Path) -> None:
    with pytest.raises(RosterError, match="site-1 is in the roster already"):
        ceremony.add("site-1")
    twin = new_keys(tmp_path / "twin", "twin", "site")
    stolen = (ceremony.keys("site-1") / "signing.pem").read_bytes()
    twin.signing_path.write_bytes(stolen)
    write_member(load_keys(tmp_path / "twin"), None, tmp_path / "twin.member.json")
    with pytest.raises(RosterError, match="the same signing key"):
        add_member(ceremony.draft, read_member(tmp_path / "twin.member.json"))


def test_a_roster_with_other_keys_for_oneself_is_found_out(ceremony: Ceremony, tmp_path: Path) -> None:
    sign_draft(ceremony.draft, ceremony.keys("authority"), ceremony.signed)
    new_keys(tmp_path / "again", "party-1", "party")
    with pytest.raises(RosterError, match="other keys for party-1"):
        verify_file(ceremony.signed, ceremony.authority, tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "role", "address", "words"),
    [
        ("party-9", "party", None, "--address"),
        ("dealer-9", "dealer", None, "--address"),
        ("site-9", "site", "host:1", "leave --address out"),
        ("party-9", "party", "host", "host:port"),
        ("Site 9", "site", None, "a-z, 0-9 and -"),
        ("site-9", "spy", None, "a role is one of"),
    ],
)
def test_a_member_that_cannot_be_leaves_nothing_behind(
    tmp_path: Path, name: str, role: str, address: str | None, words: str
) -> None:
    with pytest.raises(RosterError, match=words):
        make_member(name, role, tmp_path / "k", address, tmp_path / "k.member.json")
    assert list(tmp_path.iterdir()) == []


def test_a_public_file_never_lies_among_private_keys(tmp_path: Path) -> None:
    with pytest.raises(RosterError, match="nothing is ever sent"):
        make_member("site-1", "site", tmp_path / "k", None, tmp_path / "k" / "site-1.member.json")
    assert list(tmp_path.iterdir()) == []


def test_fewer_than_two_sites_are_no_minimum(ceremony: Ceremony) -> None:
    with pytest.raises(RosterError, match="one site's sum is its update"):
        set_minimum(ceremony.draft, 1)


def test_nobody_is_removed_who_is_not_there(ceremony: Ceremony) -> None:
    with pytest.raises(UnknownMemberError, match="no 'site-9'"):
        remove_member(ceremony.draft, "site-9")
