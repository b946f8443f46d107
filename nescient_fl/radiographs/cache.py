"""The pixel cache: every radiograph of a cohort decoded once, in one memory-mapped array.

A finished cache is one folder, ``cache-<first 12 digits of its key>``::

    pixels.npy   uint8 [N, 320, 390]
    table.csv    a line an image, in the array's order: source, image, sha256, mean, std
    cache.json   format, key, geometry, sizes, and the files that were left out

It is built in a hidden folder beside its final place and renamed when all of it is on the disk, so a process
killed at any moment leaves no folder that could be taken for a cache. The key covers the content of every
file and the settings, so a cache is never out of date: other files have another key. Labels are not in it;
the same pixels serve every cohort rule.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cachefolder import (
    building_folder,
    check_space,
    discard,
    in_order,
    locked,
    remove_leftovers,
    sync,
    sync_directory,
)
from nescient_fl.radiographs.geometry import (
    FRAME,
    BadRadiograph,
    Framed,
    Geometry,
    checked_geometry,
    decode_radiograph,
    place,
    read_bytes,
)
from nescient_fl.radiographs.table import patient_keys

FORMAT: Final = 1
"""Raised when the same file would give other pixels or another layout; older caches are then left alone."""
SMALLEST_STD: Final = 1.0
"""Grey levels. Dividing by the std of a nearly flat image must not blow up its noise."""

Progress = Callable[[int, int], None] | None

_ROW_BYTES: Final = FRAME[0] * FRAME[1]
_UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class PixelCache:
    """An open cache of N radiographs.

    ``pixels`` uint8 [N, 320, 390], memory-mapped read-only; ``mean`` and ``std`` float32 [N] in grey levels
    (0..255), over the radiograph without its padding, ``std`` at least ``SMALLEST_STD``; ``table`` has the
    columns source, image and sha256 in the same order.
    """

    directory: Path
    key: str
    geometry: Geometry
    pixels: npt.NDArray[np.uint8]
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    table: pd.DataFrame

    def __len__(self) -> int:
        """The number of radiographs."""
        return len(self.pixels)


@dataclass(frozen=True)
class Rejected:
    """A file that was left out of a cache, and why."""

    source: str
    image: str
    reason: str


@dataclass(frozen=True)
class CacheResult:
    """What ``build_cache`` made.

    ``table`` holds the rows of the table that was asked for whose images are in ``cache``, all columns, in
    the cache's order; ``rejected`` the files left out; ``reused`` whether a finished cache was there
    already.
    """

    cache: PixelCache
    table: pd.DataFrame
    rejected: tuple[Rejected, ...]
    reused: bool

    @property
    def copies(self) -> int:
        """The images whose file is, byte for byte, another patient's too: one person under two names."""
        hashes = self.cache.table["sha256"]
        owners = patient_keys(self.table).groupby(hashes).nunique()
        return int(hashes.map(owners).gt(1).sum())


def cache_key(table: pd.DataFrame, hashes: Sequence[str], geometry: Geometry) -> str:
    """Return the key, 64 hex digits, of a table's images in order, with the SHA-256 of each file.

    Pillow's version counts as a setting: another one may decode the same file to other pixels.
    """
    settings = f"nescient cache {FORMAT} {geometry} {FRAME} Pillow {PIL.__version__}\n"
    digest = hashlib.sha256(settings.encode())
    for source, image, sha256 in zip(table["source"], table["image"], hashes, strict=True):
        digest.update(f"{source}\x1f{image}\x1f{sha256}\n".encode())
    return digest.hexdigest()


