"""Shares, keys, roster and sealed reports: every byte that is not what was signed and sealed is refused."""

import json
import pickle
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nescient_fl.mpc.envelope import ReportHeader, SealedReport, copy_for, open_copy, seal_report, verify_copy
from nescient_fl.mpc.errors import (
    EncodingError,
    HeaderError,
    KeyFileError,
    MpcError,
    RosterError,
    SealError,
    SignatureInvalidError,
    UnknownMemberError,
)
from nescient_fl.mpc.keys import load_keys, new_keys, public_part
from nescient_fl.mpc.roster import Member, Roster, default_minimum, read_signed, sign_roster, write_signed
from nescient_fl.mpc.shares import decode, encode, expand, join, split
from nescient_fl.mpc.vault import Vault, create_vault

Words = NDArray[np.int64]
SITES = ("site-1", "site-2", "site-3")
VECTOR = np.arange(50, dtype=np.int64) - 25


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return create_vault(tmp_path_factory.mktemp("vault") / "v", "test", SITES, 2, 3)


@pytest.fixture(scope="module")
def roster(vault: Vault) -> Roster:
    return vault.roster()


def header_for(roster: Roster, site: str = "site-1", **changes: Any) -> ReportHeader:
    header = ReportHeader(1, "run", 3, roster.digest, "a" * 64, site, 2, len(VECTOR), 12, 3, "b" * 32)
    return replace(header, **changes)


def opened(vault: Vault, roster: Roster, report: SealedReport, dimension: int = len(VECTOR)) -> Words:
    shares = []
    for rank, party in enumerate(roster.parties):
        copy = copy_for(report, rank)
        header = verify_copy(copy, roster, rank)
        shares.append(open_copy(copy, header, vault.keys(party.name), rank, dimension))
    return join(shares)


# Shares.


@given(arrays(np.int64, st.integers(0, 40)), st.integers(2, 5))
def test_shares_add_up_to_the_secret(secret: Words, parties: int) -> None:
    shared = split(secret, parties)
    assert len(shared.seeds) == parties - 1
    np.testing.assert_array_equal(join([*(expand(s, len(secret)) for s in shared.seeds), shared.last]), secret)


def test_the_shares_of_one_secret_are_uniform_and_never_the_same() -> None:
    first, second = split(np.full(20_000, 7), 2), split(np.full(20_000, 7), 2)
    assert first.seeds != second.seeds
    for words in (first.last, expand(first.seeds[0], 20_000)):
        counts = np.bincount(words.view(np.uint8), minlength=256)
        # Chi-square with 255 degrees of freedom exceeds 420 once in 10^9.
        assert ((counts - 625.0) ** 2 / 625).sum() < 420


def test_fixed_point_by_hand() -> None:
    np.testing.assert_array_equal(encode(np.array([1.5, -0.25, 0.0]), 2), [6, -1, 0])
    np.testing.assert_array_equal(decode(np.array([6, -1, 0]), 2), [1.5, -0.25, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**46, -(2.0**46)])
def test_what_the_ring_cannot_hold_is_refused(bad: float) -> None:
    with pytest.raises(EncodingError):
        encode(np.array([0.0, bad]), 16)


def test_a_secret_is_not_shared_with_one_party() -> None:
    with pytest.raises(ValueError, match="two parties"):
        split(VECTOR, 1)


# Keys.


def test_keys_come_back_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    keys = new_keys(tmp_path / "k", "party-1", "party")
    again = load_keys(tmp_path / "k")
    assert public_part(again) == public_part(keys)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "k").iterdir()} == {0o600}


def test_keys_never_show_themselves(tmp_path: Path) -> None:
    keys = new_keys(tmp_path / "k", "party-1", "party")
    assert repr(keys) == str(keys) == "MemberKeys('party-1', 'party')"
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    new_keys(tmp_path / "k", "site-1", "site")
    with pytest.raises(KeyFileError, match="never overwritten"):
        new_keys(tmp_path / "k", "site-1", "site")


@pytest.mark.parametrize("name", ["signing.pem", "sealing.pem", "certificate.pem", "member.txt"])
@pytest.mark.parametrize("harm", ["missing", "readable", "damaged"])
def test_key_files_that_cannot_be_trusted_are_refused(tmp_path: Path, name: str, harm: str) -> None:
    keys = new_keys(tmp_path / "k", "party-1", "party")
    path = tmp_path / "k" / name
    if harm == "missing":
        path.unlink()
    elif harm == "readable":
        path.chmod(0o640)
    else:
        path.write_text("damaged")
    with pytest.raises((KeyFileError, RosterError)) as caught:
        public_part(load_keys(tmp_path / "k"))
    assert keys.signing.private_bytes_raw().hex() not in str(caught.value)


# Roster.


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
        (lambda m: [x for x in m if x.role != "site"][:] + [x for x in m if x.name == "site-1"], "fewest sites"),
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


# Sealed reports.


def test_a_report_opens_to_what_was_sealed(vault: Vault, roster: Roster) -> None:
    report = seal_report(header_for(roster), split(VECTOR, 2), roster, vault.keys("site-1"))
    np.testing.assert_array_equal(opened(vault, roster, report), VECTOR)


def test_a_report_of_the_lesion_network_takes_less_than_830_000_bytes(vault: Vault, roster: Roster) -> None:
    vector = np.zeros(103_597, np.int64)
    header = header_for(roster, dimension=len(vector))
    report = seal_report(header, split(vector, 2), roster, vault.keys("site-1"))
    assert len(report.header) + len(report.signature) + sum(map(len, report.ciphertexts)) < 830_000


