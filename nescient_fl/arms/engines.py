"""What can run a study's federated arm, told apart by name."""

import threading
from collections.abc import Callable
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


@dataclass(frozen=True)
class EngineKind:
    """One way to run a federation.

    Attributes:
        name: as metrics.json has it.
        command: the module of the command that runs it.
        make: makes the engine for a device; the watcher may be told more than a study's progress.
        audited: whether the sum is held against the plain updates afterwards, which only a simulation can do.
    """

    name: str
    command: str
    make: Callable[[torch.device, StudyWatcher], Engine]
    audited: bool = False


RAY = EngineKind("ray", "simulate", lambda device, _watcher: RayEngine(device), audited=True)