def build_cache(
    roots: Mapping[str, Path],
    table: pd.DataFrame,
    geometry: Geometry,
    directory: Path,
    workers: int | None = None,
    progress: Progress = None,
) -> CacheResult:
    """Decode every radiograph of ``table`` into ``directory/cache-<key>``, or open it where it is there.

    ``roots`` gives each ``source`` of the table its dataset folder. ``workers`` threads decode (default:
    one a CPU); memory stays bounded by a few images a worker. ``progress`` is told the images done and the
    total. Builders of the same cache in several processes wait for the first and share its work.

    A file that cannot be used is left out and reported. Raises ``UserError`` when none can be used, or when a
    file changes meanwhile, and ``OSError`` with the path when the folder is full or not writable; neither
    leaves anything behind that could be taken for a cache.
    """
    geometry = checked_geometry(geometry)
    unknown = sorted(set(table["source"]) - set(roots))
    if unknown:
        raise ValueError(f"no dataset folder given for the source(s) {', '.join(unknown)}")
    table = table.reset_index(drop=True)
    paths = [Path(roots[s]) / image for s, image in zip(table["source"], table["image"], strict=True)]
    directory.mkdir(parents=True, exist_ok=True)
    workers = max(1, workers or os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="radiographs") as pool:
        hashes = list(in_order(pool, _hash_file, paths, 4 * workers))
        key = cache_key(table, hashes, geometry)
        final = directory / f"cache-{key[:12]}"
        reused = _is_whole(final, key)
        if not reused:
            with locked(final):
                remove_leftovers(directory)
                reused = _is_whole(final, key)
                if not reused:
                    plan = _Plan(table, paths, hashes, key, geometry)
                    _build(final, plan, pool, workers, progress)
    cache = open_cache(final)
    rejected = _rejected(final)
    if progress is not None and reused:
        progress(len(table), len(table))
    left_out = {(r.source, r.image) for r in rejected}
    keep = [pair not in left_out for pair in zip(table["source"], table["image"], strict=True)]
    return CacheResult(cache, table[keep].reset_index(drop=True), rejected, reused)


