"""Real links and processes: a coordinator's host that is replaced, and a site that is late.

Three runs of one federation, whose members stay as they are: one undisturbed; one whose coordinator's host is replaced
in the second round; one in which a site is frozen beyond a round's deadline.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from host_federation import STUDY, HostFederation, Role
from moving_links import MovingLink

from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.founding import found_run
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.study.run_folder import RunFolder, read_lines
from strategies.federation import TOO_LATE
from strategies.state import load_state

pytestmark = pytest.mark.slow

SITES = ("site-1", "site-2", "site-3", "site-4", "site-5")
ROUNDS = 2
DEADLINE = 15.0
"""Seconds of a round of the last run; an undisturbed one takes a few."""


def sha256_of(run: Path) -> str:
    state = load_state(RunFolder(run).checkpoints)
    assert state is not None
    assert state.finished
    return weights_sha256(state.weights)


def sites_of(run: Path) -> dict[int, list[str]]:
    return {line["round"]: line["sites"] for line in read_lines(run / "rounds.jsonl") if line["round"]}


def answered(role: Role) -> list[tuple[int, int]]:
    """Return number and bytes of each round's answer, in the order in which they were given."""
    return [
        (line["round"], line["bytes"])
        for line in role.events
        if (line["event"], line.get("kind")) == ("answered", "train")
    ]


@dataclass
class Done:
    """The runs' folders, the last coordinator of each, and which orders site-1 answered in each, by round."""

    plain: Path
    moved: Path
    late: Path
    plain_coordinator: Role
    moved_coordinator: Role
    late_coordinator: Role
    orders: dict[str, list[int]]


@pytest.fixture(scope="module")
def done() -> Iterator[Done]:
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="l", dir="/tmp") as name:
        folder = Path(name)
        federation = HostFederation(folder)
        links = {member: MovingLink(federation.port) for member in (*SITES, "party-1", "party-2", "dealer")}
        try:
            federation.make({"rounds": ROUNDS, "min_sites": 4}, SITES)
            members = {
                member: federation.member(member, superlink=f"127.0.0.1:{link.port}") for member, link in links.items()
            }
            yield conduct(federation, links, members)
        finally:
            federation.end()
            for link in links.values():
                link.close()


def conduct(federation: HostFederation, links: dict[str, MovingLink], members: dict[str, Role]) -> Done:
    folder, given = federation.folder, federation.given
    site = members["site-1"]
    orders: dict[str, list[int]] = {}

    def started(run: Path, **changes: Any) -> Role:
        """Start a coordinator at a port of its own, and lead every link there."""
        port = free_port()
        for link in links.values():
            link.target = port
        return federation.coordinator(run=run, state=folder / f"c{port}", listen=f"127.0.0.1:{port}", **changes)

    def new_run(name: str, **options: Any) -> Path:
        chosen = {**STUDY, "rounds": ROUNDS, "min_sites": 4, **options}
        return found_run(folder / name, given.path, given.authority, 128, chosen).path

    def finished(coordinator: Role, name: str, before: int) -> None:
        assert coordinator.ended() == 0, coordinator.said
        orders[name] = [number for number, _ in answered(site)[before:]]

    plain = folder / "run"
    plain_coordinator = started(plain)
    finished(plain_coordinator, "plain", 0)

    # It begins with the same model, whose sum the parties would remember.
    for party in ("party-1", "party-2"):
        assert members[party].terminate() == 0, members[party].said
        link = f"127.0.0.1:{links[party].port}"
        members[party] = federation.member(party, superlink=link, memory=folder / f"{party}.second.sqlite")
    run, before = new_run("second"), len(answered(site))
    first = started(run)
    # The second round is under way: the first one's line is known when its model was scored.
    first.until(lambda: members["site-2"].count("asked", kind="train", round=2) > 1)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    moved = folder / "elsewhere" / "copied"
    shutil.copytree(run, moved)
    shutil.copytree(folder / "keys" / "link", folder / "elsewhere" / "link")
    shutil.copytree(folder / "nodes", folder / "elsewhere" / "nodes")
    run.rename(folder / "gone")
    there = folder / "elsewhere"
    certificate = {
        "certificate": there / "link" / given.link.certificate.name,
        "key": there / "link" / given.link.key.name,
    }
    moved_coordinator = started(moved, nodes=there / "nodes", **certificate)
    finished(moved_coordinator, "moved", before)

    # It trains for long enough to be frozen at it.
    run, before = new_run("late", round_timeout=DEADLINE, local_epochs=8, seed=1), len(answered(site))
    late = members["site-5"]
    begun, worked = late.count("asked", kind="train", round=1), len(answered(late))
    late_coordinator = started(run)
    late_coordinator.until(lambda: late.count("asked", kind="train", round=1) > begun)
    os.kill(late.process.pid, signal.SIGSTOP)
    assert len(answered(late)) == worked, "it had answered before it was frozen"
    twice = members["site-2"].count("asked", kind="train", round=2)
    late_coordinator.until(lambda: members["site-2"].count("asked", kind="train", round=2) > twice)
    os.kill(late.process.pid, signal.SIGCONT)
    finished(late_coordinator, "late", before)
    return Done(plain, moved, run, plain_coordinator, moved_coordinator, late_coordinator, orders)


def test_another_host_goes_on_from_a_copied_run_folder_to_the_same_model(done: Done) -> None:
    assert [line["round"] for line in read_lines(done.moved / "rounds.jsonl")] == [0, 1, 2]
    for run in (done.plain, done.moved):
        assert sites_of(run) == {1: list(SITES), 2: list(SITES)}
    assert done.orders["moved"].count(1) == 1, "the first round was through"
    assert done.moved_coordinator.count("model written") == 1
    assert sha256_of(done.moved) == sha256_of(done.plain)


def test_a_late_sites_round_closes_without_it_and_its_answer_is_thrown_away(done: Done) -> None:
    assert sites_of(done.late)[1] == list(SITES[:4])
    first = read_lines(done.late / "rounds.jsonl")[1]
    assert first["failures"] == [{"site": "site-5", "reason": f"no answer within {DEADLINE:g} s"}]
    told = [
        (event["round_number"], event["site"])
        for event in read_lines(done.late_coordinator.state / "events.jsonl")
        if event["event"] == "site_answered" and event["problem"] == TOO_LATE
    ]
    assert told == [(1, "site-5")]
    assert "site-5" in sites_of(done.late)[2], "it takes part again"
