"""Sealed reports: every byte that is not what was signed and sealed is refused."""

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nescient_fl.mpc.envelope import ReportHeader, SealedReport, copy_for, open_copy, seal_report, verify_copy
from nescient_fl.mpc.errors import (
    HeaderError,
    SealError,
    SignatureInvalidError,
    UnknownMemberError,
)
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.shares import join, split
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
