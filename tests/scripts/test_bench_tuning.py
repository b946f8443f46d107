"""The benchmark of tuning runs and gives finite figures."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_tuning.py"


@pytest.mark.slow
def test_quick_run_tunes_both_ways_to_nearly_the_same(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(out.read_text())["lines"]
    assert all(math.isfinite(line["median"]) for line in lines)
    _, _, against, difference, seconds, rounds, sent, memory = lines
    assert min(line["median"] for line in (seconds, rounds, sent, memory)) > 0
    assert against["median"] == pytest.approx(1, abs=0.01)
    assert 0 < difference["median"] < 0.005
