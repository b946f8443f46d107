"""How long ``python -m nescient_fl.simulate`` takes from the command to its first finished round.

    python scripts/bench_first_round.py [--phantom-images 2400] [--clients 5]

Looks at a real run from outside: when the command answers (imports), when its data is ready (the phantom and
its pixel cache are there already), when Ray is, when the first hospital has answered, and when the first
line of rounds.jsonl is written. Then the run is stopped as Ctrl-C would. Prints JSON: seconds since the
command was given.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_common import bench_data

from nescient_fl.study.run_folder import RunFolder, read_json, read_lines

_POLL_SECONDS = 0.02


def measure(phantom_images: int, clients: int, limit: float = 300.0) -> dict[str, float]:
    """Start one study, note when each of its marks appears, stop it. Raises RuntimeError past the limit."""
    folder = Path(tempfile.mkdtemp(prefix="nescient-bench-"))
    run = RunFolder(folder / "run")
    marks: dict[str, Callable[[], bool]] = {
        "imports": run.config.exists,
        "data": lambda: run.partition.exists() and "cache_key" in read_json(run.config),
        "ray": run.engine_log.exists,
        "hospitals joined": lambda: bool(read_lines(run.transcript)),
        "first answer": lambda: any(line["kind"].endswith("update") for line in read_lines(run.transcript)),
        "first round": lambda: bool(read_lines(run.rounds)),
    }
    command = [sys.executable, "-m", "nescient_fl.simulate", "--no-baselines", "--out", str(run.path)]
    command += ["--clients", str(clients), "--phantom-images", str(phantom_images), "--rounds", "2"]
    command += ["--min-images", "4", "--min-positives", "1"]
    seen: dict[str, float] = {}
    started = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        study = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            while len(seen) < len(marks):
                now = time.perf_counter() - started
                seen |= {name: now for name, there in marks.items() if name not in seen and there()}
                if study.poll() is not None or now > limit:
                    raise RuntimeError(f"no first round: {(folder / 'said.txt').read_text()[-2000:]}")
                time.sleep(_POLL_SECONDS)
        finally:
            if study.poll() is None:
                study.send_signal(signal.SIGINT)
                study.wait(60)
            shutil.rmtree(folder, ignore_errors=True)
    return seen


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantom-images", type=int, default=2400)
    parser.add_argument("--clients", type=int, default=5)
    arguments = parser.parse_args()
    bench_data(arguments.phantom_images, arguments.phantom_images)
    print(json.dumps(measure(arguments.phantom_images, arguments.clients)))


if __name__ == "__main__":
    main()
