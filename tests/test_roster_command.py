"""The ``roster`` commands: a federation's ceremony from keys to a signed roster, and one line for each mistake."""

import re
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nescient_fl.mpc.keys import load_keys
from nescient_fl.mpc.roster import read_signed
from nescient_fl.roster import roster

Ran = tuple[int, str, str]
Run = Callable[..., Ran]

SITES = ("site-1", "site-2", "site-3")
ADDRESSES = {"party-1": "p1.example.org:7001", "party-2": "p2.example.org:7002", "dealer": "[2001:db8::5]:7003"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_as_module: Run) -> Run:
    """Run one command as the module does, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return partial(run_as_module, roster)


def done(ran: Ran, *words: str) -> str:
    status, said, error = ran
    assert (status, error) == (0, "")
    for word in words:
        assert word in said, said
    return said


def refused(ran: Ran, *words: str) -> None:
    status, _, error = ran
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error, error


@pytest.fixture
def ceremony(run: Run) -> Run:
    """Everybody's keys are made; the draft is begun and has nobody."""
    done(run("keys", "authority", "--role", "authority", "--out", "authority"))
    for name in SITES:
        done(run("keys", name, "--role", "site", "--out", name))
    for name, address in ADDRESSES.items():
        done(run("keys", name, "--role", name.partition("-")[0], "--out", name, "--address", address))
    done(run("start", "lungs", "--out", "draft.json"), "draft of lungs 1", "not yet to be signed")
    return run


@pytest.fixture
def signed(ceremony: Run) -> Run:
    for name in (*SITES, *ADDRESSES):
        done(ceremony("add", "draft.json", f"{name}.member.json"), name)
    done(ceremony("sign", "draft.json", "--keys", "authority", "--out", "roster.json"))
    return ceremony


def test_from_keys_to_a_signed_roster(ceremony: Run, tmp_path: Path) -> None:
    for name in (*SITES, *ADDRESSES):
        said = done(ceremony("add", "draft.json", f"{name}.member.json"), f" {name}, fingerprint ")
    assert "complete, to be signed" in said
    done(ceremony("minimum", "draft.json", "2"))
    done(ceremony("show", "draft.json"), "at least 2 sites", "a draft: complete", *ADDRESSES.values())
    said = done(ceremony("sign", "draft.json", "--keys", "authority", "--out", "roster.json"), "signed by authority")
    assert len(set(re.findall(r"(?:[0-9a-f]{4}-){7}[0-9a-f]{4}", said))) == 7
    authority = load_keys(tmp_path / "authority").signing.public_key().public_bytes_raw().hex()
    found = read_signed(tmp_path / "roster.json", authority)
    assert [member.name for member in found.members] == [*SITES, *ADDRESSES]
    assert (found.federation, found.serial, found.minimum_sites) == ("lungs", 1, 2)
    for trusted in ("authority.member.json", authority):
        done(ceremony("show", "roster.json", "--authority", trusted), "good, by the authority you trust")
        done(ceremony("verify", "roster.json", "--authority", trusted, "--keys", "dealer"), found.digest)


@pytest.mark.usefixtures("signed")
def test_private_keys_are_their_owners_alone_and_nowhere_else(tmp_path: Path) -> None:
    secrets = []
    for name in ("authority", *SITES, *ADDRESSES):
        keys = load_keys(tmp_path / name)
        for key in filter(None, (keys.signing, keys.sealing)):
            raw = key.private_bytes_raw()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            secrets += [raw, raw.hex().encode(), pem.splitlines()[1]]
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name).iterdir()} == {0o600}
    public = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(public) == 7 + 2
    for path in public:
        assert not any(secret in path.read_bytes() for secret in secrets), path


def test_a_signed_roster_is_changed_by_a_successor(signed: Run, tmp_path: Path) -> None:
    before = (tmp_path / "roster.json").read_bytes()
    refused(signed("add", "roster.json", "site-1.member.json"), "nescient roster revise")
    refused(signed("remove", "roster.json", "site-1"), "nescient roster revise")
    done(signed("revise", "roster.json", "--out", "next.json"), "draft of lungs 2")
    done(signed("keys", "site-4", "--role", "site", "--out", "site-4"))
    done(signed("add", "next.json", "site-4.member.json"))
    done(signed("remove", "next.json", "site-1"), "3 sites")
    done(signed("member", "party-1", "--address", "moved.example.org:7001", "--out", "moved.json"))
    done(signed("remove", "next.json", "party-1"))
    done(signed("add", "next.json", "moved.json"))
    done(signed("sign", "next.json", "--keys", "authority", "--out", "roster-2.json"), "serial 2", "moved.example.org")
    trust = ("--authority", "authority.member.json")
    done(signed("verify", "roster-2.json", *trust, "--after", "roster.json"), "lungs 2")
    refused(signed("verify", "roster.json", *trust, "--after", "roster-2.json"), "no successor")
    refused(signed("verify", "roster-2.json", *trust, "--keys", "site-1"), "no site 'site-1'")
    assert (tmp_path / "roster.json").read_bytes() == before


