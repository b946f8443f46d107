"""Federations of real processes: the simulation's model, everybody's own images, and nothing left behind.

Two run side by side, one with keys that it makes and one with keys that were there; all tests look at these two.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from member_files import digests
from studies import SMOKE, StudyProcess, last_model_sha256, model_sha256, run_study

from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.notice import deployed_in
from nescient_fl.deployment.roles import CoordinatorSettings, read_role
from nescient_fl.deployment.status import NO_ANSWER, FederationStatus, federation_status
from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder, read_json, read_lines

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
SHORT = ["--rounds", "1", "--local-epochs", "1", "--device", "cpu", "--encrypted-images", "0"]
ONE_ROUND = [*SMOKE[: SMOKE.index("--rounds")], *SHORT]
WITHOUT_CLIENTS = [*ONE_ROUND[: ONE_ROUND.index("--clients")], *ONE_ROUND[ONE_ROUND.index("--clients") + 2 :]]
"""How many hospitals there are is for the roster to say."""
MEMBERS = ["site-1", "site-2", "site-3", "party-1", "party-2", "dealer"]


@dataclass
class Seen:
    """What was seen of a deployment while it ran.

    Attributes:
        statuses: how its actors were, one after the other.
        links: addresses that its coordinator listened at.
        homes: FLWR_HOME of every process that had one.
        keys: node keys in its private folder, and where each really is.
    """

    statuses: list[FederationStatus] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    homes: set[str] = field(default_factory=set)
    private: Path | None = None
    keys: dict[str, Path] = field(default_factory=dict)

    def look(self, run: Path, study: StudyProcess) -> None:
        """Look at a run once, if its actors run."""
        private = deployed_in(RunFolder(run))
        try:
            self.statuses += federation_status([str(run)], {})
        except UserError:
            return
        if private is None:
            return
        self.private = private
        self.links.add(link_of(private))
        self.keys |= {path.parent.name: path.resolve() for path in private.glob("*/node-key")}
        self.homes |= homes_of(study.processes())


def link_of(private: Path) -> str:
    return read_role(CoordinatorSettings, private / "coordinator" / "coordinator.toml", {}).listen


def homes_of(processes: list[int]) -> set[str]:
    found = set()
    for process in processes:
        try:
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {text.decode().partition("=")[2] for text in variables if text.startswith(b"FLWR_HOME=")}
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    # Short, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def temporary(place: Path) -> Path:
    """The deployments' own temporary folder, so that what they leave can be seen."""
    (place / "t").mkdir()
    return place / "t"


