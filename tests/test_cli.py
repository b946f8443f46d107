"""The command line: mistakes get one clear line and an exit status, help is quick and complete."""

import errno
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy_dataset import COLUMNS, write_table

from nescient_fl import cli
from nescient_fl.arms import engines
from nescient_fl.errors import UserError
from nescient_fl.simulate import simulate
from nescient_fl.study.run_folder import RunFolder, write_json
from nescient_fl.study.settings import StudySettings

SMALL = ["--clients", "2", "--aggregation", "plain", "--partition", "iid", "--min-images", "20", "--min-positives", "4"]

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_as_module: Run) -> Run:
    """Run a command in this process, as its module does; whatever it says about, it never starts Ray."""

    def no_engine(*_: Any, **__: Any) -> None:
        raise AssertionError("a study that cannot be must not start an engine")

    monkeypatch.setattr(engines, "RayEngine", no_engine)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, function: Callable[..., Any] = simulate) -> Ran:
        return run_as_module(function, *arguments)

    return run


def assert_one_line(ran: Ran, *words: str) -> None:
    """Hold that a command failed with one line on standard error that has the words in it."""
    status, _, error = ran
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error, error


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (390, 320), 90).save(path)


def row(number: int, code: str = "1.0") -> tuple[object, ...]:
    inside = f"train/patient{number:05d}/study1/view1_frontal.jpg"
    return (f"CheXpert-v1.0-small/{inside}", "Female", 50, "Frontal", "AP", code, "")


def test_no_such_folder(command: Run) -> None:
    assert_one_line(command("--data", "nowhere"), "nowhere does not exist")


def test_a_folder_of_nothing_known(command: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(command("--data", "empty"), "empty", "train.csv")


def test_no_images(command: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "data", [row(number) for number in range(9)])
    assert_one_line(command("--data", "data"), "none of the 9 images")


def test_a_table_without_a_needed_column(command: Run, tmp_path: Path) -> None:
    keep = [place for place, name in enumerate(COLUMNS) if name != "Lung Lesion"]
    rows = [tuple(row(1)[place] for place in keep)]
    write_table(tmp_path / "data", rows, tuple(COLUMNS[place] for place in keep))
    assert_one_line(command("--data", "data"), "train.csv", "Lung Lesion")


def test_an_unknown_label_code(command: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "data", [row(1), row(2, "2.0")])
    assert_one_line(command("--data", "data"), "line 3", "'2.0'", "1.0, 0.0, -1.0")


def test_only_one_class(command: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "data", [row(1), row(2)])
    for number in (1, 2):
        picture(tmp_path / f"data/train/patient{number:05d}/study1/view1_frontal.jpg")
    assert_one_line(command("--data", "data"), "no negative image")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clients", "91"], ["--clients 91", "90 patients"]),
        (["--clients", "30"], ["needs", "--clients"]),
        (["--clients", "2", "--aggregation", "plain", "--min-positives", "40"], ["positive", "--clients"]),
        (["--clients", "2", "--aggregation", "plain", "--partition", "setting"], ["--partition setting", "--clients"]),
        (["--clients", "2", "--aggregation", "plain", "--partition", "source"], ["--partition source"]),
        (["--clients", "2", "--aggregation", "plain", "--partition", "dirichlet", "--alpha", "0"], ["--alpha"]),
    ],
)
def test_more_clients_than_patients_allow(
    command: Run, toy_dataset: Path, options: list[str], words: list[str]
) -> None:
    base = ["--data", str(toy_dataset), "--partition", "iid", "--min-images", "3", "--min-positives", "1"]
    if "--min-positives" not in options and "30" in options:
        base = base[:4]
    assert_one_line(command(*base, *options), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clinets = 3", ["'clinets'", "did you mean 'clients'"]),
        ("clients = 'three'", ["'clients' takes int"]),
        ("clients: 3", ["study.toml"]),
        ("rounds = 0", ["--rounds must be 1 or more"]),
    ],
)
def test_a_broken_settings_file(command: Run, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert_one_line(command("--config", "study.toml"), *words)
    assert not (tmp_path / "runs").exists()


def test_a_settings_file_that_is_not_there(command: Run) -> None:
    assert_one_line(command("--config", "none.toml"), "none.toml: no such file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rounds", "-3"], "--rounds"),
        (["--clients", "0"], "--clients"),
        (["--partition", "fair"], "setting, iid"),
        (["--recipe", "best"], "paper"),
        (["--server-optimiser", "adam", "--server-momentum", "0.5"], "leave one of them away"),
        (["--clients", "10", "--participation", "0.5"], "--min-sites 5"),
        (["--dropout", "1"], "dropout"),
        (["--learning-rate", "0"], "learning rate"),
        (["--target-recall", "90"], "--target-recall"),
        (["--min-sites", "9"], "--min-sites"),
        (["--source", "nih"], "--data"),
        (["--source", "mimic", "--data", "."], "mimic"),
    ],
)
def test_options_that_cannot_be(command: Run, options: list[str], words: str) -> None:
    assert_one_line(command(*options), words)


@pytest.mark.parametrize("options", [["--cliens", "3"], ["--rounds", "many"], ["stray"], ["--rounds"]])
def test_options_that_are_none(command: Run, options: list[str]) -> None:
    status, _, error = command(*options)
    assert status == 2
    assert options[0].strip("-")[:6] in error
    assert "Traceback" not in error


