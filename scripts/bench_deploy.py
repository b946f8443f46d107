"""What a round of a real federation costs beside its training, before and after the long-lived workers.

    python scripts/bench_deploy.py [--clients 5] [--rounds 4] [--images 300] [--modes before,after]

``before`` is Flower's own way: a process for each message, which imports Flower and torch, opens data and keys,
and answers. ``after`` is the product's: a worker for each actor, and a courier that stays. Both run the same
federation of sites, two parties and a dealer over TLS, on few images, so that training takes a second or two.

Overhead of a round is its time at the coordinator less the longest time that a site scored and trained in it;
round 1, in which everything is imported and opened, is told apart. Prints JSON: seconds.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from nescient_fl.arms.conduct import prepare_run
from nescient_fl.arms.secrecy import forget_keys
from nescient_fl.arms.watching import Silent
from nescient_fl.deployment import reaper
from nescient_fl.deployment.flower import flower_environment, flower_program, free_port
from nescient_fl.deployment.launcher import DeploymentEngine, private_folder
from nescient_fl.deployment.layout import lay_out
from nescient_fl.deployment.roles import CoordinatorSettings, read_role
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.study.run_folder import RunFolder, read_lines
from nescient_fl.study.settings import make_settings
from nescient_fl.tether import start_tethered
from strategies.state import load_state


def run_before(run: RunFolder) -> None:
    """Run a federation whose every message is answered by a process of its own, as Flower does it."""
    with private_folder() as (private, mark):
        coordinator, *members = lay_out(run, private, "cpu")
        link = read_role(CoordinatorSettings, coordinator.settings, {})
        environment = {**os.environ, reaper.MARK: mark, "OMP_NUM_THREADS": "1"}
        command: list[str | Path] = [sys.executable, "-m", "nescient_fl.coordinator", "--config", coordinator.settings]
        process = start_tethered(command, log=coordinator.log, environment=environment)
        # Nobody starts these nodes again, so they must not come before they are admitted.
        while not (run.path / "nodes.json").exists():
            if process.poll() is not None:
                raise RuntimeError(coordinator.log.read_text()[-2000:])
            time.sleep(0.1)
        for number, member in enumerate(members):
            start_tethered(
                [
                    *(flower_program("flower-supernode"), "--superlink", link.listen, "--root-certificates", link.ca),
                    *("--auth-supernode-private-key", member.folder / "node-key"),
                    *("--node-config", f"partition-id={number}", "--host", "127.0.0.1", "--port", str(free_port())),
                ],
                log=member.log,
                environment={**flower_environment(member.folder), reaper.MARK: mark},
            )
        if process.wait():
            raise RuntimeError(coordinator.log.read_text()[-2000:])


def run_after(run: RunFolder, sites: int) -> None:
    """Run a federation as the product does."""
    DeploymentEngine(torch.device("cpu"), None).run(run.path, sites, Silent(), threading.Event())


def measure(mode: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run one federation and return what its rounds took."""
    settings = make_settings(options)
    run = RunFolder.create(folder / mode)
    prepare_run(settings, run, Silent())
    if mode == "before":
        run_before(run)
    else:
        run_after(run, settings.clients)
    forget_keys(run)
    lines = [line for line in read_lines(run.rounds) if line["round"] > 0]
    training = [max(site["seconds"] for site in line["by_site"]) for line in lines]
    overhead = [line["seconds"] - longest for line, longest in zip(lines, training, strict=True)]
    state = load_state(run.checkpoints)
    assert state is not None
    return {
        "round": [line["seconds"] for line in lines],
        "longest_training": training,
        "first_overhead": round(overhead[0], 3),
        "median_overhead": round(statistics.median(overhead[1:]), 3),
        "model": weights_sha256(state.weights),
    }


def main() -> None:
    """Measure the asked modes and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="two or more: the first is told apart")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--modes", default="before,after")
    asked = parser.parse_args()
    options = {
        **{"clients": asked.clients, "rounds": asked.rounds, "local_epochs": 1, "partition": "iid", "device": "cpu"},
        **{"phantom_images": asked.images, "min_images": 10, "min_positives": 3, "share_metrics": ["all"]},
    }
    found: dict[str, Any] = {"cpus": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory(prefix="nescient-bench-") as folder:
        for mode in asked.modes.split(","):
            found[mode] = measure(mode, Path(folder), options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
