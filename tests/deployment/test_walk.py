"""The walk of docs/deploy.md, executed as it stands: three hosts as network namespaces, each with its own images."""

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

import pytest
from toy_dataset import write_toy_dataset

from nescient_fl.deployment import reaper
from nescient_fl.study.run_folder import read_lines

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


@pytest.fixture
def network() -> Iterator[Network]:
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        network = Network(Path(folder))
        try:
            network.make()
            yield network
        finally:
            network.remove()


@pytest.mark.slow
@pytest.mark.skipif(not can_make_namespaces(), reason="only root may make network namespaces")
def test_the_walk_makes_a_model_on_three_hosts(network: Network) -> None:
    for seed, host in enumerate(HOSTS):
        home = network.folder / host
        write_toy_dataset(home / "radiographs", seed=seed)
        subprocess.run(["cp", "-r", ROOT / "docs" / "examples", home / "examples"], check=True)
        (home / "examples" / "study.toml").write_text(STUDY)
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
    run = network.folder / "host-1" / "run"
    assert [line["round"] for line in read_lines(run / "rounds.jsonl")] == [0, 1]
    assert read_lines(run / "rounds.jsonl")[1]["sites"] == ["hospital-a", "hospital-b", "hospital-c"]
    assert (run / "model.safetensors").exists()
    for host, letter in zip(HOSTS, "abc", strict=True):
        left = read_lines(network.folder / host / f"hospital-{letter}.state" / "transcript.jsonl")
        assert {line["kind"] for line in left} == {"name", "sealed update", "sealed scores"}


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