def test_a_changed_roster_and_a_strange_authority_are_told(signed: Run, tmp_path: Path) -> None:
    done(signed("keys", "other", "--role", "authority", "--out", "other"))
    for command in ("show", "verify"):
        refused(signed(command, "roster.json", "--authority", "other.member.json"), "authority")
    done(signed("show", "roster.json"), "is that whom you trust?")
    path = tmp_path / "roster.json"
    path.write_text(path.read_text().replace("p1.example.org", "p7.example.org"))
    refused(signed("show", "roster.json"), "signature does not fit")
    refused(signed("verify", "roster.json", "--authority", "authority.member.json"), "signature does not fit")


def test_a_fingerprint_that_was_read_out_is_held_to(ceremony: Run) -> None:
    refused(ceremony("add", "draft.json", "site-1.member.json", "--fingerprint", "0000-" * 7 + "0000"), "another key")
    said = done(ceremony("keys", "site-4", "--role", "site", "--out", "site-4"))
    spoken = said.split()[-1]
    added = done(ceremony("add", "draft.json", "site-4.member.json", "--fingerprint", spoken), "1 sites")
    assert "read its fingerprint" not in added


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "site-1", "--role", "site", "--out", "site-1"], "there already"),
        (["keys", "site-8", "--role", "site", "--out", "x", "--public", "site-1.member.json"], "there already"),
        (["keys", "site-8", "--role", "site", "--out", "x", "--public", "nowhere/y.json"], "nowhere is no folder"),
        (["keys", "party-8", "--role", "party", "--out", "x"], "--address"),
        (["keys", "party-8", "--role", "party", "--out", "x", "--address", "host:99999"], "host:port"),
        (["keys", "Site", "--role", "site", "--out", "x"], "a-z, 0-9 and -"),
        (["keys", "site-8", "--role", "king", "--out", "x"], "a role is one of"),
        (["keys", "site-8", "--role", "site"], "--out"),
        (["member", "nowhere", "--out", "x.json"], "nowhere/member.txt cannot be read"),
        (["start", "lungs", "--out", "draft.json"], "there already"),
        (["start", "lungs", "--out", "nowhere/draft.json"], "cannot be written"),
        (["revise", "draft.json", "--out", "x.json"], "is a draft"),
        (["add", "nowhere.json", "site-1.member.json"], "cannot be read"),
        (["add", "draft.json", "nowhere.member.json"], "cannot be read"),
        (["add", "draft.json", "draft.json"], "no member file"),
        (["add", "draft.json", "authority.member.json"], "no member of it"),
        (["add", "draft.json", "site-1/signing.pem"], "no JSON"),
        (["remove", "draft.json", "site-1"], "no 'site-1'"),
        (["minimum", "draft.json", "1"], "2 or more"),
        (["minimum", "draft.json", "few"], "few"),
        (["sign", "draft.json", "--keys", "authority", "--out", "x.json"], "two compute parties"),
        (["show", "site-1.member.json"], "no signed roster"),
        (["show", "draft.json", "--authority", "0" * 63], "cannot be read"),
        (["verify", "draft.json", "--authority", "authority.member.json"], "no signed roster"),
        (["verify", "draft.json", "--authority", "site-1.member.json"], "the file of a site"),
        (["crown", "draft.json"], "crown"),
    ],
)
def test_each_mistake_is_one_line_and_changes_nothing(
    ceremony: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused(ceremony(*arguments), words)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "x").exists()


def test_keys_that_others_can_read_sign_nothing(signed: Run, tmp_path: Path) -> None:
    (tmp_path / "authority" / "signing.pem").chmod(0o644)
    refused(signed("sign", "draft.json", "--keys", "authority", "--out", "x.json"), "can be read by others")
    assert not (tmp_path / "x.json").exists()


def test_the_umbrella_command_has_the_group(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "nescient_fl", "roster", "start", "lungs", "--out", str(tmp_path / "d.json")]
    for status in (0, 2):
        ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == status
        assert (ran.stderr == "") == (status == 0)
