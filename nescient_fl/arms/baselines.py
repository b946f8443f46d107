"""The pooled and the local arms, side by side on the machine's cores."""

import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nescient_fl.arms.alone import AloneJob, AloneResult, train_alone
from nescient_fl.lesion.batches import Examples

_POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1

Report = Callable[[str, dict[str, Any]], None]


def train_baselines(
    jobs: Sequence[AloneJob], workers: int, report: Report, stop: threading.Event
) -> dict[str, AloneResult] | None:
    """Train every job in a process of its own core. Returns results by job name, None when stopped.

    Jobs start largest first, so that the pooled job, as long as all local ones together, shares the time
    with them. Pixels are mapped anew in each process, never sent. Workers die with this process.
    """
    ordered = sorted(jobs, key=lambda job: -len(job.train))
    context = multiprocessing.get_context("spawn")
    lines: Queue[tuple[str, dict[str, Any]]] = context.Queue()
    workers = max(1, min(workers, len(ordered)))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(lines, os.getpid()))
    try:
        futures: dict[str, Future[AloneResult]] = {job.name: pool.submit(_run, _packed(job)) for job in ordered}
        waiting = set(futures.values())
        while waiting:
            if stop.is_set():
                return None
            _, waiting = wait(waiting, timeout=_POLL_SECONDS)
            _drain(lines, report)
        results = {name: future.result() for name, future in futures.items()}
        _drain(lines, report)
        return results
    finally:
        for process in list((pool._processes or {}).values()):
            if stop.is_set():
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _drain(lines: "Queue[tuple[str, dict[str, Any]]]", report: Report) -> None:
    while True:
        try:
            report(*lines.get_nowait())
        except queue.Empty:
            return


def _packed(job: AloneJob) -> AloneJob:
    return replace(job, train=_unmapped(job.train), validation=_unmapped(job.validation))


def _unmapped(examples: Examples) -> Examples:
    """Put the file's path where the mapped array was: pickling a memory map would copy every pixel."""
    pixels = examples.pixels
    if not isinstance(pixels, np.memmap) or pixels.filename is None:
        return examples
    marker = np.frombuffer(os.fsencode(pixels.filename), np.uint8)
    return replace(examples, pixels=marker)


def _mapped(examples: Examples) -> Examples:
    if examples.pixels.ndim == 3:
        return examples
    path = Path(os.fsdecode(examples.pixels.tobytes()))
    return replace(examples, pixels=np.load(path, mmap_mode="r", allow_pickle=False))


_lines: "Queue[tuple[str, dict[str, Any]]] | None" = None


def _start_worker(lines: "Queue[tuple[str, dict[str, Any]]]", parent: int) -> None:
    global _lines
    _lines = lines
    # Ctrl-C reaches the whole process group; the parent decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux an orphan ends with its job
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    torch.set_num_threads(1)


def _run(job: AloneJob) -> AloneResult:
    assert _lines is not None
    lines = _lines
    job = replace(job, train=_mapped(job.train), validation=_mapped(job.validation))
    return train_alone(job, lambda line: lines.put((job.name, line)))
