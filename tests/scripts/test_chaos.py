"""The parts of the chaos campaign, without a federation: what it picks, watches, fills and loses, how it judges."""

import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nescient_fl.lesion.network import weights_sha256
from nescient_fl.lesion.recipe import RECIPES
from nescient_fl.study.run_folder import RunFolder, append_line, write_json
from strategies.state import FederationState, save_state

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of three rounds, the last not yet validated."""
    folder = RunFolder.create(tmp_path / "run")
    write_json(folder.config, {"sites": ["site-1", "site-2"]})
    for number in range(3):
        append_line(folder.rounds, line(number))
    save(folder, 3)
    return folder


def line(number: int, *sites: str, **more: object) -> dict[str, object]:
    return {"round": number, "sites": list(sites or ("site-1", "site-2")), **more}


def save(folder: RunFolder, number: int, *, finished: bool = False) -> FederationState:
    first = FederationState.initial(RECIPES["default"], seed=0)
    state = replace(first, round=number, pending=line(number), finished=finished)
    save_state(folder.checkpoints, state)
    return state


def looked(run: RunFolder, *spoil: Any) -> list[str]:
    """Return what a watch says of a folder that is read, then spoilt and read again, thing after thing."""
    from chaos_watch import Watch

    watch = Watch(run)
    watch.look()
    assert watch.problems == []
    for each in spoil:
        each()
        watch.look()
    return watch.problems


def test_a_good_history_is_followed_round_by_round(run: RunFolder) -> None:
    from chaos_watch import Watch

    watch = Watch(run)
    watch.look()
    assert watch.progress.round == 3
    append_line(run.rounds, line(3))
    append_line(run.rounds, line(4, "site-2"))
    save(run, 5)
    watch.look()
    assert watch.progress.round == 5
    assert watch.progress.lines[4]["sites"] == ["site-2"]
    assert sorted(watch.progress.at) == [1, 2, 3, 4, 5]
    assert watch.problems == []


def test_a_line_that_was_written_without_its_checkpoint_may_be_written_anew(run: RunFolder) -> None:
    whole = run.rounds.read_bytes()
    assert looked(run, lambda: append_line(run.rounds, line(3)), lambda: run.rounds.write_bytes(whole)) == []


def test_a_torn_line_is_found(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = run.rounds.read_bytes()
    half = data[:-1].rpartition(b"\n")[0] + b'\n{"round": 2, "si\n'
    assert "a line that is none" in looked(run, lambda: run.rounds.write_bytes(half))[0]
    run.rounds.write_bytes(data)
    monkeypatch.setattr("chaos_watch._CUT_SECONDS", -1.0)
    tail = [lambda: run.rounds.write_bytes(data + b'{"round": 3'), lambda: None]
    assert "ends in half a line" in looked(run, *tail)[0]


def test_a_tail_that_is_seen_only_once_is_a_line_being_written(run: RunFolder) -> None:
    data = run.rounds.read_bytes()
    whole = data + json.dumps(line(3)).encode() + b"\n"
    steps = [lambda: run.rounds.write_bytes(whole[:-9]), lambda: run.rounds.write_bytes(whole)]
    assert looked(run, *steps) == []


def test_what_is_lost_is_found(run: RunFolder) -> None:
    lines = run.rounds.read_bytes().splitlines(keepends=True)
    assert "had 3 lines and has 1" in looked(run, lambda: run.rounds.write_bytes(lines[0]))[0]
    run.rounds.write_bytes(b"".join(lines))
    gap = looked(run, lambda: run.rounds.write_bytes(lines[0] + lines[2]))
    assert "has the rounds [0, 2]" in gap[0]
    run.rounds.write_bytes(b"".join(lines))
    assert looked(run, run.rounds.unlink) == ["rounds.jsonl is gone"]


def newest(run: RunFolder) -> Path:
    return sorted(run.checkpoints.iterdir())[-1]


def test_a_torn_checkpoint_is_found(run: RunFolder) -> None:
    path = newest(run)
    found = looked(run, lambda: path.write_bytes(path.read_bytes()[:-8]))
    assert len(found) == 1
    assert path.name in found[0]


def test_a_checkpoint_that_is_gone_or_went_back_is_found(run: RunFolder) -> None:
    path = newest(run)
    assert looked(run, path.unlink) == ["the checkpoint is gone"]
    save(run, 3)
    save(run, 4)
    assert looked(run, newest(run).unlink) == ["the checkpoint went back from round 4 to 3"]


def judged(run: RunFolder, *, calm: str, ended: bool = True) -> Any:
    from chaos import judge
    from chaos_watch import Watch

    watch = Watch(run)
    watch.look()
    return judge(run.path, watch, 1, calm, ended=ended)


def test_the_model_must_be_the_undisturbed_one_when_every_site_took_part(run: RunFolder) -> None:
    append_line(run.rounds, line(3))
    model = weights_sha256(save(run, 3, finished=True).weights)
    same = judged(run, calm=model)
    assert (same.same_sites, same.same_model, same.good) == (True, True, True)
    other = judged(run, calm="another")
    assert (other.same_sites, other.same_model, other.good) == (True, False, False)


def test_without_a_site_another_model_is_right(run: RunFolder) -> None:
    append_line(run.rounds, line(3, "site-1"))
    save(run, 3, finished=True)
    verdict = judged(run, calm="another")
    assert (verdict.same_sites, verdict.same_model, verdict.good) == (False, None, True)


def test_a_run_that_did_not_end_or_was_unreadable_is_not_good(run: RunFolder) -> None:
    assert not judged(run, calm="", ended=False).good
    assert judged(run, calm="").problems == ["the run ended before its last model was validated"]
    append_line(run.rounds, line(9))
    save(run, 3, finished=True)
    verdict = judged(run, calm="another")
    assert not verdict.good
    assert "has the rounds [0, 1, 2, 9]" in verdict.problems[0]


def test_every_kind_of_fault_has_its_turn_before_any_comes_again() -> None:
    from chaos_faults import KINDS, in_turn

    picked = list(islice(in_turn(KINDS, random.Random(1)), 2 * len(KINDS)))
    assert sorted(picked[: len(KINDS)]) == sorted(KINDS)
    assert sorted(picked[len(KINDS) :]) == sorted(KINDS)
    assert picked[: len(KINDS)] != picked[len(KINDS) :]
    assert picked == list(islice(in_turn(KINDS, random.Random(1)), 2 * len(KINDS)))
    wanted = {"kill", "freeze", "cut", "lossy", "full", "ahead", "behind"}
    assert {kind.split("-")[0] for kind in KINDS} == wanted


def test_what_a_machine_lacks_is_said_by_name() -> None:
    from chaos_faults import KINDS, missing

    bare: Any = SimpleNamespace(links=SimpleNamespace(how=""), disks=False, coordinator=SimpleNamespace(clock=None))
    able: Any = SimpleNamespace(links=SimpleNamespace(how="x"), disks=True, coordinator=SimpleNamespace(clock=Path()))
    said = {kind: missing(kind, bare) for kind in KINDS}
    assert "namespaces" in said["cut-site"]
    assert "namespaces" in said["lossy-party"]
    assert "disk" in said["full-coordinator"]
    assert "compiler" in said["ahead-site"]
    assert not any(said[kind] for kind in KINDS if kind.startswith(("kill", "freeze")))
    assert not any(missing(kind, able) for kind in KINDS)


def test_the_table_says_how_each_was_recovered_from() -> None:
    from chaos import Fault, make_table

    faults = [
        Fault("kill-site", "site-1", 1, 2, 0.0, 3.0, 4.25, restarts=1),
        Fault("full-coordinator", "coordinator", 1, 3, 45.0, 9.0, 9.0, 0, ["coordinator: disk full"], "disk full"),
        Fault("cut-party", "party-1", 2, 4, 60.0),
        Fault("lossy-site", "site-2", 2, 9, 5.0, ended=True),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(make_table(faults))
    rows = [row.split() for row in console.export_text().splitlines() if "-" in row and "│" in row]
    text = [" ".join(cell for cell in row if cell != "│") for row in rows]
    assert text == [
        "kill-site site-1 1 2 0.0 3.0 4.2 its service",
        "full-coordinator coordinator 1 3 45.0 9.0 9.0 an operator disk full",
        "cut-party party-1 2 4 60.0 never never not at all",
        "lossy-site site-2 2 9 5.0 run ended run ended by itself",
    ]
    assert [fault.recovered for fault in faults] == [True, True, False, True]


def test_a_link_loses_delays_and_is_cut_as_asked() -> None:
    from chaos_hosts import CUT, Link, Relay

    def packet(receiver: int) -> bytes:
        return bytes([0x45, *[0] * 18, receiver])

    relay = Relay(3, random.Random(0))
    relay.take(1, packet(2), 10.0)
    assert list(relay.due(10.0)) == [(2, packet(2))]
    relay.shape("2 200.0 0.05")
    for _ in range(4000):
        relay.take(1, packet(2), 10.0)
    assert list(relay.due(10.19)) == []
    assert relay.wait(10.0) == pytest.approx(0.2)
    arrived = len(list(relay.due(10.21)))
    assert 3740 < arrived < 3860  # 3800, give or take four standard deviations
    relay.shape(f"2 0 {CUT.loss}")
    for sender, receiver in ((1, 2), (2, 1), (3, 2), (1, 3), (1, 4), (1, 0)):
        relay.take(sender, packet(receiver), 20.0)
    relay.take(1, b"\x60" + bytes(39), 20.0)
    assert list(relay.due(30.0)) == [(3, packet(3))]
    with pytest.raises(ValueError, match="from 0 to 1"):
        Link(loss=1.5)


def test_a_disk_is_filled_to_the_last_byte_and_emptied(tmp_path: Path) -> None:
    from chaos_faults import fill
    from chaos_federation import _mounted, may_mount

    if not may_mount():
        pytest.skip("needs the right to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(disk):
        fill(disk / "filling")
        with pytest.raises(OSError, match="No space") as caught:
            append_line(disk / "rounds.jsonl", 1)
        assert caught.value.errno == errno.ENOSPC
        (disk / "filling").unlink()
        append_line(disk / "rounds.jsonl", 1)
        assert (disk / "rounds.jsonl").read_text() == "1\n"


def test_a_clock_is_set_wrong_for_one_program_and_its_sleeps_stay_true(tmp_path: Path) -> None:
    from chaos_federation import build_clock

    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    library = build_clock(tmp_path)
    clock = tmp_path / "clock"
    clock.write_text("+3600\n")
    program = (
        "import time, datetime; a = time.monotonic(); time.sleep(0.2); b = time.monotonic();"
        "print(b - a, time.time(), datetime.datetime.now(datetime.UTC).timestamp())"
    )
    environment = {**os.environ, "LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock)}
    told = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    plain = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    slept, wrong, as_date = map(float, told.stdout.split())
    assert 0.2 <= slept < 5
    assert 3590 < wrong - float(plain.stdout.split()[1]) < 3610
    assert abs(as_date - wrong) < 5


def test_what_an_actor_said_last_and_of_trouble_is_found(tmp_path: Path) -> None:
    from chaos_federation import last_words, said_since

    log = tmp_path / "log"
    log.write_text('{"event": "failed", "reason": "old"}\n')
    size = log.stat().st_size
    with log.open("a") as out:
        out.write('{"event": "node ended", "reason": "this clock is wrong"}\n{"event": "asked"}\nerror: no space\n')
    actor: Any = SimpleNamespace(log=log)
    assert said_since(actor, size) == ["this clock is wrong", "no space"]
    assert last_words(log) == "no space"


@pytest.mark.skipif(not os.environ.get("NESCIENT_CHAOS"), reason="minutes of chaos: set NESCIENT_CHAOS=1 to run it")
def test_a_short_campaign_recovers_from_every_fault() -> None:
    faults = "kill-site,kill-coordinator,cut-site,full-coordinator,ahead-site"
    command = [sys.executable, str(SCRIPTS / "chaos.py"), "--minutes", "5", "--rounds", "8", "--faults", faults]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["injected"] == found["recovered"] >= 2
    assert all(verdict["problems"] == [] for verdict in found["runs"])
