"""The benchmark runs and gives finite figures; whether they are good is for a quiet machine to say."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_script(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_for_json(name: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_script(name, *arguments).splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def partition(tmp_path_factory: pytest.TempPathFactory, toy_dataset: Path) -> Path:
    paths = sorted(map(str, toy_dataset.rglob("*.jpg")))[:8]
    path = tmp_path_factory.mktemp("quickstart") / "partition.json"
    path.write_text(json.dumps([[(name, number % 2) for number, name in enumerate(paths)]] * 2))
    return path


def test_quick_run_prints_finite_ratios_with_their_targets(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    said = run_script("bench_training.py", "--quick", "--only", "loop", "writeup", "--out", out)
    written = json.loads(out.read_text())
    assert written["quick"] is True
    assert written["machine"]["processors"] == os.cpu_count()
    assert [line["target"] for line in written["lines"]] == [0.85, 0.85, 4.0, None]
    for line in written["lines"]:
        assert math.isfinite(line["median"])
        assert line["median"] > 0
        assert line["what"] in said


@pytest.mark.slow
def test_federation_tells_each_round_and_its_workers_memory() -> None:
    arguments = ("--phantom-images", 40, "--sites", 2, "--images-per-site", 4, "--rounds", 3, "--cpus", 1)
    found = run_for_json("bench_engine.py", *arguments)
    assert found["images_per_round"] == 8
    assert len(found["seconds"]) == 2
    assert all(0 < seconds < 60 for seconds in found["seconds"])
    assert len(found["seconds_told"]) == 2
    if sys.platform == "linux":
        assert 0 < found["own_bytes"] <= found["peak_bytes"]


@pytest.mark.slow
def test_every_step_to_the_first_round_is_seen() -> None:
    found = run_for_json("bench_first_round.py", "--phantom-images", 120, "--clients", 3)
    steps = ["imports", "data", "ray", "hospitals joined", "first answer", "first round"]
    assert sorted(found) == sorted(steps)
    assert [found[name] for name in steps] == sorted(found.values())


@pytest.mark.slow
def test_quickstart_shaped_app_trains_in_every_round(partition: Path) -> None:
    found = run_for_json("bench_quickstart_app.py", "--partition", partition, "--rounds", 2)
    assert found["images_per_round"] == 16
    assert len(found["seconds"]) == 1
    assert all(math.isfinite(loss) for loss in found["losses"])


def test_writeups_reader_keeps_rows_rows(toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_writeup_epoch import read_as_the_writeup

    path = next(toy_dataset.rglob("*.jpg"))
    with Image.open(path) as image:
        assert np.array_equal(read_as_the_writeup(path), (np.asarray(image) / 255).astype(np.float32))
        image.transpose(Image.Transpose.TRANSPOSE).save(path.with_name("upright.png"))
    assert np.array_equal(read_as_the_writeup(path.with_name("upright.png")), read_as_the_writeup(path))
    path.with_name("upright.png").unlink()