def test_cuda_without_a_gpu(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line(command("--device", "cuda"), "--device cuda", "no GPU")


def test_an_output_folder_below_a_file(command: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_one_line(command("--out", "file/run"), "file/run", "--out")
    assert_one_line(command("--out", "file"), "file", "folder")


def test_an_output_folder_that_holds_something(command: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    assert_one_line(command("--out", "taken"), "not empty")


def test_an_output_folder_that_cannot_be_made(command: Run) -> None:
    assert_one_line(command("--out", "/proc/nowhere/run"), "/proc/nowhere/run", "--out")


def test_a_full_output_folder(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_dataset: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ran = command("--data", toy_dataset, *SMALL, "--out", "run")
    assert_one_line(ran, "No space left")
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_really_full_output_folder(tmp_path: Path, toy_dataset: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    (disk / "others").write_bytes(b"x" * 8192)
    try:
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "nescient_fl.simulate",
                "--data",
                toy_dataset,
                *SMALL,
                "--out",
                disk / "run",
            ],
            capture_output=True,
            text=True,
        )
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert ran.returncode == 2
    assert "No space left" in ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1


def begun(tmp_path: Path, **options: Any) -> Path:
    run = RunFolder.create(tmp_path / "begun")
    settings = StudySettings(**options)
    write_json(run.config, {"settings": settings.as_dict()})
    return run.path


def test_resuming_with_other_settings(command: Run, tmp_path: Path) -> None:
    run = begun(tmp_path, rounds=7)
    ran = command("--resume", run, "--rounds", "9", "--seed", "1")
    assert_one_line(ran, "--rounds 9 (was 7)", "--seed 1 (was 0)")


def test_resuming_what_is_no_run(command: Run, tmp_path: Path) -> None:
    assert_one_line(command("--resume", "nowhere"), "nowhere", "no run")
    (tmp_path / "begun").mkdir()
    assert_one_line(command("--resume", "begun"), "no run")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"settings": 3}', '{"settings": {"rounds": "x"}}', "\xff"])
def test_resuming_with_damaged_settings(command: Run, tmp_path: Path, text: str) -> None:
    run = begun(tmp_path)
    (run / "config.json").write_bytes(text.encode("latin-1"))
    assert_one_line(command("--resume", run), "config.json")


def test_resuming_into_another_folder(command: Run, tmp_path: Path) -> None:
    assert_one_line(command("--resume", begun(tmp_path), "--out", "other"), "--out")


def test_resuming_a_run_that_another_process_works_on(command: Run, tmp_path: Path) -> None:
    run = begun(tmp_path)
    with RunFolder(run).locked():
        assert_one_line(command("--resume", run), "another process")


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (UserError("two\nlines  of it"), 2, "error: two lines of it\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left"),
        (PermissionError(errno.EACCES, "denied", "/data/x.csv"), 2, "/data/x.csv: Permission denied"),
    ],
)
def test_what_a_command_raises_becomes_one_line(command: Run, raised: BaseException, status: int, words: str) -> None:
    def fail() -> None:
        raise raised

    found, _, error = command(function=fail)
    assert found == status
    assert words in error
    assert error.count("\n") == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["nescient"])
    with pytest.raises(ZeroDivisionError):
        cli.run_command(defect)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200"},
    )


def test_help_names_every_option() -> None:
    ran = python("-m", "nescient_fl.simulate", "--help")
    assert ran.returncode == 0
    for name in (*(field.name for field in fields(StudySettings)), "out", "resume", "config", "help"):
        assert f"--{name.replace('_', '-')}" in ran.stdout, name


@pytest.mark.parametrize("module", sorted(module for module, _ in cli.COMMANDS.values()))
def test_help_of_every_command_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys; sys.argv = ['x', '--help']\nimport runpy\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\nexcept SystemExit: pass\n"
        f"print('HEAVY', sorted({{'torch', 'ray', 'flwr', 'pandas', 'numpy', 'scipy'}} & set(sys.modules)))"
    )
    ran = python("-c", program)
    assert "HEAVY []" in ran.stdout, ran.stdout + ran.stderr


def test_help_says_what_an_argument_is() -> None:
    said = python("-m", "nescient_fl.prepare", "--help").stdout
    assert "The dataset's folder" in said


def test_help_is_quick() -> None:
    quickest = 9.0
    for _ in range(3):
        started = time.monotonic()
        python("-m", "nescient_fl.simulate", "--help")
        quickest = min(quickest, time.monotonic() - started)
    assert quickest < 1.5


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_the_umbrella_command_knows_every_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, function = cli.COMMANDS[name]
    assert callable(getattr(importlib.import_module(module), function))
    monkeypatch.setattr(sys, "argv", ["nescient", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"{name} [OPTIONS]" in capsys.readouterr().out


def test_the_umbrella_command_lists_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nescient", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if name not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--roundz", "3"], "error: No such option '--roundz'."),
        (["--rounds", "three"], "error: Invalid value for '--rounds':"),
    ],
)
def test_a_mistyped_option_is_one_line(arguments: list[str], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "nescient_fl.simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1
