"""The walk of docs/deploy.md, executed as it stands: three hosts as network namespaces, each with its own images.

All that crosses the wire between them meanwhile is captured.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import sniffer
import torch
from toy_dataset import write_toy_dataset

from nescient_fl.deployment import reaper
from nescient_fl.deployment.site_data import open_site_folder
from nescient_fl.lesion.network import build_network, get_weights
from nescient_fl.lesion.recipe import RECIPES, recipe_to_json
from nescient_fl.messages import RoundOrder
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.study.run_folder import read_lines
from sites.site import Site

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "deploy.md"
HOSTS = {"host-1": "10.77.0.1", "host-2": "10.77.0.2", "host-3": "10.77.0.3"}
_BLOCK = re.compile(r"```sh\n# on (host-\d)(?:, (\w+))?\n(.*?)```", re.DOTALL)
_SHELL = """
set -euo pipefail
nescient() { "$PYTHON" -m nescient_fl.cli "$@"; }
scp() { local to="${@: -1}"; cp "${@:1:$#-1}" "$HOSTS/${to%%:*}/${to#*:}"; }
"""
_CONTROL = """
"$PYTHON" - <<'END'
import http.client, ssl
link = http.client.HTTPSConnection("10.77.0.1", 9092, context=ssl.create_default_context(cafile="ca.pem"))
for path, wanted in (("/v1/control/start-run", 403), ("/v1/runtime/acquire-task", 403), ("/health", 200)):
    link.request("POST" if path.startswith("/v1") else "GET", path)
    answer = link.getresponse()
    answer.read()
    assert answer.status == wanted, (path, answer.status)
END
"""
"""From another host nobody starts runs of their own at the link."""
_PLAIN = """
"$PYTHON" - <<'END'
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"this is what plain text looks like", ("10.77.0.1", 9))
END
"""
"""What is captured can be read where it is not encrypted."""
LETTERS = dict(zip(HOSTS, "abc", strict=True))
STUDY = """rounds = 1
local-epochs = 1
min-images = 20
min-positives = 4
"""


def blocks() -> list[tuple[str, str, str]]:
    """Return host, way (check, stays or nothing) and commands of every block of the page."""
    return [(host, way, commands) for host, way, commands in _BLOCK.findall(PAGE.read_text())]


def can_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    name = f"probe{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return made.returncode == 0


@dataclass
class Network:
    """Three hosts on one wire."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def names(self) -> dict[str, str]:
        return {host: f"n{os.getpid()}{host[-1]}" for host in HOSTS}

    @property
    def hub(self) -> str:
        return f"n{os.getpid()}h"

    def make(self) -> None:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True)

        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "link", "set", "br0", "up")
        for host, name in self.names.items():
            ip("netns", "add", name)
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", self.hub)
            ip("-n", self.hub, "link", "set", host, "master", "br0", "up")
            ip("-n", name, "address", "add", f"{HOSTS[host]}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        reaper.end_all(self.mark)
        for name in (*self.names.values(), self.hub):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def capture(self, path: Path) -> "subprocess.Popen[bytes]":
        """Write all that crosses the wire between the hosts to a file, from the moment that this returns."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.hub, sys.executable, sniffer.__file__, path],
            env={**os.environ, reaper.MARK: self.mark},
        )
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    def start(self, host: str, commands: str, log: Path, *, alone: bool) -> "subprocess.Popen[bytes]":
        """Run commands on a host; ``alone`` with the other hosts' folders out of reach."""
        hidden = "".join(f"mount -t tmpfs none {self.folder / other}\n" for other in HOSTS if other != host)
        environment = {
            **os.environ,
            **{reaper.MARK: self.mark, "PYTHON": sys.executable, "HOSTS": str(self.folder), "OMP_NUM_THREADS": "1"},
            **{
                "RADIOGRAPHS": str(self.folder / host / "radiographs"),
                "EXAMPLES": str(self.folder / host / "examples"),
            },
            "PYTHONPATH": str(ROOT),
        }
        with log.open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.names[host], "bash", "-c", (hidden if alone else "") + _SHELL + commands],
                cwd=self.folder / host,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        network = Network(Path(folder))
        try:
            network.make()
            yield network
        finally:
            network.remove()


@dataclass
class Walked:
    """What came of the walk: the hosts' folders, and all that crossed the wire."""

    folder: Path
    captured: bytes

    @property
    def run(self) -> Path:
        return self.folder / "host-1" / "run"

    def data(self, host: str) -> Path:
        return self.folder / host / f"hospital-{LETTERS[host]}.data"


