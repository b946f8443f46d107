"""Key files: their owner's alone, never overwritten, never shown, refused when they cannot be trusted."""

import os
import pickle
import stat
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.mpc.errors import KeyFileError, MpcError, RosterError
from nescient_fl.mpc.keys import MemberKeys, load_keys, new_keys, public_part


def secrets_of(keys: MemberKeys) -> list[str]:
    """Every way in which a member's private keys could be written."""
    spellings: list[str] = []
    for key in filter(None, (keys.signing, keys.sealing)):
        raw = key.private_bytes_raw()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        spellings += [raw.hex(), repr(raw)[2:-1], pem.splitlines()[1]]
    return spellings


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


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_no_umask_opens_the_files_to_others(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        new_keys(tmp_path / "k", "dealer", "dealer")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o700
    assert not any(path.stat().st_mode & 0o077 for path in (tmp_path / "k").iterdir())


@pytest.mark.parametrize(
    ("role", "files"),
    [
        ("site", {"signing.pem", "member.txt"}),
        ("authority", {"signing.pem", "member.txt"}),
        ("dealer", {"signing.pem", "certificate.pem", "member.txt"}),
        ("party", {"signing.pem", "sealing.pem", "certificate.pem", "member.txt"}),
    ],
)
def test_each_role_has_the_keys_it_needs(tmp_path: Path, role: str, files: set[str]) -> None:
    keys = new_keys(tmp_path / "k", "member", role)
    assert {path.name for path in (tmp_path / "k").iterdir()} == files
    again = load_keys(tmp_path / "k")
    assert (again.name, again.role, again.folder) == ("member", role, tmp_path / "k")
    assert secrets_of(again) == secrets_of(keys)


def test_a_role_that_is_none_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="a role is one of"):
        new_keys(tmp_path / "k", "site-1", "spy")
    with pytest.raises(RosterError, match="a member's name"):
        new_keys(tmp_path / "k", "../site", "site")
    assert not (tmp_path / "k").exists()


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    new_keys(tmp_path / "k", "party-1", "party")
    signing, sealing = tmp_path / "k" / "signing.pem", tmp_path / "k" / "sealing.pem"
    first, second = signing.read_bytes(), sealing.read_bytes()
    signing.write_bytes(second)
    with pytest.raises(KeyFileError, match="is no Ed25519 key"):
        load_keys(tmp_path / "k")
    signing.write_bytes(first)
    sealing.write_bytes(first)
    with pytest.raises(KeyFileError, match="is no X25519 key"):
        load_keys(tmp_path / "k")


def test_a_certificate_of_other_keys_is_no_public_part(tmp_path: Path) -> None:
    new_keys(tmp_path / "a", "party-1", "party")
    new_keys(tmp_path / "b", "party-1", "party")
    other = (tmp_path / "b" / "certificate.pem").read_bytes()
    (tmp_path / "a" / "certificate.pem").write_bytes(other)
    with pytest.raises(RosterError, match="not that of its signing key"):
        public_part(load_keys(tmp_path / "a"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["signing.pem", "sealing.pem", "certificate.pem", "member.txt"]),
    st.floats(0, 0.999),
    st.binary(max_size=4),
    st.booleans(),
)
def test_a_damaged_key_is_refused_without_showing_it(name: str, where: float, put: bytes, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = new_keys(Path(folder) / "k", "party-1", "party")
        path = Path(folder) / "k" / name
        whole = path.read_bytes()
        place = int(where * len(whole))
        path.write_bytes(whole[:place] if cut else whole[:place] + put + whole[place + 1 :])
        reason = ""
        try:
            public_part(load_keys(Path(folder) / "k"))  # another letter of a name is a name, say
        except MpcError as refused:
            reason = str(refused)
        assert not any(secret in reason for secret in secrets_of(keys))


def test_the_public_part_holds_nothing_private(tmp_path: Path) -> None:
    keys = new_keys(tmp_path / "k", "party-1", "party")
    assert not any(secret in repr(public_part(keys, "host:1")) for secret in secrets_of(keys))
