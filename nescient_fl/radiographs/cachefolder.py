"""The file work under the pixel cache: locks, durable writes, leftovers of killed builders, bounded pools."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO, Any, Final, TypeVar

_BUILDING: Final = ".building"
_LOCK: Final = ".lock"
_GOING: Final = ".going-"

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def building_folder(final: Path) -> Path:
    """Return the hidden folder in which ``final`` is built; whoever holds its lock may delete it."""
    return final.with_name(f".{final.name}{_BUILDING}")


@contextlib.contextmanager
def locked(final: Path) -> Iterator[None]:
    """Hold the one right to build ``final``, waiting while another process has it.

    The lock is the kernel's, so it ends with the process that holds it, however that ends.
    """
    descriptor = _acquire(final, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        _release(final, descriptor)


def remove_leftovers(directory: Path) -> None:
    """Delete the unfinished folders in ``directory`` whose builders no longer live."""
    for building in directory.glob(f".*{_BUILDING}"):
        final = building.with_name(building.name.removeprefix(".").removesuffix(_BUILDING))
        descriptor = _acquire(final, wait=False)
        if descriptor is not None:
            discard(building)
            _release(final, descriptor)
    # What a builder was deleting when it was killed; helping another to delete does no harm.
    for going in directory.glob(f".*{_GOING}*"):
        shutil.rmtree(going, ignore_errors=True)


def _lock_path(final: Path) -> Path:
    return final.with_name(f".{final.name}{_LOCK}")


def _acquire(final: Path, *, wait: bool) -> int | None:
    path = _lock_path(final)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The one before us may have deleted the file between our open and our lock; then the lock is
            # on a file that nobody else can find, and worth nothing.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            os.close(descriptor)
        except OSError as error:  # A file system without locks.
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(path)) from error
        except BaseException:
            os.close(descriptor)
            raise


def _release(final: Path, descriptor: int) -> None:
    _lock_path(final).unlink(missing_ok=True)
    os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a folder, if it is there, so that it is never seen half deleted under its own name."""
    if path.is_dir() and not path.is_symlink():
        going = path.with_name(f".{path.name.removeprefix('.')}{_GOING}{os.getpid()}")
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_space(directory: Path, wanted: int) -> None:
    """Raise ``OSError`` (ENOSPC) when ``wanted`` bytes do not fit on the disk of ``directory``."""
    if shutil.disk_usage(directory).free < wanted:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def sync(file: IO[Any]) -> None:
    """Push what was written to ``file`` to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Push the names in ``directory`` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_order(pool: Executor, function: Callable[[_In], _Out], tasks: Iterable[_In], window: int) -> Iterator[_Out]:
    """Yield ``function(task)`` for each task in order, with at most ``window`` results made ahead."""
    waiting: deque[Future[_Out]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
