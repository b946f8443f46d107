"""The federated arm on Flower's Simulation Runtime: sites as Ray actors on this machine or a Ray cluster."""

import logging
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from nescient_fl.study.run_folder import RunFolder
from strategies.federation import Watcher

ENVIRONMENT = {
    # One thread a site: sites run side by side.
    "OMP_NUM_THREADS": "1",
    # Activations of a training step are a few megabytes each; handed back to the system after every step they
    # cost a page fault for each 4 KiB of them in the next.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}

MOST_EXTRA_WORKERS = 8
"""Up to so many workers, more than there are processors may run: each holds about 0.45 GB."""


class RayEngine:
    """Starts Ray in the background, since it takes seconds, while the study's data is made ready.

    ``cpus`` is how many sites work at a time; None is one a processor of this machine.
    """

    def __init__(self, device: torch.device, cpus: int | None = None) -> None:
        self._device = device
        self._cpus = cpus or os.cpu_count() or 1
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._closing = threading.Event()
        # Ray's processes ask the kernel to be killed when the thread that started them ends, so that thread
        # stays until the engine is closed.
        self._keeper = threading.Thread(target=self._keep, name="ray", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        try:
            import ray

            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                ray.init(
                    address=os.environ.get("RAY_ADDRESS"),
                    num_cpus=None if os.environ.get("RAY_ADDRESS") else self._cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except BaseException as error:  # handed to whoever waits for the engine
            self._error = error
            self._started.set()
            return
        self._started.set()
        self._closing.wait()
        ray.shutdown()

    def run(self, run: Path, sites: int, watcher: Watcher, stop: threading.Event, helpers: int = 0) -> None:
        """Run the federation of a run folder to its last round.

        ``helpers`` counts the nodes beside the sites, compute parties and dealer, which work all at once.

        Raises what the coordinator raised: UserError when too few sites answer, Stopped when ``stop`` is set.
        """
        self._started.wait()
        if self._error is not None:
            raise self._error
        _log_to(RunFolder(run).engine_log)
        from flwr.simulation import run_simulation

        from sites import client
        from strategies import server

        run_simulation(
            server_app=server.make_app(run, watcher, stop),
            client_app=client.make_app(str(run)),
            num_supernodes=sites + helpers,
            backend_config={"client_resources": self._resources(sites, helpers)},
        )

    def _resources(self, sites: int, helpers: int) -> dict[str, Any]:
        if self._device.type != "cuda":
            workers = max(workers_for(sites, self._cpus), helpers)
            return {"num_cpus": self._cpus / workers, "num_gpus": 0.0}
        gpus = max(torch.cuda.device_count(), 1)
        side_by_side = max(1, helpers, min(sites, self._cpus, 4 * gpus))
        return {"num_cpus": min(1.0, self._cpus / side_by_side), "num_gpus": gpus / side_by_side}

    def close(self) -> None:
        """Stop Ray and every process it started."""
        self._closing.set()
        self._keeper.join()


def workers_for(sites: int, cpus: int) -> int:
    """Return how many workers a federation of ``sites`` has on ``cpus`` processors.

    One a processor, but for a few sites that do not divide evenly among them: five equal sites on two workers
    take three turns, the last with a processor idle; with a worker each, the scheduler shares them out.
    """
    if sites <= cpus or cpus == 1:
        return min(sites, cpus)
    uneven = sites % cpus != 0
    return sites if uneven and sites <= min(3 * cpus, MOST_EXTRA_WORKERS) else cpus


def _log_to(path: Path) -> None:
    """Send Flower's and Ray's words to a file: the study's own view tells the user what matters."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("flwr", "ray"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False