def open_cache(directory: Path) -> PixelCache:
    """Open a finished cache; the pixels are mapped, not read.

    Raises ``UserError`` when the folder is not there, or when its files do not agree with its
    ``cache.json`` in size or number, as after a copy that was cut short.
    """
    try:
        record = json.loads((directory / "cache.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(
                f"{directory} has cache format {record['format']}; this version reads {FORMAT}: prepare again"
            )
        for name, size in record["bytes"].items():
            found = (directory / name).stat().st_size
            if found != size:
                raise UserError(f"{directory / name} has {found} bytes of {size}; delete {directory}, prepare again")
        pixels = np.load(directory / "pixels.npy", mmap_mode="r", allow_pickle=False)
        table = pd.read_csv(
            directory / "table.csv",
            dtype={"source": str, "image": str, "sha256": str, "mean": np.float32, "std": np.float32},
            keep_default_na=False,
            na_values={"mean": [""], "std": [""]},
        )
        shape = (int(record["images"]), *FRAME)
        if pixels.shape != shape or pixels.dtype != np.uint8 or len(table) != shape[0]:
            raise UserError(f"{directory} is damaged: its array, table and record disagree; delete it, prepare again")
        return PixelCache(
            directory,
            str(record["key"]),
            record["geometry"],
            pixels,
            table["mean"].to_numpy(np.float32),
            table["std"].to_numpy(np.float32),
            table[["source", "image", "sha256"]],
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{directory} is no finished pixel cache ({error.filename} is missing); prepare again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} is damaged ({error}); delete it and prepare again") from error


def _is_whole(directory: Path, key: str) -> bool:
    try:
        return open_cache(directory).key == key
    except UserError:
        return False


def _rejected(directory: Path) -> tuple[Rejected, ...]:
    record = json.loads((directory / "cache.json").read_text(encoding="utf-8"))
    return tuple(Rejected(**entry) for entry in record["rejected"])


def _hash_file(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except BadRadiograph:
        return _UNREADABLE


@dataclass(frozen=True)
class _Decoded:
    framed: Framed
    mean: float
    std: float


def _decode(task: tuple[Path, str, Geometry]) -> _Decoded | BadRadiograph:
    path, sha256, geometry = task
    try:
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"{path} changed while it was read; run again when the folder is at rest")
        framed = place(decode_radiograph(data, path), geometry)
    except BadRadiograph as error:
        return error
    area = framed.area
    return _Decoded(framed, float(area.mean(dtype=np.float64)), float(area.std(dtype=np.float64)))


@dataclass(frozen=True)
class _Plan:
    table: pd.DataFrame
    paths: list[Path]
    hashes: list[str]
    key: str
    geometry: Geometry


def _build(final: Path, plan: _Plan, pool: ThreadPoolExecutor, workers: int, progress: Progress) -> None:
    building = building_folder(final)
    discard(building)
    try:
        check_space(final.parent, len(plan.paths) * _ROW_BYTES)
        building.mkdir()
        rows, rejected = _write_pixels(building / "pixels.npy", plan, pool, workers, progress)
        _write_record(building, plan, rows, rejected)
        discard(final)
        building.rename(final)
        sync_directory(final.parent)
    except OSError as error:
        # The hidden folder is gone when the user reads this, so name the one it was in.
        raise OSError(error.errno, error.strerror, str(final.parent)) from error
    finally:
        discard(building)


_Lines = list[dict[str, Any]]


def _write_pixels(
    path: Path, plan: _Plan, pool: ThreadPoolExecutor, workers: int, progress: Progress
) -> tuple[_Lines, _Lines]:
    """Write the array; return the lines of table.csv and the files left out."""
    rows: _Lines = []
    rejected: _Lines = []
    tasks = [(file, sha256, plan.geometry) for file, sha256 in zip(plan.paths, plan.hashes, strict=True)]
    names = zip(plan.table["source"], plan.table["image"], strict=True)
    # Plain writes, not a writable map: a full disk is then an error to report, not a signal that kills.
    with path.open("wb") as file:
        header = _write_header(file, len(tasks))
        decoding = in_order(pool, _decode, tasks, 4 * workers)
        for done, ((source, image), decoded) in enumerate(zip(names, decoding, strict=True), 1):
            line = {"source": source, "image": image}
            if isinstance(decoded, BadRadiograph):
                rejected.append({**line, "reason": decoded.reason})
            else:
                file.write(decoded.framed.pixels.tobytes())
                std = max(SMALLEST_STD, decoded.std)
                rows.append({**line, "sha256": plan.hashes[done - 1], "mean": decoded.mean, "std": std})
            if progress is not None:
                progress(done, len(tasks))
        if not rows:
            first = f"{plan.paths[0]}: {rejected[0]['reason']}" if rejected else "the table is empty"
            raise UserError(f"none of the {len(tasks)} radiographs can be used (first: {first})")
        file.seek(0)
        if _write_header(file, len(rows)) != header:
            raise RuntimeError("the header of pixels.npy changed its length")
        sync(file)
    return rows, rejected


def _write_header(file: IO[bytes], images: int) -> int:
    # numpy leaves room in the header for the first axis to grow, so its length does not depend on it.
    described = {"descr": "|u1", "fortran_order": False, "shape": (images, *FRAME)}
    np.lib.format.write_array_header_1_0(file, described)
    return file.tell()


def _write_record(building: Path, plan: _Plan, rows: _Lines, rejected: _Lines) -> None:
    """Write table.csv and, last, cache.json, and push all to the disk."""
    columns = ["source", "image", "sha256", "mean", "std"]
    with (building / "table.csv").open("w", encoding="utf-8", newline="") as text:
        pd.DataFrame(rows, columns=columns).to_csv(text, index=False, float_format="%.9g", lineterminator="\n")
        sync(text)
    sizes = {name: (building / name).stat().st_size for name in ("pixels.npy", "table.csv")}
    record = {
        "format": FORMAT,
        "key": plan.key,
        "geometry": plan.geometry,
        "images": len(rows),
        "bytes": sizes,
        "rejected": rejected,
    }
    with (building / "cache.json").open("w", encoding="utf-8") as text:
        json.dump(record, text, indent=1)
        sync(text)
    sync_directory(building)
