"""Flower's own programs: where they are, the environment they are given, a port for one."""

import os
import socket
import sys
from pathlib import Path


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def flower_environment(home: Path) -> dict[str, str]:
    """Return this process's environment as Flower's own programs should have it.

    They find each other by PATH, keep their files below ``home``, report to nobody and use one thread.
    """
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def flower_program(name: str) -> Path:
    """Return the path of one of Flower's programs, installed beside this Python."""
    return Path(sys.executable).parent / name