@pytest.fixture(scope="module")
def walked(network: Network) -> Walked:
    for seed, host in enumerate(HOSTS):
        home = network.folder / host
        write_toy_dataset(home / "radiographs", seed=seed)
        subprocess.run(["cp", "-r", ROOT / "docs" / "examples", home / "examples"], check=True)
        (home / "examples" / "study.toml").write_text(STUDY)
    wire = network.folder / "wire"
    capturing = network.capture(wire)
    plain = network.folder / "plain.log"
    assert network.start("host-2", _PLAIN, plain, alone=False).wait(60) == 0, plain.read_text()
    running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
    for number, (host, way, commands) in enumerate(blocks()):
        log = network.folder / f"{number}.log"
        process = network.start(host, commands, log, alone=way == "stays")
        if way == "stays":
            running.append((commands, process, log))
        else:
            assert process.wait(240) == 0, f"{host}: {commands}\n{log.read_text()}"
        if "nescient coordinator" in commands and way == "stays":
            link = network.folder / "host-1" / "coordinator-state" / "superlink.log"
            wait_for(lambda link=link: link.exists() and "Uvicorn running" in link.read_text(), process, log)
    refused = network.folder / "refused.log"
    assert network.start("host-2", _CONTROL, refused, alone=False).wait(120) == 0, refused.read_text()
    commands, coordinator, log = running[0]
    assert "coordinator" in commands
    assert coordinator.wait(400) == 0, log.read_text() + "".join(path.read_text() for _, _, path in running[1:])
    capturing.terminate()
    capturing.wait()
    return Walked(network.folder, wire.read_bytes())


needs_namespaces = pytest.mark.skipif(not can_make_namespaces(), reason="only root may make network namespaces")


@pytest.mark.slow
@needs_namespaces
def test_the_walk_makes_a_model_on_three_hosts(walked: Walked) -> None:
    lines = read_lines(walked.run / "rounds.jsonl")
    assert [line["round"] for line in lines] == [0, 1]
    assert lines[1]["sites"] == ["hospital-a", "hospital-b", "hospital-c"]
    assert (walked.run / "model.safetensors").exists()
    for host, letter in LETTERS.items():
        left = read_lines(walked.folder / host / f"hospital-{letter}.state" / "transcript.jsonl")
        assert {line["kind"] for line in left} == {"name", "sealed update", "sealed scores"}


@pytest.mark.slow
@needs_namespaces
def test_every_connection_between_hosts_is_tls_from_its_first_byte(walked: Walked) -> None:
    first: dict[frozenset[tuple[str, int]], bytes] = {}
    carried: dict[tuple[str, int], int] = {}
    for segment in sniffer.segments(walked.captured):
        ends = frozenset((segment.source, segment.target))
        first.setdefault(ends, segment.payload)
        for end in (segment.source, segment.target):
            carried[end] = carried.get(end, 0) + len(segment.payload)
    assert {payload[:2] for payload in first.values()} == {b"\x16\x03"}, "a TLS handshake"
    # The link, party-1 and the dealer; two hospitals' models and sealed updates alone are 2.5 MB.
    assert carried["10.77.0.1", 9092] > 2_500_000
    assert carried["10.77.0.2", 9101] > 100_000
    assert carried["10.77.0.1", 9103] > 1_000


def windows(data: bytes, count: int = 25, length: int = 24) -> list[bytes]:
    """Return pieces of some bytes from all over them, of those that are not all alike."""
    step = max(len(data) // count, 1)
    pieces = [data[start : start + length] for start in range(0, len(data) - length, step)]
    return [piece for piece in pieces if len(set(piece)) > 8]


@pytest.mark.slow
@needs_namespaces
def test_nothing_crosses_the_wire_in_clear(walked: Walked) -> None:
    assert b"this is what plain text looks like" in walked.captured, "or nothing was captured"
    weights = get_weights(build_network(seed=0))
    order = RoundOrder(1, 1, 1, 0, recipe_to_json(RECIPES["default"]), True)
    site = Site(open_site_folder(walked.data("host-2"), "hospital-b"), torch.device("cpu"))
    _, _, update = site.answer(order, weights)
    assert update is not None
    best, _ = load_checkpoint(walked.run / "model.safetensors")
    secrets = {
        "update": b"".join(tensor.numpy().tobytes() for tensor in update.values()),
        "first model": b"".join(tensor.numpy().tobytes() for tensor in weights.values()),
        "last model": b"".join(tensor.numpy().tobytes() for tensor in best["model"].values()),
        **{f"pixels of {host}": np.load(walked.data(host) / "pixels" / "pixels.npy").tobytes() for host in HOSTS},
        **{f"JPEG of {host}": next((walked.folder / host).rglob("*.jpg")).read_bytes() for host in HOSTS},
    }
    for what, data in secrets.items():
        pieces = windows(data)
        assert len(pieces) > 10, what
        assert not [piece for piece in pieces if piece in walked.captured], what
    for word in (b"hospital-", b"party-", b"HTTP/1", b"/v1/fleet", b"auroc", b"train_loss", b"signature"):
        assert word not in walked.captured, word


def wait_for(happened, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_the_page_names_every_role_and_host() -> None:
    commands = "\n".join(text for _, _, text in blocks())
    for role in ("coordinator", "dealer", "site", "party"):
        assert f"nescient {role} --config" in commands
    assert {host for host, _, _ in blocks()} == set(HOSTS)
