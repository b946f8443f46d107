"""Peak memory is the process's own, not that of whoever started it."""

import subprocess
import sys

import numpy as np

from nescient_fl.serving.memory import peak_memory

CHILD = "from nescient_fl.serving.memory import peak_memory; print(peak_memory())"


def test_a_child_does_not_count_what_its_parent_holds() -> None:
    before = peak_memory()
    held = np.ones(300_000_000 // 8)
    assert peak_memory() >= max(before, held.nbytes)
    told = int(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True).stdout)
    assert 1_000_000 < told < 250_000_000
