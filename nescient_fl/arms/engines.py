"""What can run a study's federated arm, told apart by name."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from nescient_fl.arms.ray_engine import RayEngine
from nescient_fl.arms.watching import StudyWatcher
from strategies.federation import Watcher


class Engine(Protocol):
    """Runs the federated arm of a run folder."""

    def run(self, run: Path, sites: int, watcher: Watcher, stop: threading.Event, helpers: int = 0) -> None:
        """Run the federation to its last round; ``helpers`` counts the nodes beside the sites.

        Raises what the coordinator raised: UserError when too few sites answer, Stopped when ``stop`` is set.
        """
        ...

    def close(self) -> None:
        """Stop whatever was started."""
        ...


class Members(Protocol):
    """Who takes part in a study, with keys and a signed roster that are not the study's own.

    Attributes:
        path: the roster.
    """

    @property
    def path(self) -> Path: ...

    def check(self, sites: Sequence[str], minimum: int) -> None:
        """Raise UserError unless the roster has exactly these sites, and opens no sum of fewer than ``minimum``."""
        ...

    def make_vault(self, folder: Path) -> None:
        """Make a run's private folder, of links to the keys."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """One way to run a federation.

    Attributes:
        name: as metrics.json has it.
        command: the module of the command that runs it.
        make: makes the engine for a device; the watcher may be told more than a study's progress.
        audited: whether the sum is held against the plain updates afterwards, which only a simulation can do.
        members: whose keys are used in a secure study; None to make new ones.
    """

    name: str
    command: str
    make: Callable[[torch.device, StudyWatcher], Engine]
    audited: bool = False
    members: Members | None = None


RAY = EngineKind("ray", "simulate", lambda device, _watcher: RayEngine(device), audited=True)
