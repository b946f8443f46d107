"""Writes a phantom as a folder that is whole or not there."""

import csv
import ctypes
import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nescient_fl.errors import UserError
from nescient_fl.radiographs.phantom.population import OBSERVATIONS, ImagePlan, plan_population
from nescient_fl.radiographs.phantom.render import render_all

MARKER = "PHANTOM.json"
FORMAT = 1
GENERATOR = 3  # raised whenever the same seed draws other pictures
FEWEST_IMAGES = 20
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
_PREFIX = "CheXpert-v1.0-small"
_CHUNK = 8
_PARTIAL = ".partial-"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


@dataclass(frozen=True)
class PhantomSummary:
    """What a phantom holds. The four counts are images by their code for Lung Lesion."""

    directory: Path
    images: int
    patients: int
    positives: int
    negated: int
    uncertain: int
    unmentioned: int
    reused: bool


def write_phantom(
    directory: Path,
    images: int,
    seed: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomSummary:
    """Write ``images`` synthetic radiographs and their ``train.csv`` below ``directory``.

    The same seed gives the same files whatever the number of ``workers`` (processes, by default one a
    processor). The folder appears under its name when it is whole; if this very phantom is already there it
    is reused, and anything else there is left alone with a ``UserError``. ``progress`` is told images done
    and in all.
    """
    workers = _available_processors() if workers is None else workers
    if images < FEWEST_IMAGES:
        raise UserError(f"a phantom needs at least {FEWEST_IMAGES} images, not {images}: ask for more")
    if workers < 1:
        raise UserError(f"at least one worker is needed, not {workers}")
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 (resolve() would follow a link we rename onto)
    plans = plan_population(images, seed)
    marker = {"format": FORMAT, "generator": GENERATOR, "images": images, "seed": seed, "synthetic": True}
    if _already_there(directory, marker, plans):
        if progress is not None:
            progress(images, images)
        return _summarise(directory, plans, reused=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}{_PARTIAL}{os.getpid()}-", dir=directory.parent))
    try:
        partial.chmod(0o755)
        for folder in sorted({(partial / plan.path).parent for plan in plans}):
            folder.mkdir(parents=True, exist_ok=True)
        _draw_all(partial, plans, seed, min(workers, -(-images // _CHUNK)), progress)
        _write_table(partial / "train.csv", plans)
        (partial / MARKER).write_text(json.dumps(marker, indent=2, sort_keys=True) + "\n")
        reused = not _placed(partial, directory)
        if reused and not _already_there(directory, marker, plans):
            raise UserError(f"{directory} was changed by another process meanwhile: run again")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _summarise(directory, plans, reused)


def _placed(partial: Path, directory: Path) -> bool:
    """Give a whole folder its name; False, and it is deleted, when another process was quicker with the same."""
    try:
        if directory.is_dir():
            directory.rmdir()  # it was seen to be empty
        partial.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        return False
    return True


def read_marker(directory: Path) -> dict[str, Any] | None:
    """Return what ``PHANTOM.json`` says, or None where ``directory`` is not a phantom."""
    try:
        marker = json.loads((directory / MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _already_there(directory: Path, marker: dict[str, Any], plans: list[ImagePlan]) -> bool:
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise UserError(f"{directory} is a file: choose another folder for the phantom")
    found = read_marker(directory)
    if found is None:
        if any(directory.iterdir()):
            raise UserError(f"{directory} is not empty and holds no phantom: choose another folder, or empty it")
        return False
    if found != marker:
        differing = ", ".join(
            f"{key} {found.get(key)} instead of {value}" for key, value in marker.items() if found.get(key) != value
        )
        raise UserError(f"{directory} holds another phantom ({differing}): choose another folder, or delete it")
    if not (directory / "train.csv").is_file() or not all((directory / plan.path).is_file() for plan in plans):
        raise UserError(f"{directory} has lost files since it was written: delete it and run again")
    return True


def _available_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sweep(directory: Path) -> None:
    """Remove what a killed run of the same folder left behind."""
    prefix = f".{directory.name}{_PARTIAL}"
    for stale in directory.parent.glob(f"{prefix}*"):
        owner = stale.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_table(path: Path, plans: list[ImagePlan]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for plan in plans:
            row = (f"{_PREFIX}/{plan.path}", plan.sex, plan.age, "Frontal", plan.view, *plan.findings)
            table.writerow(row)


def _summarise(directory: Path, plans: list[ImagePlan], reused: bool) -> PhantomSummary:
    codes = [plan.code for plan in plans]
    return PhantomSummary(
        directory=directory,
        images=len(plans),
        patients=len({plan.patient for plan in plans}),
        positives=codes.count("1.0"),
        negated=codes.count("0.0"),
        uncertain=codes.count("-1.0"),
        unmentioned=codes.count(""),
        reused=reused,
    )


def _draw_all(
    folder: Path, plans: list[ImagePlan], seed: int, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    done = 0
    chunks: list[list[ImagePlan]] = [[]]
    for plan in plans:  # whole patients, whose drawing is shared
        if len(chunks[-1]) >= _CHUNK and chunks[-1][-1].patient != plan.patient:
            chunks.append([])
        chunks[-1].append(plan)
    for drawn in _chunks_drawn(folder, chunks, seed, workers):
        done += drawn
        if progress is not None:
            progress(done, len(plans))


def _chunks_drawn(folder: Path, chunks: list[list[ImagePlan]], seed: int, workers: int) -> Iterator[int]:
    if workers == 1:
        for chunk in chunks:
            yield _draw_chunk(folder, chunk, seed)
        return
    # Spawned, not forked: the caller may hold threads or a GPU.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        with _interrupts_held_back():  # workers inherit it: Ctrl-C is this process's to handle
            pending: set[Future[int]] = {pool.submit(_draw_chunk, folder, chunk, seed) for chunk in chunks}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=True)  # at most a chunk each


def _draw_chunk(folder: Path, chunk: list[ImagePlan], seed: int) -> int:
    for plan, picture in render_all(chunk, seed):
        Image.fromarray(picture).save(folder / plan.path, "JPEG", quality=95)
    return len(chunk)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    """End a worker when its parent is gone, however it went; a pool's own workers would wait for ever."""
    _keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _keep_freed_memory() -> None:
    """Have glibc reuse freed picture arrays instead of giving them back: a fifth of the time otherwise.

    Elsewhere than on glibc there is no ``mallopt``, and nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)
