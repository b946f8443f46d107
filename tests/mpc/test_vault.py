"""The folder of a simulated federation's keys: private, whole, and gone when it is removed."""

import socket
import stat
from pathlib import Path

import pytest

from nescient_fl.mpc.errors import KeyFileError, MpcError, RosterError
from nescient_fl.mpc.vault import create_vault

SITES = ("site-1", "site-2", "site-3")


def test_the_vault_forgets_everything(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    vault.remove()
    assert not (tmp_path / "v").exists()
    with pytest.raises(MpcError, match="are gone"):
        vault.roster()


def test_everybody_has_keys_that_fit_the_roster(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 3, 3)
    roster = vault.roster()
    assert [member.name for member in roster.sites] == list(SITES)
    assert [member.name for member in roster.parties] == ["party-1", "party-2", "party-3"]
    for member in roster.members:
        keys = vault.keys(member.name)
        assert keys.signing.public_key().public_bytes_raw().hex() == member.signing_key
        assert keys.role == member.role


def test_others_read_nothing_in_it(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    with vault.store("party-1") as store:
        store.remember(["a"], "b")
    assert stat.S_IMODE(vault.folder.stat().st_mode) == 0o700
    for folder in (path for path in vault.folder.iterdir() if path.is_dir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_it_is_never_made_twice(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    before = vault.roster()
    with pytest.raises(FileExistsError):
        create_vault(tmp_path / "v", "test", SITES, 2, 3)
    assert vault.roster() == before


def test_a_changed_roster_or_another_authority_is_refused(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    path = vault.folder / "roster.json"
    text = path.read_text()
    path.write_text(text.replace('"minimum_sites": 3', '"minimum_sites": 2'))
    with pytest.raises(RosterError, match="does not fit"):
        vault.roster()
    path.write_text(text)
    (vault.folder / "authority.txt").write_text("0" * 64)
    with pytest.raises(RosterError, match="another authority"):
        vault.roster()


def test_keys_of_nobody_are_refused(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    with pytest.raises(KeyFileError):
        vault.keys("site-9")


def test_sockets_of_a_long_path_lie_elsewhere_and_go_with_it(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / ("deep" * 25), "test", SITES, 2, 3)
    sockets = [Path(str(party.address).removeprefix("unix:")) for party in vault.roster().parties]
    assert all(len(str(path)) < 100 and path.parent.is_dir() for path in sockets)
    assert stat.S_IMODE(sockets[0].parent.stat().st_mode) == 0o700
    vault.remove()
    assert not any(path.parent.exists() for path in sockets)
    assert not vault.folder.exists()
    vault.remove()


def test_a_damaged_roster_is_no_reason_to_leave_keys_behind(tmp_path: Path) -> None:
    vault = create_vault(tmp_path / "v", "test", SITES, 2, 3)
    (vault.folder / "roster.json").write_text("{")
    vault.remove()
    assert not vault.folder.exists()


def test_sockets_fit_wherever_keys_and_temporary_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    vault = create_vault(deep / "v", "test", SITES, 2, 3)
    try:
        addresses = [member.address for member in vault.roster().members if member.address is not None]
        assert len(addresses) == 3
        for address in addresses:
            path = address.removeprefix("unix:")
            assert len(path) <= 100
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
        (place,) = {Path(address.removeprefix("unix:")).parent for address in addresses}
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    finally:
        vault.remove()
    assert not place.exists()


def test_where_no_socket_fits_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setattr("nescient_fl.mpc.vault._SHORT_PLACES", ())
    with pytest.raises(KeyFileError, match="set TMPDIR to a shorter one"):
        create_vault(deep / "v", "test", SITES, 2, 3)
    assert list(deep.iterdir()) == []
