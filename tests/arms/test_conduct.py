"""What happens before the first round."""

import threading
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.arms import conduct
from nescient_fl.arms.engines import EngineKind
from nescient_fl.arms.watching import Silent
from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder, read_json, write_json
from nescient_fl.study.settings import StudySettings, make_settings
from strategies.exchange import Stopped


class NoEngine:
    """Stands where Ray would be started; remembers that it was closed."""

    closed = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def run(self, *_: Any, **__: Any) -> None:
        raise AssertionError("no round may begin here")

    def close(self) -> None:
        type(self).closed += 1


def settings_for(dataset: Path, **options: Any) -> StudySettings:
    few = {"clients": 2, "aggregation": "plain", "partition": "iid", "min_images": 20, "min_positives": 4}
    return make_settings({"data": [str(dataset)], **few, **options})


KIND = EngineKind("none", "simulate", NoEngine)


def test_ctrl_c_is_heard_while_radiographs_are_made_ready(tmp_path: Path, toy_dataset: Path, own_cache: Path) -> None:
    run, stop = RunFolder.create(tmp_path / "run"), threading.Event()
    stop.set()
    closed = NoEngine.closed
    with pytest.raises(Stopped):
        conduct.conduct(settings_for(toy_dataset, geometry="paper"), run, Silent(), stop, KIND)
    assert NoEngine.closed == closed + 1
    assert not run.partition.exists()
    assert not list(own_cache.glob("pixels/.*building"))


def test_a_run_resumed_on_other_radiographs_is_refused(tmp_path: Path, toy_dataset: Path) -> None:
    run, settings = RunFolder.create(tmp_path / "run"), settings_for(toy_dataset)
    conduct.prepare_run(settings, run, Silent())
    before = run.partition.read_bytes()
    write_json(run.config, {**read_json(run.config), "cache_key": "0" * 64})
    with pytest.raises(UserError, match="no longer those"):
        conduct.conduct(settings, run, Silent(), threading.Event(), KIND)
    assert run.partition.read_bytes() == before


def test_the_same_settings_make_the_same_partition(tmp_path: Path, toy_dataset: Path) -> None:
    tables = []
    for name in ("one", "two"):
        run = RunFolder.create(tmp_path / name)
        conduct.prepare_run(settings_for(toy_dataset), run, Silent())
        tables.append((run.partition.read_bytes(), run.cohort.read_bytes()))
    assert tables[0] == tables[1]
    other = RunFolder.create(tmp_path / "other")
    conduct.prepare_run(settings_for(toy_dataset, seed=1), other, Silent())
    assert other.partition.read_bytes() != tables[0][0]
