"""A member's node: Flower's SuperNode and our courier beside it, started again whenever one of them ends."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nescient_fl.deployment.bundle import build_bundle, bundle_sha256
from nescient_fl.deployment.flower import flower_environment, flower_program, free_port
from nescient_fl.deployment.logs import Log
from nescient_fl.deployment.reach import describe_clock
from nescient_fl.deployment.rejoin import last_node_id, sign_off
from nescient_fl.deployment.roles import MemberSettings
from nescient_fl.errors import UserError
from nescient_fl.tether import start_tethered, stop

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
"""Seconds before a node that ended is started again: doubled each time, until it has lived for a minute."""
_SETTLED_SECONDS = 60.0
_STOP_SECONDS = 5.0
_TROUBLE_SECONDS = 3.0
_LOOK_SECONDS = 0.05
COLLECT_SECONDS = 2.0
"""In which the coordinator collects an answer that the link has: it looks several times a second."""
LOG = "supernode.log"
"""What Flower's SuperNode says, in the state folder."""
_OVER = (b"Sent successfully", b"Failed to send message", b"Ignoring reply message", b"Ignoring the message")
"""How it says that it is done with a message."""
_LOG_END = 1 << 16
_GAVE_UP = b"SSL/TLS handshake error detected"
"""Bytes at a log's end that are looked at: far more than the SuperNode says of one message."""


@dataclass
class _Pause:
    seconds: float = _FIRST_PAUSE

    def after(self, lived: float) -> float:
        self.seconds = _FIRST_PAUSE if lived > _SETTLED_SECONDS else min(2 * self.seconds, _LONGEST_PAUSE)
        return self.seconds


def gave_up(log: Path, before: int) -> bool:
    """Say by a SuperNode's log, of which ``before`` bytes are older than it, whether it talks to its link no more.

    A connection that ends in the middle of a handshake, as one does whose proxy or host goes away, is to Flower a
    wrong certificate: the thread that asks for messages ends, and the process lives on without it.
    """
    return log.exists() and _GAVE_UP in _end_of(log, before)


def answer_under_way(log: Path) -> bool:
    """Say by a SuperNode's log whether it has a message whose answer is not with the link yet.

    Nothing else tells: the SuperNode looks for answers twice a second, and one that it is terminated with is lost.
    """
    if not log.exists():
        return False
    end = _end_of(log)
    return end.rfind(b"Receiving: ") > max(map(end.rfind, _OVER))


def _end_of(log: Path, before: int = 0) -> bytes:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _LOG_END, before))
        return file.read()


class SuperNode:
    """Keeps one SuperNode running while the context lasts."""

    def __init__(self, settings: MemberSettings, socket: Path, log: Log) -> None:
        self._settings = settings
        self._socket = socket
        self._log = log
        self._bundle = settings.bundle or bundle_sha256(build_bundle())
        self._problem = ""
        self._linger = 0.0
        self._stop = threading.Event()
        self._alive = threading.Event()
        # The kernel ties the child to the thread that starts it, so one thread starts all of them.
        self._keeper = threading.Thread(target=self._keep, name="supernode")

    @property
    def alive(self) -> bool:
        return self._alive.is_set()

    @property
    def problem(self) -> str:
        """Why the last one ended, as far as can be told; empty while one runs."""
        return "" if self.alive else self._problem

    def deliver(self, seconds: float) -> bool:
        """Wait until the link has the answer to the last message. Returns whether it was in time.

        The node then stays for another moment when it is stopped: of a node that signs off, the link forgets answers
        that the coordinator has not collected.
        """
        deadline = time.monotonic() + seconds
        while answer_under_way(self._settings.state / LOG):
            if not self.alive or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        self._linger = COLLECT_SECONDS
        return True

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
            processes: list[subprocess.Popen[bytes]] = []
            log = self._settings.state / LOG
            try:
                before = log.stat().st_size if log.exists() else 0
                self._start(processes)
                self._alive.set()
                self._log("node started", processes=[process.pid for process in processes])
                while all(process.poll() is None for process in processes) and not self._stop.wait(0.2):
                    if gave_up(log, before):
                        break
                told: dict[str, object] = {"status": [process.poll() for process in processes], "see": LOG}
            except OSError as error:  # a full disk is no reason never to try again
                told = {"reason": f"{error.filename or self._settings.state}: {error.strerror or error}"}
            self._alive.clear()
            for process in reversed(processes):
                # Without its courier a node takes messages in, and signs off from them: they are asked again.
                stop(process, _STOP_SECONDS)
                if process is not processes[0] and self._stop.is_set():
                    time.sleep(self._linger)
            if self._stop.is_set():
                return
            seconds = pause.after(time.monotonic() - started)
            if not told.get("reason"):
                told["reason"] = self._trouble()
            self._problem = str(told["reason"])
            self._log("node ended", again_in=seconds, **told)
            self._stop.wait(seconds)

    def _trouble(self) -> str:
        """Say what is wrong between here and the link, empty when it answers and has the same time."""
        try:
            describe_clock(self._settings.superlink, self._settings.ca, _TROUBLE_SECONDS)
        except UserError as error:
            return str(error)
        return ""

    def _start(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Start the SuperNode and its courier, which share a secret that nobody else on this host knows.

        They are added to ``processes`` one by one. Raises OSError when the state folder cannot be written.
        """
        settings = self._settings
        if (node := last_node_id(settings.state / LOG)) is not None:
            self._log("node signed off", node=node, told=sign_off(settings, node))
        secret = settings.state / "courier-secret"
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600)
        secret.write_bytes(os.urandom(32))
        address = f"127.0.0.1:{free_port()}"
        commands: list[list[str | Path]] = [
            [
                *(flower_program("flower-supernode"), "--superlink", settings.superlink),
                *("--root-certificates", settings.ca, "--auth-supernode-private-key", settings.node_key),
                *("--node-config", f'socket="{self._socket}"', "--isolation", "process"),
                *("--superexec-auth-secret-file", secret, "--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
            ],
            [sys.executable, "-m", "nescient_fl.deployment.courier", address, secret, self._bundle],
        ]
        names = ("supernode", "courier")
        environment = flower_environment(settings.state / "flower")
        for command, name in zip(commands, names, strict=True):
            log = settings.state / f"{name}.log"
            processes.append(start_tethered(command, log=log, environment=environment, cwd=settings.state))
