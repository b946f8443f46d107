"""The ``prepare`` command: what it writes, what it says, and one clear line for each mistake."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nescient_fl.prepare import prepare
from nescient_fl.radiographs.cache import open_cache
from nescient_fl.radiographs.table import read_table

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,Lung Lesion,Support Devices"
IMAGES = 24

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A CheXpert folder: patients 1 to 24 with one frontal image each, lesion codes in turn."""
    folder = tmp_path / "CheXpert-v1.0-small"
    rows = []
    for number in range(1, IMAGES + 1):
        inside = f"train/patient{number:05d}/study1/view1_frontal.jpg"
        code = ("1.0", "", "0.0", "-1.0")[number % 4]
        rows.append(f"CheXpert-v1.0-small/{inside},Female,60,Frontal,PA,{code},")
        path = folder / inside
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, run_as_module: Run) -> Run:
    monkeypatch.setenv("COLUMNS", "100")
    return partial(run_as_module, prepare)


def one_line(status: int, error: str) -> str:
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_it_writes_a_cohort_and_a_cache(dataset: Path, tmp_path: Path, run: Run) -> None:
    status, out, err = run(dataset, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    cohort = read_table(tmp_path / "out" / "cohort.csv")
    assert cohort["label"].value_counts().to_dict() == {"positive": 6, "negated": 6}
    assert cohort["target"].tolist() == [int(label == "positive") for label in cohort["label"]]
    (folder,) = (tmp_path / "out").glob("cache-*")
    assert open_cache(folder).table["image"].tolist() == cohort["image"].tolist()
    for expected in (
        "rows read",
        "24",
        "negated",
        "patients",
        "sex F",
        "view PA",
        "cache written",
        folder.name,
    ):
        assert expected in out
    assert "SYNTHETIC" not in out
    status, out, _ = run(dataset, "--out", tmp_path / "out")
    assert status == 0
    assert "cache found ready" in out


def test_rules_reach_the_cohort(dataset: Path, tmp_path: Path, run: Run) -> None:
    def labels(*options: str) -> dict[str, int]:
        assert run(dataset, "--out", tmp_path / "out", "--table-only", *options)[0] == 0
        table = read_table(tmp_path / "out" / "cohort.csv")
        return {str(label): int(count) for label, count in table["label"].value_counts().items()}

    assert labels("--cohort", "paper") == {"positive": 6, "uncertain": 6}
    assert labels("--uncertain", "negative") == {"positive": 6, "negated": 6, "uncertain": 6}
    assert labels("--balance", "1.5") == {"positive": 6, "negated": 6, "unmentioned": 3}
    assert not list((tmp_path / "out").glob("cache-*"))


def test_table_only_needs_no_images(dataset: Path, tmp_path: Path, run: Run) -> None:
    table = tmp_path / "elsewhere" / "train.csv"
    table.parent.mkdir()
    table.write_text((dataset / "train.csv").read_text())
    status, out, _ = run(table, "--table-only", "--out", tmp_path / "out")
    assert status == 0
    assert "cohort written" in out
    one_line(*_status_and_error(run(table.parent, "--out", tmp_path / "out")))


def _status_and_error(answer: tuple[int, str, str]) -> tuple[int, str]:
    return answer[0], answer[2]


def test_rejected_files_are_named_and_counted(dataset: Path, tmp_path: Path, run: Run) -> None:
    images = sorted(dataset.rglob("*.jpg"))
    for path in images[3::4]:  # The positive ones, six of them; leave one.
        path.write_bytes(b"")
    Image.fromarray(np.full((9, 9), 3, np.uint8)).save(images[1])
    images[3].write_bytes(images[0].read_bytes())
    status, out, _ = run(dataset, "--out", tmp_path / "out")
    assert status == 0
    assert f"left out {images[7]}: empty file" in out
    assert out.count(": empty file") + out.count("have one value") == 5
    assert "left out 6 files in all" in out
    assert len(read_table(tmp_path / "out" / "cohort.csv")) == 6


def test_copies_under_two_names_are_said(dataset: Path, tmp_path: Path, run: Run) -> None:
    images = sorted(dataset.rglob("*.jpg"))
    images[7].write_bytes(images[3].read_bytes())
    assert "2 images are byte for byte those of another patient" in run(dataset, "--out", tmp_path / "out")[1]


def test_phantoms_are_called_synthetic(dataset: Path, tmp_path: Path, run: Run) -> None:
    (dataset / "PHANTOM.json").write_text("{}")
    assert "SYNTHETIC" in run(dataset, "--out", tmp_path / "out")[1]
    assert set(read_table(tmp_path / "out" / "cohort.csv")["source"]) == {"phantom"}


def test_mistakes_are_one_line_each(dataset: Path, tmp_path: Path, run: Run) -> None:
    table = dataset / "train.csv"
    whole = table.read_text()

    def error(*arguments: object) -> str:
        status, _, err = run(*arguments, "--out", tmp_path / "out")
        return one_line(status, err)

    assert "absent does not exist" in error(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "is no dataset known here" in error(tmp_path / "empty")
    assert "--source mimic is unknown" in error(dataset, "--source", "mimic")
    assert "--geometry sideways is unknown" in error(dataset, "--geometry", "sideways")
    assert "--cohort all is unknown" in error(dataset, "--cohort", "all")
    assert "leave --uncertain out" in error(dataset, "--cohort", "paper", "--uncertain", "positive")
    assert "--balance nan" in error(dataset, "--balance", "nan")
    table.write_text(whole.replace("Lung Lesion", "Lesions"))
    assert f"{table} lacks the column 'Lung Lesion'" in error(dataset)
    table.write_text(whole.replace(",0.0,", ",0.5,", 1))
    assert f"{table} line 3: Lung Lesion is '0.5'" in error(dataset)
    table.write_text(whole.replace(",1.0,", ",,"))
    assert "the cohort has no positive image" in error(dataset)
    table.write_text(whole)
    for path in dataset.rglob("*.jpg"):
        path.write_text("not an image")
    assert "none of the 12 radiographs can be used" in error(dataset)
    for path in dataset.rglob("*.jpg"):
        path.unlink()
    assert "none of the 24 images of the table is under" in error(dataset)
    assert not (tmp_path / "out" / "cohort.csv").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: a write then fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_written(dataset: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = run(dataset, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in one_line(status, err)
    status, _, err = run(dataset, "--out", tmp_path / "file" / "below")
    assert "Not a directory" in one_line(status, err)
    with largest_file(300_000):
        status, _, err = run(dataset, "--out", tmp_path / "full")
    assert str(tmp_path / "full") in one_line(status, err)
    assert list((tmp_path / "full").iterdir()) == []
    with largest_file(100):
        status, _, err = run(dataset, "--table-only", "--out", tmp_path / "full")
    assert str(tmp_path / "full" / "cohort.csv") in one_line(status, err)
    assert list((tmp_path / "full").iterdir()) == []


def test_the_module_runs_as_a_program(dataset: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "nescient_fl.prepare",
        str(dataset),
        "--geometry",
        "paper",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "prepared").glob("cache-*")
    assert open_cache(folder).geometry == "paper"
