"""The phantom as a folder: layout, codes, sameness, and that it is whole or not there."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from nescient_fl.errors import UserError
from nescient_fl.radiographs.phantom import MARKER, write_phantom
from nescient_fl.radiographs.phantom.population import plan_population

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    "Fracture,Support Devices"
)
IMAGES = 40


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "small"
    write_phantom(folder, IMAGES, seed=3, workers=1)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout_is_chexperts(small: Path) -> None:
    assert (small / "train.csv").read_text().splitlines()[0] == HEADER
    rows = rows_of(small)
    assert len(rows) == IMAGES
    for row in rows:
        prefix, split, patient, study, view = row["Path"].split("/")
        assert (prefix, split) == ("CheXpert-v1.0-small", "train")
        assert patient.startswith("patient")
        assert len(patient) == len("patient00001")
        assert study.startswith("study")
        assert view.startswith("view")
        assert view.endswith("_frontal.jpg")
        assert (small / row["Path"].removeprefix("CheXpert-v1.0-small/")).is_file()
        assert row["Sex"] in {"Male", "Female"}
        assert 18 <= int(row["Age"]) <= 90
        assert row["Frontal/Lateral"] == "Frontal"
        assert row["AP/PA"] in {"AP", "PA"}
        assert {row[name] for name in HEADER.split(",")[5:]} <= {"1.0", "0.0", "-1.0", ""}
    assert {row["Lung Lesion"] for row in rows} == {"1.0", "0.0", "-1.0", ""}
    on_disk = {f"CheXpert-v1.0-small/{p.relative_to(small).as_posix()}" for p in small.rglob("*.jpg")}
    assert on_disk == {row["Path"] for row in rows}


def test_pictures_are_chexperts(small: Path) -> None:
    landscape = 0
    for path in small.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert image.mode == "L"
            assert min(image.size) == 320
            assert max(image.size) <= 402
            landscape += image.size[0] > image.size[1]
            # Quality 95 has this luminance table.
            assert image.quantization[0][:8] == [2, 1, 1, 2, 2, 4, 5, 6]  # type: ignore[attr-defined]
            low, high = image.getextrema()
            assert high - low > 150
    assert IMAGES / 2 < landscape < IMAGES


def test_marker_says_synthetic(small: Path) -> None:
    marker = json.loads((small / MARKER).read_text())
    assert marker["synthetic"] is True
    assert (marker["seed"], marker["images"]) == (3, IMAGES)


def test_same_files_whatever_the_workers(small: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = write_phantom(
        tmp_path / "again", IMAGES, seed=3, workers=2, progress=lambda done, total: told.append((done, total))
    )
    assert files_of(tmp_path / "again") == files_of(small)
    assert told[-1] == (IMAGES, IMAGES)
    assert told == sorted(told)
    codes = [row["Lung Lesion"] for row in rows_of(small)]
    assert summary.positives == codes.count("1.0")
    assert summary.negated + summary.uncertain + summary.unmentioned == IMAGES - summary.positives
    assert not summary.reused


def test_another_seed_draws_others(small: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "other", 20, seed=4, workers=1)
    first = "train/patient00001/study1/view1_frontal.jpg"
    assert (tmp_path / "other" / first).read_bytes() != (small / first).read_bytes()


def test_the_same_phantom_is_reused_and_another_is_not_overwritten(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert write_phantom(small, IMAGES, seed=3, workers=1).reused
    with pytest.raises(UserError, match="seed 3 instead of 5"):
        write_phantom(small, IMAGES, seed=5, workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


def test_who_draws_the_same_a_little_later_takes_the_others(tmp_path: Path) -> None:
    """Two studies that begin side by side both find no phantom, and both draw it."""

    def another_is_quicker(done: int, total: int) -> None:
        if done == total and not (tmp_path / "p").exists():
            write_phantom(tmp_path / "p", 20, seed=1, workers=1)

    summary = write_phantom(tmp_path / "p", 20, seed=1, workers=1, progress=another_is_quicker)
    assert (summary.reused, summary.images) == (True, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    (tmp_path / "q").mkdir()

    def somebody_puts_something_there(done: int, total: int) -> None:
        if done == total:
            (tmp_path / "q" / "thesis.txt").write_text("do not lose")

    with pytest.raises(UserError, match="not empty"):
        write_phantom(tmp_path / "q", 20, seed=1, workers=1, progress=somebody_puts_something_there)
    assert (tmp_path / "q" / "thesis.txt").read_text() == "do not lose"


def test_a_damaged_phantom_is_not_taken_for_whole(tmp_path: Path) -> None:
    write_phantom(tmp_path / "p", 20, seed=1, workers=1)
    next((tmp_path / "p").rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match="lost files"):
        write_phantom(tmp_path / "p", 20, seed=1, workers=1)


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(UserError, match="not empty"):
        write_phantom(tmp_path / "mine", 20, seed=1, workers=1)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_phantom(tmp_path / "file", 20, seed=1, workers=1)
    (tmp_path / "empty").mkdir()
    assert not write_phantom(tmp_path / "empty", 20, seed=1, workers=1).reused


def test_bad_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 20"):
        write_phantom(tmp_path / "p", 3, seed=1)
    with pytest.raises(UserError, match="worker"):
        write_phantom(tmp_path / "p", 20, seed=1, workers=0)
    assert not (tmp_path / "p").exists()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "p", 60, seed=1, workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_every_process_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nescient_fl.phantom", "--out", str(tmp_path / "p"), "--images", "600"]
    process = subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".p.partial-*/train/*/*/*.jpg")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everyone
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip() == "error: interrupted"
    assert list(tmp_path.iterdir()) == []
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a process of the group is still there")


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".p.partial-{gone.pid}-x").mkdir()
    (tmp_path / f".p.partial-{os.getpid()}-x").mkdir()  # that one is being written
    write_phantom(tmp_path / "p", 20, seed=1, workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"p", f".p.partial-{os.getpid()}-x"}


def test_plans_do_not_depend_on_anything_but_images_and_seed() -> None:
    assert plan_population(100, 5) == plan_population(100, 5)
    assert plan_population(100, 5) != plan_population(100, 6)
    for images in (20, 21, 99, 500):
        plans = plan_population(images, 1)
        assert len(plans) == images
        assert len({plan.path for plan in plans}) == images