CHANGES: dict[str, Any] = {
    "protocol": 2,
    "run": "other",
    "round": 4,
    "roster": "c" * 64,
    "model": "c" * 64,
    "site": "site-2",
    "parties": 3,
    "dimension": 51,
    "fraction_bits": 13,
    "minimum": 2,
    "report_id": "c" * 32,
}


def test_every_field_of_the_header_is_tried() -> None:
    assert set(CHANGES) == {field.name for field in fields(ReportHeader)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_header_breaks_the_signature(vault: Vault, roster: Roster, field: str) -> None:
    header = header_for(roster)
    report = seal_report(header, split(VECTOR, 2), roster, vault.keys("site-1"))
    changed = replace(report, header=replace(header, **{field: CHANGES[field]}).to_bytes())
    with pytest.raises(SignatureInvalidError):
        opened(vault, roster, changed)


@pytest.mark.parametrize("field", CHANGES)
def test_an_envelope_under_another_header_cannot_be_opened_though_it_is_signed(
    vault: Vault, roster: Roster, field: str
) -> None:
    header = header_for(roster)
    report = seal_report(header, split(VECTOR, 2), roster, vault.keys("site-1"))
    other = replace(header, **{field: CHANGES[field]})
    for rank, party in enumerate(roster.parties):
        copy = replace(copy_for(report, rank), header=other.to_bytes())
        with pytest.raises(SealError, match="cannot be opened"):
            open_copy(copy, other, vault.keys(party.name), rank, len(VECTOR))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["header", "signature", 0, 1]), where=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_any_flipped_bit_or_cut_is_refused(vault: Vault, roster: Roster, part: Any, where: float, flip: int) -> None:
    report = seal_report(header_for(roster), split(VECTOR, 2), roster, vault.keys("site-1"))

    def with_part(data: bytes) -> SealedReport:
        if isinstance(part, str):
            return replace(report, **{part: data})
        envelopes = list(report.ciphertexts)
        envelopes[part] = data
        return replace(report, ciphertexts=tuple(envelopes))

    whole = getattr(report, part) if isinstance(part, str) else report.ciphertexts[part]
    place = int(where * len(whole))
    flipped = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
    for data in (flipped, whole[:place], b"", whole + b"x"):
        with pytest.raises((HeaderError, SignatureInvalidError, SealError, UnknownMemberError)):
            opened(vault, roster, with_part(data))


def test_envelopes_swapped_between_sites_or_parties_are_refused(vault: Vault, roster: Roster) -> None:
    first = seal_report(header_for(roster), split(VECTOR, 2), roster, vault.keys("site-1"))
    second = seal_report(header_for(roster, "site-2"), split(VECTOR, 2), roster, vault.keys("site-2"))
    with pytest.raises(SignatureInvalidError):
        opened(vault, roster, replace(first, ciphertexts=second.ciphertexts))
    with pytest.raises(SignatureInvalidError):
        opened(vault, roster, replace(first, ciphertexts=first.ciphertexts[::-1]))
    copy = replace(copy_for(first, 0), ciphertext=copy_for(second, 0).ciphertext)
    with pytest.raises(SealError, match="not the one it signed"):
        verify_copy(copy, roster, 0)
    copy = copy_for(first, 0)
    with pytest.raises(SealError, match="cannot be opened"):
        open_copy(copy, header_for(roster), vault.keys("party-2"), 0, len(VECTOR))


def test_a_site_cannot_sign_for_another_and_a_stranger_for_nobody(vault: Vault, roster: Roster) -> None:
    with pytest.raises(HeaderError, match="not that of this site"):
        seal_report(header_for(roster, "site-2"), split(VECTOR, 2), roster, vault.keys("site-1"))
    report = seal_report(header_for(roster), split(VECTOR, 2), roster, vault.keys("site-1"))
    forged = replace(report, header=header_for(roster, "site-9").to_bytes())
    with pytest.raises(UnknownMemberError, match="no site 'site-9'"):
        opened(vault, roster, forged)
    party_as_site = replace(report, header=header_for(roster, "party-1").to_bytes())
    with pytest.raises(UnknownMemberError):
        opened(vault, roster, party_as_site)


def test_a_share_of_another_length_is_refused(vault: Vault, roster: Roster) -> None:
    report = seal_report(header_for(roster), split(VECTOR, 2), roster, vault.keys("site-1"))
    with pytest.raises(SealError, match="not 408"):
        opened(vault, roster, report, dimension=51)


@given(st.binary(max_size=300) | st.text().map(str.encode) | st.just(b"[" * 3000))
def test_bytes_that_are_no_header_are_refused(data: bytes) -> None:
    with pytest.raises(HeaderError):
        ReportHeader.from_bytes(data)


def test_a_header_has_one_spelling(roster: Roster) -> None:
    data = header_for(roster).to_bytes()
    values = json.loads(data)
    for other in (
        json.dumps(values).encode(),
        json.dumps({**values, "extra": 1}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({**values, "round": True}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({**values, "round": 3.0}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({**values, "round": -1}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({**values, "run": "x" * 3000}, sort_keys=True, separators=(",", ":")).encode(),
    ):
        with pytest.raises(HeaderError):
            ReportHeader.from_bytes(other)


def test_the_vault_forgets_everything(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    vault.remove()
    assert not (tmp_path / "v").exists()
    with pytest.raises(MpcError, match="are gone"):
        vault.roster()


def test_members_of_a_roster_are_told_apart_by_ear(roster: Roster) -> None:
    prints = {member.fingerprint for member in roster.members}
    assert len(prints) == len(roster.members)
    assert all(isinstance(member, Member) and len(member.fingerprint) == 19 for member in roster.members)
