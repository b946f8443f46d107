"""Starting child processes that never outlive whoever started them, however that one ends.

The kernel kills a tethered child when its parent dies (PR_SET_PDEATHSIG, Linux); elsewhere the child is merely
terminated when the parent ends in good order.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Started as a program of its own, without site packages, so that it costs a few milliseconds and is safe in a
# parent with many threads. The parent may have died before the tether was made, so it is looked at after.
_PROGRAM = """
import ctypes, os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != parent:
    sys.exit(1)
os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
"""


def start_tethered(
    command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to the end of a file, tethered to this process.

    The thread that calls this must live as long as the child may: the kernel looks at the thread.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            # Ctrl-C is the launcher's to hear; it stops the others in order.
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Terminate a child, and kill it when it takes longer than so many seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
