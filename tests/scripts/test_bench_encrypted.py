"""The benchmark of encrypted inference runs and gives finite figures, and its slow network is as slow as it says."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_quick_run_measures_ours_and_stock_crypten_on_loopback(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPTS / "bench_encrypted.py"), "--quick", "--only", "loopback", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["quick"] is True
    stock = [line for line in written["lines"] if "stock" in line["what"] and line["unit"] == "s"]
    assert len(stock) == 2
    ratio = next(line for line in written["lines"] if line["what"] == "batch 1: stock TFP / ours")
    assert ratio["median"] > 1
    rounds = next(line for line in written["lines"] if line["what"].endswith("ours, rounds"))
    assert 0 < rounds["median"] <= rounds["target"] == 70
    for line in stock:
        assert math.isfinite(line["median"])
        # It moves 88 MB an image: quicker than this it did not run.
        assert line["median"] > 0.05
        assert "87.7 MB" in line["note"]


PING = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 5000), timeout=20) as link:
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b"x")
    link.recv(1)
    started = time.monotonic()
    link.sendall(b"x")
    link.recv(1)
    print(time.monotonic() - started)
"""
PONG = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    while data := link.recv(1):
        link.sendall(data)
"""


GIVE = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=20) as link:
    link.sendall(bytes(4_000_000))
"""
TAKE = """
import socket, time
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    started, count = time.monotonic(), 0
    while data := link.recv(1 << 16):
        count += len(data)
    print(count, time.monotonic() - started)
"""


def test_a_slow_network_sends_no_faster_than_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_links import Condition, may_make_namespaces, network

    if not may_make_namespaces():
        pytest.skip("needs the right to make network namespaces")
    with network(2, Condition(rate=50)) as net:
        taker, giver = net.hosts
        with subprocess.Popen([*taker.prefix, sys.executable, "-c", TAKE], stdout=subprocess.PIPE, text=True) as take:
            assert take.stdout is not None
            assert take.stdout.readline() == "ready\n"
            subprocess.run([*giver.prefix, sys.executable, "-c", GIVE, taker.address], check=True)
            count, seconds = take.stdout.readline().split()
    assert int(count) == 4_000_000
    # 32 Mb take 0.64 s at 50 Mb/s; a bucket lets its first 0.13 MB through at once.
    assert 0.55 < float(seconds) < 5


def test_only_a_rate_alone_can_be_made_by_a_token_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_links import NETEM, TOKEN_BUCKET, Condition, _disciplines

    assert list(_disciplines(Condition(20))) == [NETEM]
    assert list(_disciplines(Condition(20, 100))) == [NETEM]
    assert list(_disciplines(Condition(rate=100))) == [NETEM, TOKEN_BUCKET]
    assert _disciplines(Condition(20, 100))[NETEM][-2:] == ["rate", "100mbit"]


def test_a_slow_network_delays_every_message_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_links import Condition, may_make_namespaces, network

    if not may_make_namespaces():
        pytest.skip("no right to make network namespaces here")
    with network(2, Condition(delay=40)) as net:
        one, other = net.hosts
        server = subprocess.Popen([*other.prefix, sys.executable, "-c", PONG], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            command = [*one.prefix, sys.executable, "-c", PING, other.address]
            seconds = float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        finally:
            server.kill()
            server.wait()
    assert 0.08 <= seconds < 5


@pytest.mark.slow
def test_many_radiographs_are_scored_as_in_clear(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPTS / "bench_encrypted.py"), "--quick", "--only", "many", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    flipped, wrapped, error = json.loads(out.read_text())["lines"]
    assert (flipped["median"], wrapped["median"]) == (0, 0)
    assert 0 < error["median"] <= 1e-3


def test_targets_stand_where_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_encrypted import Found, described

    found = {
        "ours": Found(8, (0.8,), 41, 11e6, (1e-4,), ahead=(0.8,)),
        "stock TFP": Found(8, (16.0,), 110, 700e6, (1e-4,)),
        "stock TTP": Found(8, (24.0,), 110, 700e6, (1e-4,)),
    }
    lines = {line.what: line for line in described("loopback", "batch 8", found, "")}
    assert lines["batch 8: stock TFP / ours"].median == pytest.approx(20)
    assert lines["batch 8: stock TFP / ours"].target == 8
    assert lines["batch 8: stock TTP / ours"].target is None
    assert lines["batch 8: stock TFP / ours with its material"].median == pytest.approx(10)
    assert lines["batch 8: ours, an image"].passed is True
    slow = {line.what: line for line in described("delay", "20 ms, batch 8", found, "by tc netem")}
    assert all(line.target is None for line in slow.values())
    assert slow["20 ms, batch 8: ours, an image"].note.endswith("by tc netem")


def test_figures_are_told_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_encrypted import Found

    found = Found(8, (16.0, 24.0), 110, 80e6, (1e-5,))
    assert found.each == (2.0, 3.0)
    assert found.megabytes == 10.0


def test_a_condition_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_links import Condition

    said: dict[str, Any] = {
        str(Condition()): "loopback",
        str(Condition(20)): "20 ms",
        str(Condition(rate=1000)): "1 Gb/s",
        str(Condition(5, 100)): "5 ms, 100 Mb/s",
    }
    assert all(key == value for key, value in said.items())
