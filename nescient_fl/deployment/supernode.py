"""A member's node: Flower's SuperNode as a child process, started again whenever it ends."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nescient_fl.deployment.logs import Log
from nescient_fl.deployment.roles import MemberSettings
from nescient_fl.deployment.tether import flower_environment, flower_program, free_port, start_tethered, stop

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
"""Seconds before a node that ended is started again: doubled each time, until it has lived for a minute."""
_SETTLED_SECONDS = 60.0
_STOP_SECONDS = 5.0


@dataclass
class _Pause:
    seconds: float = _FIRST_PAUSE

    def after(self, lived: float) -> float:
        self.seconds = _FIRST_PAUSE if lived > _SETTLED_SECONDS else min(2 * self.seconds, _LONGEST_PAUSE)
        return self.seconds


class SuperNode:
    """Keeps one SuperNode running while the context lasts."""

    def __init__(self, settings: MemberSettings, socket: Path, log: Log) -> None:
        self._settings = settings
        self._socket = socket
        self._log = log
        self._stop = threading.Event()
        self._alive = threading.Event()
        # The kernel ties the child to the thread that starts it, so one thread starts all of them.
        self._keeper = threading.Thread(target=self._keep, name="supernode")

    @property
    def alive(self) -> bool:
        return self._alive.is_set()

    def __enter__(self) -> "SuperNode":
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._keeper.join()

    def _keep(self) -> None:
        pause = _Pause()
        while not self._stop.is_set():
            started = time.monotonic()
            process = start_tethered(
                self._command(),
                log=self._settings.state / "supernode.log",
                environment=flower_environment(self._settings.state / "flower"),
                cwd=self._settings.state,
            )
            self._alive.set()
            self._log("node started", process=process.pid)
            while process.poll() is None and not self._stop.wait(0.2):
                pass
            self._alive.clear()
            if self._stop.is_set():
                stop(process, _STOP_SECONDS)
                return
            seconds = pause.after(time.monotonic() - started)
            self._log("node ended", status=process.returncode, again_in=seconds, see="supernode.log")
            self._stop.wait(seconds)

    def _command(self) -> list[str | Path]:
        settings = self._settings
        return [
            *(flower_program("flower-supernode"), "--superlink", settings.superlink),
            *("--root-certificates", settings.ca, "--auth-supernode-private-key", settings.node_key),
            *("--node-config", f'socket="{self._socket}"', "--host", "127.0.0.1", "--port", str(free_port())),
        ]
