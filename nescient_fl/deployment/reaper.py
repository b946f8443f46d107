"""The last one out: ends every process of a deployment and deletes its private folder, whatever became of the launcher.

Run as a program of its own, with the deployment's mark and the folders to delete. It reads standard input, which
the launcher holds open and never writes to; when the launcher ends, in whatever way, that is at its end. Every
process that came of the deployment has the mark in its environment, however far down it was started.

Nothing but the standard library is imported: it stays for as long as the deployment does.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "NESCIENT_DEPLOYMENT"
_GENTLE_SECONDS = 3.0
_LONGEST_SECONDS = 30.0


def marked(mark: str) -> list[int]:
    """Return the living processes of a deployment, this one left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            mine = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mine and state != "Z" and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end_all(mark: str, gentle: float = _GENTLE_SECONDS) -> None:
    """End every process of a deployment: asked first, then killed, until none is left."""
    started = time.monotonic()
    number = signal.SIGTERM
    while processes := marked(mark):
        waited = time.monotonic() - started
        if waited > _LONGEST_SECONDS:
            return
        if waited > gentle:
            number = signal.SIGKILL
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def main() -> None:
    """Wait for the end of standard input, then end all and delete the folders."""
    mark, *folders = sys.argv[1:]
    # Ctrl-C and hang-ups go to the launcher; whatever it does about them shows here as the end of its pipe.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    end_all(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
