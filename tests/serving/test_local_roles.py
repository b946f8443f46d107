"""The roles of a local session end with whoever started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STARTER = """
import sys, time
from pathlib import Path
from nescient_fl.serving.local import DEALER, LocalPlace

place = LocalPlace(Path(sys.argv[1]), print, lambda: None)
place.make_keys()
with place.role(DEALER, "nescient_fl.deal", *place.who(DEALER)) as dealer:
    print(dealer.pid, flush=True)
    time.sleep(600)
"""


def is_there(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_session_leaves_no_role_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None
            dealer = int(starter.stdout.readline())
            assert is_there(dealer)
        finally:
            starter.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while is_there(dealer) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_there(dealer)