@pytest.fixture(scope="module")
def keys(place: Path) -> Path:
    """The folder of keys that docs/deploy.md has made, by its own commands."""
    (commands,) = re.findall(r"```sh\n# in the folder of one machine\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for port in ("9101", "9102", "9103"):
        assert port in commands
        commands = commands.replace(port, str(free_port()))
    folder = place / "keys"
    folder.mkdir()
    shell = f'set -euo pipefail\nnescient() {{ "{sys.executable}" -m nescient_fl.cli "$@"; }}\n{commands}'
    subprocess.run(["bash", "-c", shell], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@dataclass
class Both:
    """Two finished deployments.

    Attributes:
        made: with keys that it made itself; ``given``: with those of the folder ``keys``.
        shown: what ``nescient status`` said of both as JSON while they trained.
        keys_before: the folder of keys, as it was before.
    """

    made: Path
    given: Path
    seen: dict[str, Seen]
    shown: str
    keys_before: dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def both(place: Path, temporary: Path, keys: Path) -> Iterator[Both]:
    before = digests(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        studies = {
            "made": StudyProcess(*ONE_ROUND, "--out", "made", folder=place, command="deploy"),
            "given": StudyProcess(*WITHOUT_CLIENTS, "--roster", keys, "--out", "given", folder=place, command="deploy"),
        }
    seen = {name: Seen() for name in studies}
    shown = ""
    try:
        deadline = time.monotonic() + 300
        while any(study.process.poll() is None for study in studies.values()):
            for study in studies.values():
                assert study.process.poll() in (None, 0), study.output
                assert time.monotonic() < deadline, study.output
            for name, study in studies.items():
                seen[name].look(place / name, study)
            if not shown and all(one.statuses and one.statuses[-1].round for one in seen.values()):
                command = [sys.executable, "-m", "nescient_fl.status", "made", "given", "--json"]
                shown = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False).stdout
            time.sleep(1.0)
        for study in studies.values():
            assert study.wait() == 0, study.output
        yield Both(place / "made", place / "given", seen, shown, before)
    finally:
        for study in studies.values():
            study.sweep()


@pytest.fixture(scope="module")
def deployed(both: Both) -> Path:
    return both.made


def left_in(folder: Path) -> list[Path]:
    """Return what is left but empty folders: the sockets of a run that can be resumed have one."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_the_model_is_that_of_the_simulation(place: Path, both: Both) -> None:
    run_study(*ONE_ROUND, "--no-baselines", "--out", "simulated", folder=place)
    simulated = place / "simulated"
    for run in (both.made, both.given):
        assert model_sha256(run) == model_sha256(simulated)
        assert last_model_sha256(run) == last_model_sha256(simulated)
        for name in ("sites", "images", "train_loss"):
            assert [line.get(name) for line in read_lines(run / "rounds.jsonl")] == [
                line.get(name) for line in read_lines(simulated / "rounds.jsonl")
            ]


def test_two_side_by_side_have_nothing_in_common(both: Both) -> None:
    made, given = both.seen["made"], both.seen["given"]
    assert len(made.links) == len(given.links) == 1
    assert made.links != given.links
    for one in (made, given):
        assert one.private is not None
        assert len(one.homes) == len(MEMBERS) + 1, "every actor has a home of Flower's of its own"
        assert all(one.private in Path(home).parents for home in one.homes)
    assert made.private != given.private


def test_given_keys_are_used_where_they_are_and_left_as_they_were(both: Both, keys: Path) -> None:
    assert both.seen["given"].keys == {name: keys / f"{name}.node-key" for name in MEMBERS}
    assert digests(keys) == both.keys_before
    assert read_json(both.given / "config.json")["secure"]["given"] == str(keys / "roster.json")
    private = both.seen["made"].private
    assert both.seen["made"].keys == {name: private / name / "node-key" for name in MEMBERS}


def test_status_shows_each_from_its_start_to_its_last_round(both: Both) -> None:
    for name, one in both.seen.items():
        first, last = one.statuses[0], one.statuses[-1]
        assert [actor.name for actor in first.actors] == ["coordinator", *MEMBERS]
        assert any(actor.state == NO_ANSWER for actor in first.actors), "asked before its workers were there"
        assert {status.rounds for status in one.statuses} == {1}
        rounds = [status.round for status in one.statuses]
        assert (first.round, sorted(rounds)) == (0, rounds), name
        assert last.round >= 1
        assert any(status.well for status in one.statuses)
        states = {(actor.role, actor.state) for status in one.statuses for actor in status.actors}
        assert {("coordinator", "running"), ("site", "idle"), ("party", "idle"), ("dealer", "idle")} <= states
    told = json.loads(both.shown)["federations"]
    assert [one["run"] for one in told] == ["made", "given"]
    for one in told:
        assert (one["rounds"], len(one["actors"])) == (1, 7)
        assert all(actor["bytes_in"] > 400_000 for actor in one["actors"] if actor["state"] == "train")
    with pytest.raises(UserError, match=r"no deployment on this machine runs .*made \(finished\)"):
        federation_status([str(both.made)], {})


def test_the_run_folder_says_how_it_was_made(deployed: Path) -> None:
    metrics = read_json(deployed / "metrics.json")
    assert metrics["federation"]["engine"] == "deployment"
    assert metrics["secure"]["enabled"]
    assert metrics["secure"]["max_abs_error"] is None, "only a simulation may compare with updates in clear"
    assert read_json(deployed / "config.json")["command"] == "python -m nescient_fl.deploy"
    assert (deployed / "report.html").exists()


def test_every_message_that_left_a_site_is_in_the_transcript(deployed: Path) -> None:
    lines = read_lines(RunFolder(deployed).transcript)
    kinds = {(line["site"], line["round"], line["kind"]) for line in lines}
    for site in ("site-1", "site-2", "site-3"):
        assert {(site, 0, "name"), (site, 1, "sealed update"), (site, 2, "sealed scores")} <= kinds
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_torch_was_imported_once_an_actor(deployed: Path) -> None:
    """All messages of an actor were answered by one and the same process."""
    lines = [json.loads(line) for line in _log(deployed).splitlines() if line.startswith('{"time"')]
    answered = [line for line in lines if line["event"] == "answered" and line["name"] == "site-1"]
    started = [line for line in lines if line["event"] == "started" and line["name"] == "site-1"]
    assert [line["kind"] for line in answered] == ["query", "train", "train"]
    assert len(started) == 1


def test_nothing_is_left_of_finished_deployments(both: Both, temporary: Path) -> None:
    assert left_in(temporary) == []
    vaults = [Path(read_json(run / "config.json")["secure"]["vault"]) for run in (both.made, both.given)]
    assert [vault for vault in vaults if vault.exists()] == []


PLAIN = ["--phantom-images", "200", "--clients", "1", "--aggregation", "plain", *SHORT, "--partition", "iid"]
ENDINGS = {"Ctrl-C": signal.SIGINT, "kill -9": signal.SIGKILL, "crash": signal.SIGSEGV}


def test_nothing_is_left_however_a_launcher_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies: dict[str, StudyProcess] = {}
    folders: dict[str, Path] = {}
    actors = dict(zip(ENDINGS, (6, 6, 1), strict=True))
    try:
        for name in ENDINGS:
            folders[name] = place / f"t-{ENDINGS[name].name}"
            folders[name].mkdir()
            monkeypatch.setenv("TMPDIR", str(folders[name]))
            options = ONE_ROUND if actors[name] > 1 else PLAIN
            studies[name] = StudyProcess(*options, "--out", ENDINGS[name].name, folder=place, command="deploy")
        links = {}
        for name, study in studies.items():
            # All actors are at work, and Flower's own processes below them have started.
            pattern = "*/*/state/supernode.log"
            study.until(lambda name=name, pattern=pattern: len(list(folders[name].glob(pattern))) == actors[name])  # type: ignore[misc]
            (private,) = folders[name].glob("nescient-*")
            links[name] = link_of(private)
            assert len(study.processes()) > 2 * actors[name]
            assert (private / "authority" / "ca-key.pem").stat().st_mode & 0o077 == 0
        studies["Ctrl-C"].press_ctrl_c()
        studies["kill -9"].kill()
        os.kill(studies["crash"].process.pid, ENDINGS["crash"])
        assert [study.wait() for study in studies.values()] == [130, -signal.SIGKILL, -signal.SIGSEGV]
        for name, study in studies.items():
            assert study.left_after(60) == []
            deadline = time.monotonic() + 30
            while left_in(folders[name]) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left_in(folders[name]) == []
            host, _, port = links[name].partition(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            with pytest.raises(UserError, match=r"no deployment on this machine runs .* \(unfinished"):
                federation_status([str(place / ENDINGS[name].name)], {})
    finally:
        for study in studies.values():
            study.sweep()


def _log(run: Path) -> str:
    return RunFolder(run).engine_log.read_text(errors="replace")
