"""How quickly a simulated federation of equal sites goes round, and what memory its workers take.

    python scripts/bench_engine.py [--sites 5] [--images-per-site 400] [--cpus 2]

Runs a study's own federated arm (``FederatedAveraging`` on the Ray engine) with the default recipe over sites
that hold equally many synthetic radiographs, all for training. Prints JSON: seconds from the end of one round
to that of the next, for the rounds after the first, so with averaging and checkpoint; seconds of the same
rounds as rounds.jsonl tells them; and the peak memory of the Ray workers.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import BenchData, bench_data

from nescient_fl.arms.ray_engine import RayEngine
from nescient_fl.study.run_folder import RunFolder, read_lines, write_json
from nescient_fl.study.settings import make_settings


def write_run(run: RunFolder, data: BenchData, sites: int, images: int, rounds: int, epochs: int) -> None:
    """Write what the engine needs of a run: settings and a partition of equal sites.

    Images beyond ``sites`` times ``images`` are held out at the first site, where no round touches them.
    """
    count = len(data.table)
    if sites * images > count:
        raise ValueError(f"{sites} sites of {images} images need {sites * images}, there are {count}")
    used = np.arange(count) < sites * images
    site = np.where(used, np.arange(count) % sites, 0)
    partition = data.table[["source", "image", "patient", "target"]].assign(
        site=[f"site-{number:03d}" for number in site], split=np.where(used, "train", "test")
    )
    partition.to_csv(run.partition, index=False)
    # In clear, like the app it is compared with; bench_secure.py measures what secrecy costs.
    settings = make_settings(
        {
            "clients": sites,
            "rounds": rounds,
            "local_epochs": epochs,
            "device": "cpu",
            "min_sites": sites,
            "aggregation": "plain",
        }
    )
    write_json(
        run.config,
        {
            "settings": settings.as_dict(),
            "sites": sorted(partition["site"].unique()),
            "secure": None,
            "cache": str(data.cache.directory),
            "cache_key": data.cache.key,
        },
    )


_MARK = "NESCIENT_BENCH_MARK"


class Clock:
    """A watcher that notes when each round's line was written, and the workers' memory then."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.ends: list[float] = []
        self.memory: list[dict[str, int]] = []

    def sites_joined(self, names: Sequence[str]) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None: ...

    def round_aborted(self, round_number: int, reason: str) -> None: ...

    def study_ended(self, reason: str) -> None: ...

    def round_validated(self, line: dict[str, Any]) -> None:  # noqa: ARG002 - a watcher's signature
        self.ends.append(time.perf_counter())
        self.memory += worker_memory(self._mark)


def worker_memory(mark: str) -> list[dict[str, int]]:
    """Return, for each Ray worker with the mark in its environment, its memory in bytes; none without /proc.

    ``peak`` is the most it ever held, pages of the mapped pixel cache included, which all workers share and
    the system may take back at any time; ``own`` is what it holds for itself now.
    """
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process that ends while it is looked at is no worker that matters. Parents tell nothing: a worker may
        # outlive the process that started it.
        with contextlib.suppress(OSError, KeyError):
            is_worker = (folder / "cmdline").read_bytes().startswith(b"ray::ClientApp")
            if is_worker and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(_memory(folder))
    return found


def _memory(folder: Path) -> dict[str, int]:
    lines = (folder / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        "peak": int(fields["VmHWM"].split()[0]) * 1024,
        "own": int(fields["RssAnon"].split()[0]) * 1024,
    }


def measure(data: BenchData, sites: int, images: int, rounds: int, epochs: int, cpus: int | None) -> dict[str, Any]:
    """Run one federation and return what the module's docstring promises."""
    os.environ[_MARK] = uuid.uuid4().hex  # which Ray's workers inherit
    clock = Clock(os.environ[_MARK])
    engine = RayEngine(torch.device("cpu"), cpus)
    folder = Path(tempfile.mkdtemp(prefix="nescient-bench-"))
    try:
        run = RunFolder.create(folder)
        write_run(run, data, sites, images, rounds, epochs)
        engine.run(run.path, sites, clock, threading.Event())
        told = [line["seconds"] for line in read_lines(run.rounds)[2:]]
    finally:
        engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    # The first line comes with the answers of round 1, the last with an exchange that trains nothing.
    seconds = np.diff(clock.ends[:-1]).tolist()
    return {
        "sites": sites,
        "images_per_round": sites * images * epochs,
        "seconds": seconds,
        "seconds_told": told,
        "peak_bytes": max((entry["peak"] for entry in clock.memory), default=None),
        "own_bytes": max((entry["own"] for entry in clock.memory), default=None),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantom-images", type=int, default=2400, help="size of the phantom to take them of")
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--images-per-site", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=None, help="Ray workers; one a processor when left out")
    a = parser.parse_args()
    data = bench_data(a.phantom_images, a.phantom_images)
    print(json.dumps(measure(data, a.sites, a.images_per_site, a.rounds, a.epochs, a.cpus)))


if __name__ == "__main__":
    main()
