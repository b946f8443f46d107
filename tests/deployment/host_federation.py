"""A federation whose roles are started one by one, as on hosts of their own: TOML files, processes, logs."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from member_files import SITES, make_federation
from toy_dataset import write_toy_dataset

from nescient_fl.deployment import reaper
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.founding import found_run, prepare_site
from nescient_fl.deployment.given import GivenFederation, read_given
from nescient_fl.deployment.roles import (
    CoordinatorSettings,
    DealerSettings,
    PartySettings,
    RoleSettings,
    SiteSettings,
    write_role,
)
from nescient_fl.study.settings import make_settings

STUDY: dict[str, Any] = {"rounds": 1, "local_epochs": 1, "min_images": 20, "min_positives": 4, "device": "cpu"}


@dataclass
class Role:
    """One role's process.

    Attributes:
        state: its folder.
        output: file of what it says, lines of JSON and of errors.
    """

    process: "subprocess.Popen[bytes]"
    state: Path
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it logged; every line but that of an error is JSON."""
        return [json.loads(line) for line in self.said.splitlines() if not line.startswith("error: ")]

    def until(self, happened: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something happened, while the process lives."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def count(self, event: str, **fields: Any) -> int:
        """How often it logged an event with these fields."""
        wanted = {"event": event, **fields}.items()
        return sum(wanted <= line.items() for line in self.events)

    def ended(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def terminate(self, seconds: float = 90) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def terminate_all(roles: Iterable[Role]) -> list[int]:
    """Stop several roles at once. Returns their exit statuses."""
    roles = list(roles)
    for role in roles:
        role.process.send_signal(signal.SIGTERM)
    return [role.ended() for role in roles]


def start_role(role: str, config: Path, state: Path, output: Path, environment: Mapping[str, str]) -> Role:
    """Start one role's process; ``environment`` is added to this one's."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"nescient_fl.{role}", "--config", config],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Role(process, state, output)


@dataclass
class HostFederation:
    """Everything of one federation below a short folder; ``end`` stops whatever still runs."""

    folder: Path
    port: int = field(default_factory=free_port)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @cached_property
    def given(self) -> GivenFederation:
        return read_given(self.folder / "keys")

    def make(self, options: Mapping[str, Any], sites: Sequence[str] = SITES) -> None:
        """Make keys, every hospital's data, and the run that the coordinator begins with."""
        roster = make_federation(self.folder / "keys", sites)
        settings = make_settings({**STUDY, "data": [str(write_toy_dataset(self.folder / "radiographs"))]})
        for name in sites:
            prepare_site(name, settings, self.folder / f"{name}.data")
        found_run(self.folder / "run", roster, self.given.authority, 128, {**STUDY, **options})
        (self.folder / "nodes").mkdir()
        for member in self.given.members:
            path = self.folder / "keys" / f"{member.name}.node.json"
            (self.folder / "nodes" / path.name).write_bytes(path.read_bytes())

    def _write(self, settings: RoleSettings, name: str) -> Path:
        path = self.folder / f"{name}.toml"
        write_role(settings, path)
        return path

    def coordinator(self, environment: Mapping[str, str] | None = None, **changes: Any) -> Role:
        """Start the coordinator."""
        given = self.given
        values: dict[str, Any] = {
            "state": self.folder / "coordinator",
            "listen": f"127.0.0.1:{self.port}",
            "ca": given.link.authority,
            "certificate": given.link.certificate,
            "key": given.link.key,
            "nodes": self.folder / "nodes",
            "run": self.folder / "run",
            "roster": given.path,
            "authority": given.authority,
        }
        settings = CoordinatorSettings(**{**values, **changes})
        return self._start("coordinator", self._write(settings, "coordinator"), settings.state, environment)

    def member(self, name: str, environment: Mapping[str, str] | None = None, **changes: Any) -> Role:
        """Start a member."""
        given = self.given
        (role,) = {member.role for member in given.members if member.name == name}
        values: dict[str, Any] = {
            "name": name,
            "superlink": f"127.0.0.1:{self.port}",
            "ca": given.link.authority,
            "node_key": given.node_key(name),
            "state": self.folder / f"{name}.state",
            "keys": self.folder / "keys" / f"{name}.keys",
            "roster": given.path,
            "authority": given.authority,
        }
        if role == "site":
            values |= {"data": self.folder / f"{name}.data", "device": "cpu"}
        kind = {"site": SiteSettings, "party": PartySettings, "dealer": DealerSettings}[role]
        settings = kind(**{**values, **changes})
        return self._start(role, self._write(settings, name), settings.state, environment)

    def _start(self, role: str, config: Path, state: Path, environment: Mapping[str, str] | None) -> Role:
        output = self.folder / f"{config.stem}-{uuid.uuid4().hex[:6]}.log"
        return start_role(role, config, state, output, {reaper.MARK: self.mark, **(environment or {})})

    def end(self) -> None:
        """End every process of it that still lives."""
        reaper.end_all(self.mark, gentle=0.0)
