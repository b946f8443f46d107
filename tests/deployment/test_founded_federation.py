"""Roles started one by one over a run that was founded for them, with differential privacy, as on real hosts.

A coordinator with a changed roster comes first and gets nothing; the right one finishes, although a hospital is
stopped while it trains and the coordinator itself between two rounds.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from host_federation import HostFederation, Role, terminate_all
from member_files import SITES, sign

from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.status import NO_ANSWER, FederationStatus, federation_status
from nescient_fl.mpc.privacy import noise_multiplier_for
from nescient_fl.study.run_folder import read_json, read_lines

pytestmark = pytest.mark.slow

EPSILON, DELTA, ROUNDS = 8.0, 1e-5, 2
MEMBERS = [*SITES, "party-1", "party-2", "dealer"]


@dataclass
class Done:
    """What became of a federation.

    Attributes:
        refused: the coordinator with a changed roster, ``stopped`` the right one before it was stopped, and ``last``
            after that.
        members: each member's last process, ``first`` the hospital's that was stopped at work.
        trained: rounds that were through when the coordinator was stopped.
        healthy: what the health pages of coordinator and site-2 said while they worked, ``over`` after they ended.
    """

    folder: Path
    refused: Role
    stopped: Role
    last: Role
    members: dict[str, Role]
    first: Role
    trained: int
    healthy: FederationStatus
    over: FederationStatus

    @property
    def run(self) -> Path:
        return self.folder / "run"


def changed_roster(federation: HostFederation) -> tuple[Path, Path]:
    """Return a roster that the same authority signed with another minimum, and a run folder of it."""
    roster = sign(federation.folder / "keys", MEMBERS, "changed.json", minimum=2)
    run = federation.folder / "changed"
    shutil.copytree(federation.folder / "run", run)
    shutil.copy(roster, run / "federation" / "roster.json")
    config = read_json(run / "config.json")
    config["secure"]["vault"] = str(run / "federation")
    (run / "config.json").write_text(json.dumps(config))
    return roster, run


@pytest.fixture(scope="module")
def done() -> Iterator[Done]:
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as name:
        federation = HostFederation(Path(name))
        try:
            options = {"rounds": ROUNDS, "local_epochs": 15, "dp_epsilon": EPSILON, "dp_delta": DELTA, "clip": 1.0}
            federation.make(options)
            roster, run = changed_roster(federation)
            refused = federation.coordinator(roster=roster, run=run, state=federation.folder / "c1")
            ports = {"coordinator": free_port(), "site-2": free_port()}
            pages = [f"127.0.0.1:{port}" for port in ports.values()]
            members = {name: federation.member(name, health_port=ports.get(name, 0)) for name in MEMBERS}
            assert refused.ended() == 2, refused.said
            stopped = federation.coordinator(state=federation.folder / "c2", health_port=ports["coordinator"])
            first = members["site-1"]
            first.until(lambda: first.count("asked", kind="train") == 2)
            (healthy,) = federation_status(pages, {})
            assert first.terminate() == 0, first.said
            members["site-1"] = federation.member("site-1")
            rounds = federation.folder / "run" / "rounds.jsonl"
            # The first line tells of the model that the first round began with.
            stopped.until(lambda: len(read_lines(rounds)) >= 1)
            stopped.until(lambda: members["site-2"].count("asked", kind="train", round=2) == 1)
            assert stopped.terminate() == 0, stopped.said
            trained = len(read_lines(rounds))
            last = federation.coordinator(state=federation.folder / "c3")
            assert last.ended() == 0, last.said
            assert terminate_all(members.values()) == [0] * len(MEMBERS)
            (over,) = federation_status(pages, {})
            yield Done(federation.folder, refused, stopped, last, members, first, trained, healthy, over)
        finally:
            federation.end()


def test_every_member_refuses_a_coordinator_with_a_changed_roster(done: Done) -> None:
    reason = "the coordinator holds another roster than this site"
    for name, role in {**done.members, "site-1": done.first}.items():
        assert role.count("failed", kind="train", error="HeaderError", reason=reason) == (name in SITES), name
        assert f"{name}: {reason}" in done.refused.said or name not in SITES
    assert "mend them and start the coordinator again to go on" in done.refused.said
    assert not (done.folder / "changed" / "model.safetensors").exists()
    assert read_lines(done.folder / "changed" / "privacy.jsonl") == []


def test_a_hospital_that_is_stopped_at_work_answers_first_and_is_not_asked_twice(done: Done) -> None:
    stopping = done.first.count("stopping", state="train")
    assert (stopping, done.first.count("stopped", unfinished=False)) == (1, 1)
    assert done.first.count("answered", kind="train", round=1) == 1
    assert done.members["site-1"].count("asked", kind="train", round=1) == 0
    assert read_lines(done.run / "rounds.jsonl")[1]["sites"] == list(SITES)


def test_the_run_goes_on_where_the_coordinator_was_stopped(done: Done) -> None:
    assert done.trained == 1
    assert done.stopped.count("stopping") == 1
    assert [line["round"] for line in read_lines(done.run / "rounds.jsonl")] == [0, 1, 2]
    assert done.last.count("model written") == 1
    assert (done.run / "model.safetensors").exists()
    for name in SITES:
        left = read_lines(done.folder / f"{name}.state" / "transcript.jsonl")
        assert [line["round"] for line in left if line["kind"] == "sealed update"].count(1) == 1


def test_every_sum_was_paid_for_once_and_within_the_budget(done: Done) -> None:
    multiplier = noise_multiplier_for(EPSILON, DELTA, ROUNDS + 1)
    lines = read_lines(done.run / "privacy.jsonl")
    assert len({line["sum"] for line in lines}) == len(lines) == ROUNDS + 1
    assert {(line["noise_multiplier"], line["delta"]) for line in lines} == {(multiplier, DELTA)}
    spent = [line["epsilon"] for line in lines]
    assert spent == sorted(spent)
    assert 0.9 * EPSILON < spent[-1] <= EPSILON * (1 + 1e-9)
    for line in read_lines(done.run / "rounds.jsonl"):
        assert line["validation"]["images"] is None, "how many there are is not told with noise"
        assert line["validation_by_site"] == []


def test_health_pages_answer_while_roles_work(done: Done) -> None:
    coordinator, site = done.healthy.actors
    assert done.healthy.well
    assert (coordinator.name, coordinator.role, coordinator.state) == ("coordinator", "coordinator", "running")
    assert (site.name, site.role) == ("site-2", "site")
    assert site.bytes_in > 400_000
    assert [actor.state for actor in done.over.actors] == [NO_ANSWER, NO_ANSWER]


def test_logs_are_lines_of_json(done: Done) -> None:
    for role in (*done.members.values(), done.first, done.stopped, done.last):
        assert "error: " not in role.said
        for line in role.events:
            assert {"time", "role", "name", "event"} <= line.keys()
