"""The benchmark of secure aggregation runs with real parties, and its figures are those of a round that went well."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_secure.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_quick_run_has_every_figure_with_its_target(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["quick"] is True
    generator, *lines = written["lines"]
    assert generator["median"] > 0.05  # GB/s: a loop in Python would not do a hundredth of it
    by_name: dict[str, Any] = {line["what"].partition(":")[0].partition(",")[0]: line for line in lines}
    targets = {name: line["target"] for name, line in by_name.items()}
    assert targets == {
        "upload of a site and round": 0.83,
        "site": 5.0,
        "party": 0.2,
        "dealer": None,
        "longer than in clear": 3.0,
        "largest error of a weight": 1.0,
    }
    for line in lines:
        assert line["part"] == "3 sites"
        assert math.isfinite(line["median"])
        assert line["median"] > 0
        assert line["what"] in done.stdout
    # What does not depend on how busy the machine is must hold.
    assert by_name["upload of a site and round"]["passed"] is True
    assert by_name["largest error of a weight"]["passed"] is True


def test_a_sum_of_two_sites_is_not_measured() -> None:
    done = run("--sites", 2)
    assert done.returncode == 2
    assert "3 sites or more" in done.stderr
