"""Builders that are killed, raced, or run out of disk: what they leave is never taken for a cache."""

import errno
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from radiograph_samples import make_table, write_images

from nescient_fl.errors import UserError
from nescient_fl.radiographs import cachefolder
from nescient_fl.radiographs.cache import build_cache, open_cache
from nescient_fl.radiographs.table import write_table

BUILDER = """
import os, signal, sys, time
from pathlib import Path
from nescient_fl.radiographs.cache import build_cache
from nescient_fl.radiographs.table import read_table

data, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def progress(done, total):
    if how == "hang" and done == 4:
        print("half-way", flush=True)
        time.sleep(600)
    if how == "slow":
        time.sleep(0.02)

if how == "die before the rename":
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
result = build_cache({"made": data}, read_table(data / "cohort.csv"), "upright", out, 2, progress)
print("reused" if result.reused else "built", result.cache.directory.name, int(result.cache.pixels.sum()))
"""


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    table = make_table(12)
    write_images(tmp_path / "data", table)
    write_table(tmp_path / "data" / "cohort.csv", table)
    return tmp_path / "data", table


def start(data: Path, out: Path, how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", BUILDER, str(data), str(out), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["hang", "die before the rename"])
def test_a_killed_builder_leaves_no_cache(dataset: tuple[Path, pd.DataFrame], tmp_path: Path, how: str) -> None:
    data, table = dataset
    out = tmp_path / "out"
    builder = start(data, out, how)
    assert builder.stdout is not None
    if how == "hang":
        assert builder.stdout.readline() == "half-way\n"
        builder.send_signal(signal.SIGKILL)
    assert builder.wait(60) == -signal.SIGKILL
    left = [name for name in names(out) if name.endswith(".building")]
    assert len(left) == 1
    assert not [name for name in names(out) if name.startswith("cache-")]
    if how == "hang":
        with pytest.raises(UserError, match="no finished pixel cache"):
            open_cache(out / left[0])
    (out / ".cache-0.going-1").mkdir()  # Killed in the middle of deleting.
    # The next builder, of other images even, clears up after the dead one.
    other = build_cache({"made": data}, table.head(3), "paper", out)
    assert names(out) == [other.cache.directory.name]
    whole = build_cache({"made": data}, table, "upright", out)
    assert not whole.reused
    assert len(whole.cache) == len(table)


def test_a_living_builders_folder_is_left_alone(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    data, table = dataset
    out = tmp_path / "out"
    builder = start(data, out, "hang")
    try:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "half-way\n"
        before = [name for name in names(out) if name.endswith(".building")]
        build_cache({"made": data}, table.head(3), "paper", out)
        assert [name for name in names(out) if name.endswith(".building")] == before
    finally:
        builder.kill()
        builder.wait(60)


def test_racing_builders_build_once(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    data, table = dataset
    out = tmp_path / "out"
    builders = [start(data, out, "slow") for _ in range(2)]
    answers = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], answers
    words = sorted(answer.split()[0] for answer, _ in answers)
    assert words == ["built", "reused"]
    assert len({tuple(answer.split()[1:]) for answer, _ in answers}) == 1
    assert len(names(out)) == 1
    assert build_cache({"made": data}, table, "upright", out).reused


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: a write then fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    data, table = dataset
    with largest_file(500_000), pytest.raises(OSError, match="File too large") as raised:
        build_cache({"made": data}, table, "upright", tmp_path / "out")
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(tmp_path / "out")
    assert names(tmp_path / "out") == []
    assert len(build_cache({"made": data}, table, "upright", tmp_path / "out").cache) == len(table)


def test_a_full_disk_is_seen_before_the_work(
    dataset: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, table = dataset
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(cachefolder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left") as raised:
        build_cache({"made": data}, table, "upright", tmp_path / "out")
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename is not None
    assert names(tmp_path / "out") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_device_that_is_always_full(
    dataset: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, table = dataset
    opening = Path.open

    def open_full(path: Path, mode: str = "r", **options: object):  # type: ignore[no-untyped-def]
        return opening(Path("/dev/full") if path.name == "pixels.npy" and "w" in mode else path, mode, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        build_cache({"made": data}, table, "upright", tmp_path / "out")
    monkeypatch.undo()
    assert names(tmp_path / "out") == []


def test_ctrl_c_leaves_nothing(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    data, table = dataset

    def interrupt(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache({"made": data}, table, "upright", tmp_path / "out", 2, interrupt)
    assert names(tmp_path / "out") == []


def test_an_out_folder_that_is_a_file(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="out") as raised:
        build_cache({"made": dataset[0]}, dataset[1], "upright", tmp_path / "out")
    assert raised.value.filename is not None


def test_a_reader_keeps_its_pixels_when_the_cache_is_replaced(
    dataset: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    data, table = dataset
    cache = build_cache({"made": data}, table, "upright", tmp_path / "out").cache
    expected = int(cache.pixels.sum())
    (cache.directory / "cache.json").unlink()
    build_cache({"made": data}, table, "upright", tmp_path / "out")
    assert int(cache.pixels.sum()) == expected


def test_opening_reads_no_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "cache-big"
    folder.mkdir()
    images = 20_000  # 2.5 GB of holes: reading it would take seconds, mapping it takes none.
    with (folder / "pixels.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, 320, 390)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + images * 320 * 390)
    lines = [f"made,{number}.jpg,{number:064d},1.5,2.5" for number in range(images)]
    (folder / "table.csv").write_text("\n".join(["source,image,sha256,mean,std", *lines]) + "\n")
    sizes = {name: (folder / name).stat().st_size for name in ("pixels.npy", "table.csv")}
    record = {
        "format": 1,
        "key": "0" * 64,
        "geometry": "upright",
        "images": images,
        "bytes": sizes,
        "rejected": [],
    }
    (folder / "cache.json").write_text(json.dumps(record))
    start_time = time.perf_counter()
    assert len(open_cache(folder)) == images
    assert time.perf_counter() - start_time < 1.0
