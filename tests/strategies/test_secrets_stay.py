"""Private keys stay in their folders: not in the run folder, not on the wire, not in a log, not in an error."""

import base64
import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Message, RecordDict
from secure_grid import NAMES, SecureFederation, SecureGrid

from nescient_fl.errors import UserError
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.mpc.envelope import SealedReport
from nescient_fl.mpc.keys import load_keys
from nescient_fl.mpc.vault import Vault
from nescient_fl.sealed_messages import refusal_content
from nescient_fl.study.run_folder import RunFolder
from sites.transcript import record_departure
from strategies.federation import FederatedAveraging, FederationPlan


def spellings(vault: Vault) -> dict[str, bytes]:
    """Every way in which a private key of the federation could be written, by whose it is."""
    found: dict[str, bytes] = {}
    for folder in sorted(path for path in vault.folder.iterdir() if path.is_dir()):
        keys = load_keys(folder)
        for kind, key in (("signing", keys.signing), ("sealing", keys.sealing)):
            if key is None:
                continue
            raw = key.private_bytes_raw()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1]
            whose = f"{folder.name} {kind}"
            found |= {
                f"{whose} raw": raw,
                f"{whose} hex": raw.hex().encode(),
                f"{whose} base64": base64.b64encode(raw).rstrip(b"="),
                f"{whose} url": base64.urlsafe_b64encode(raw).rstrip(b"="),
                f"{whose} repr": repr(raw)[2:-1].encode(),
                f"{whose} PEM": pem,
            }
    return found


def leaks(secrets: dict[str, bytes], where: bytes) -> list[str]:
    """Whose keys are in some bytes, in either case of hex."""
    lower = where.lower()
    return [name for name, text in secrets.items() if text in where or (" hex" in name and text in lower)]


def bytes_of(content: RecordDict) -> bytes:
    pieces = [repr(sorted(content)).encode()]
    for record in content.config_records.values():
        pieces += [value if isinstance(value, bytes) else str(value).encode() for value in record.values()]
    pieces += [array.data for record in content.array_records.values() for array in record.values()]
    return b"\0".join(pieces)


class WatchedGrid(SecureGrid):
    """Keeps the bytes of every message in both directions."""

    wire: list[bytes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        given = list(messages)
        self.wire += [bytes_of(message.content) for message in given]
        return super().push_messages(given)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.wire += [bytes_of(reply.content) for reply in replies if reply.has_content()]
        return replies


class Recorder:
    """A watcher that keeps whatever it is told."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def sites_joined(self, names: Any) -> None: ...

    def site_answered(self, *told: Any) -> None:
        self.lines.append(told)

    def round_aborted(self, *told: Any) -> None:
        self.lines.append(told)

    def round_validated(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def plan_for(secure: SecureFederation, folder: Path) -> FederationPlan:
    return FederationPlan(
        run=RunFolder.create(folder).path,
        sites=4,
        rounds=2,
        local_epochs=1,
        seed=7,
        recipe=RECIPES["default"],
        asked_sites=4,
        needed_sites=3,
        round_timeout=60.0,
        join_timeout=5.0,
        secure=secure.plan(),
    )


def test_the_search_finds_a_key_however_it_is_written(tmp_path: Path) -> None:
    secure = SecureFederation.create(tmp_path / "keys", NAMES)
    secrets = spellings(secure.vault)
    assert len(secrets) == 6 * (4 + 2 * 2 + 1 + 1)  # sites, parties with two keys each, dealer, authority
    for name, text in secrets.items():
        assert name in leaks(secrets, b"before" + text + b"after")
    assert leaks(secrets, b"before after") == []


def test_no_private_key_leaves_its_folder_whatever_goes_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secure = SecureFederation.create(tmp_path / "keys", NAMES)
    secrets = spellings(secure.vault)

    def cut(report: SealedReport) -> SealedReport:
        return replace(report, signature=report.signature[::-1])

    grid = WatchedGrid(secure.sites(d={"tampered": cut}), secure.vault)
    grid.wire = []
    # The first sum fails at a party, and is tried again; one site's report never counts.
    grid.spoil = lambda _, number, content: (
        refusal_content("SessionAborted", "party-2 was silent for too long", "party-2") if number == 1 else content
    )
    plan, watcher = plan_for(secure, tmp_path / "run"), Recorder()
    FederatedAveraging(plan, watcher, threading.Event()).start(grid)
    assert grid.sums > 3
    for site in grid.sites.values():
        if hasattr(site, "sealed"):
            content = RecordDict()
            record_departure(RunFolder(plan.run).transcript, site.name, None, content)

    errors = []
    broken = SecureFederation.create(tmp_path / "other", NAMES[:3])
    spoilt = WatchedGrid(broken.sites(a={"tampered": cut}), broken.vault)
    spoilt.wire = []
    secrets |= {f"other {name}": text for name, text in spellings(broken.vault).items()}
    failing = replace(plan_for(broken, tmp_path / "failed"), sites=3, asked_sites=3, secure=broken.plan())
    with pytest.raises(UserError) as refused:
        FederatedAveraging(failing, watcher, threading.Event()).start(spoilt)
    errors.append(refused.value)
    for folder in ("signing.pem", "sealing.pem"):
        path = broken.vault.folder / "party-1" / folder
        path.write_text(path.read_text().replace("\n", "\nx", 1))
        with pytest.raises(Exception, match="damaged") as damaged:
            broken.vault.keys("party-1")
        errors.append(damaged.value)

    said = capfd.readouterr()
    files = [path for name in ("run", "failed") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert {"rounds.jsonl", "transcript.jsonl"} <= {path.name for path in files}
    assert len(grid.wire) > 20
    places = {
        "the run folder": b"\0".join(path.read_bytes() for path in files),
        "the wire": b"\0".join([*grid.wire, *spoilt.wire]),
        "the log": caplog.text.encode(),
        "the terminal": (said.out + said.err).encode(),
        "what the watcher was told": repr(watcher.lines).encode(),
        "errors": repr([(error, error.args, error.__context__, error.__cause__) for error in errors]).encode(),
        "the roster": (secure.vault.folder / "roster.json").read_bytes(),
    }
    assert {where: leaks(secrets, data) for where, data in places.items()} == {where: [] for where in places}
