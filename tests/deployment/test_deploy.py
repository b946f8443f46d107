"""A federation of real processes: the simulation's model, everybody's own images, and nothing left behind."""

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import SMOKE, StudyProcess, last_model_sha256, model_sha256, run_study

from nescient_fl.study.run_folder import RunFolder, read_json, read_lines

pytestmark = pytest.mark.slow

SHORT = ["--rounds", "1", "--local-epochs", "1", "--device", "cpu", "--encrypted-images", "0"]
ONE_ROUND = [*SMOKE[: SMOKE.index("--rounds")], *SHORT]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    # Short, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def temporary(place: Path) -> Path:
    """The deployments' own temporary folder, so that what they leave can be seen."""
    (place / "t").mkdir()
    return place / "t"


@pytest.fixture(scope="module")
def deployed(place: Path, temporary: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        run_study(*ONE_ROUND, "--out", "deployed", folder=place, command="deploy")
    return place / "deployed"


def left_in(folder: Path) -> list[Path]:
    """Return what is left but empty folders: the sockets of a run that can be resumed have one."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_the_model_is_that_of_the_simulation(place: Path, deployed: Path) -> None:
    run_study(*ONE_ROUND, "--no-baselines", "--out", "simulated", folder=place)
    simulated = place / "simulated"
    assert model_sha256(deployed) == model_sha256(simulated)
    assert last_model_sha256(deployed) == last_model_sha256(simulated)
    for name in ("sites", "images", "train_loss"):
        assert [line.get(name) for line in read_lines(deployed / "rounds.jsonl")] == [
            line.get(name) for line in read_lines(simulated / "rounds.jsonl")
        ]


def test_the_run_folder_says_how_it_was_made(deployed: Path) -> None:
    metrics = read_json(deployed / "metrics.json")
    assert metrics["federation"]["engine"] == "deployment"
    assert metrics["secure"]["enabled"]
    assert metrics["secure"]["max_abs_error"] is None, "only a simulation may compare with updates in clear"
    assert read_json(deployed / "config.json")["command"] == "python -m nescient_fl.deploy"
    assert (deployed / "report.html").exists()


def test_every_message_that_left_a_site_is_in_the_transcript(deployed: Path) -> None:
    lines = read_lines(RunFolder(deployed).transcript)
    kinds = {(line["site"], line["round"], line["kind"]) for line in lines}
    for site in ("site-1", "site-2", "site-3"):
        assert {(site, 0, "name"), (site, 1, "sealed update"), (site, 2, "sealed scores")} <= kinds
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_torch_was_imported_once_an_actor(deployed: Path) -> None:
    """All messages of an actor were answered by one and the same process."""
    lines = [json.loads(line) for line in _log(deployed).splitlines() if line.startswith('{"time"')]
    answered = [line for line in lines if line["event"] == "answered" and line["name"] == "site-1"]
    started = [line for line in lines if line["event"] == "started" and line["name"] == "site-1"]
    assert [line["kind"] for line in answered] == ["query", "train", "train"]
    assert len(started) == 1


def test_nothing_is_left_of_a_finished_deployment(deployed: Path, temporary: Path) -> None:  # noqa: ARG001
    assert left_in(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_nothing_is_left_of_an_interrupted_deployment(
    place: Path, temporary: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    study = StudyProcess(*ONE_ROUND, "--out", f"cut-{number.name}", folder=place, command="deploy")
    try:
        # All actors are at work, and Flower's own processes below them have started.
        study.until(lambda: len(list(temporary.glob("*/*/state/supernode.log"))) == 6)
        assert len(study.processes()) > 12
        (key,) = temporary.glob("*/authority/ca-key.pem")
        assert key.stat().st_mode & 0o077 == 0
        if number == signal.SIGINT:
            study.press_ctrl_c()
            assert study.wait() == 130
        else:
            study.kill()
        assert study.left_after(60) == []
        deadline = time.monotonic() + 30
        while left_in(temporary) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left_in(temporary) == []
    finally:
        study.sweep()


def _log(run: Path) -> str:
    return RunFolder(run).engine_log.read_text(errors="replace")
