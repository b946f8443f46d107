"""The run folder: made once, written whole or not at all, held by one process."""

import errno
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import (
    RunFolder,
    append_line,
    read_json,
    read_lines,
    rewrite_lines,
    write_atomically,
    write_json,
)


def no_space(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "b")
    assert run.path == tmp_path / "a" / "b"
    assert names(run.path) == ["checkpoint"]


def test_without_a_name_a_new_folder_appears_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder.create(None).path.parent == tmp_path / "runs"


def test_an_empty_folder_will_do_and_one_with_something_in_it_will_not(tmp_path: Path) -> None:
    RunFolder.create(tmp_path)
    with pytest.raises(UserError, match=r"not empty.*--resume"):
        RunFolder.create(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("mine")
    for path in (taken, taken / "below"):
        with pytest.raises(UserError, match="file"):
            RunFolder.create(path)
    assert taken.read_text() == "mine"


def test_a_full_disk_is_found_before_the_study_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(UserError, match=r"No space left.*--out"):
        RunFolder.create(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"Permission denied.*--out"):
        RunFolder.create(tmp_path / "run")


def test_only_a_run_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.open(tmp_path)
    run = RunFolder.create(tmp_path / "run")
    write_json(run.config, {})
    assert RunFolder.open(tmp_path / "run").path == run.path


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace", "io.BufferedWriter.write"])
def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"round": 1})
    if failing.startswith("io."):
        monkeypatch.setattr(Path, "open", no_space)
    else:
        monkeypatch.setattr(failing, no_space)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"round": 2})
    monkeypatch.undo()
    assert read_json(path) == {"round": 1}
    assert names(tmp_path) == ["metrics.json"]


def _killed_while_writing(path: Path) -> None:
    os.fsync = lambda _: os.kill(os.getpid(), 9)
    write_atomically(path, b"new" * 1000)


def test_a_kill_during_a_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_atomically(path, b"old")
    writer = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(path,))
    writer.start()
    writer.join()
    assert writer.exitcode == -9
    assert path.read_bytes() == b"old"


def _appended_to_a_full_disk(path: Path) -> None:
    """Append lines of 60 bytes where only 100 fit; ends with the errno of the second, 0 for none."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        for number in (1, 2):
            append_line(path, f"{number}" + "x" * 56)
    except OSError as error:
        os._exit(error.errno or 1 if error.filename == str(path) else 1)


def test_a_line_that_does_not_fit_the_disk_is_told_and_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    writer = multiprocessing.get_context("fork").Process(target=_appended_to_a_full_disk, args=(path,))
    writer.start()
    writer.join()
    assert writer.exitcode == errno.EFBIG
    assert path.read_bytes() == b'"1' + b"x" * 56 + b'"\n'


def test_a_full_disk_is_told_with_the_file_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    for write in (write_json, append_line):
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / "metrics.json", {"round": 1})
        assert caught.value.filename == str(tmp_path / "metrics.json")


def _conduct_for(seconds: float, path: Path, begun: Any) -> None:
    with RunFolder(path).conducted():
        begun.set()
        time.sleep(seconds)
        append_line(path / "rounds.jsonl", 1)


def test_a_coordinator_waits_for_what_a_killed_one_left_and_never_writes_beside_it(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    left_behind = fork.Process(target=_conduct_for, args=(0.5, tmp_path, begun))
    left_behind.start()
    assert begun.wait(60)
    with pytest.raises(UserError, match="another coordinator works on"), RunFolder(tmp_path).conducted(0.0):
        append_line(tmp_path / "rounds.jsonl", 2)
    with RunFolder(tmp_path).conducted():
        append_line(tmp_path / "rounds.jsonl", 3)
    left_behind.join()
    assert read_lines(tmp_path / "rounds.jsonl") == [1, 3]
    with RunFolder(tmp_path).conducted(0.0):
        pass


def test_undefined_numbers_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "metrics.json", {"auroc": value})
        with pytest.raises(ValueError, match="JSON"):
            append_line(tmp_path / "rounds.jsonl", value)
    assert names(tmp_path) == []


def test_missing_and_damaged_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_json(path)
    for damage in (b'{"a": ', b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            read_json(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


@in_one_folder
@given(values=st.lists(json_values, max_size=5), keep=st.integers(0, 5))
def test_lines_come_back_in_order(tmp_path: Path, values: list[Any], keep: int) -> None:
    path = tmp_path / "rounds.jsonl"
    path.unlink(missing_ok=True)
    assert read_lines(path) == []
    for value in values:
        append_line(path, value)
    assert read_lines(path) == values
    rewrite_lines(path, values[:keep])
    assert read_lines(path) == values[:keep]


@in_one_folder
@given(values=st.lists(st.fixed_dictionaries({"a": json_values}), min_size=1, max_size=4), cut=st.integers(1))
def test_a_last_line_cut_off_by_a_crash_is_left_out(tmp_path: Path, values: list[Any], cut: int) -> None:
    path = tmp_path / "transcript.jsonl"
    rewrite_lines(path, values)
    whole = path.read_bytes()
    last = len(json.dumps(values[-1]).encode()) + 1
    path.write_bytes(whole[: len(whole) - 1 - cut % (last - 1)])
    expected = values[:-1] if cut % (last - 1) else values
    assert read_lines(path) == expected
    # What is appended after the crash starts a line of its own.
    append_line(path, {"next": 1})
    append_line(path, {"next": 2})
    assert read_lines(path) == [*expected, {"next": 1}, {"next": 2}]


def _append_many(path: Path, writer: int) -> None:
    for number in range(50):
        append_line(path, {"writer": writer, "number": number, "text": "x" * 300})


def test_several_processes_may_append(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, writer)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    lines = read_lines(path)
    assert len(lines) == 150
    for writer in range(3):
        assert [line["number"] for line in lines if line["writer"] == writer] == list(range(50))


def _try_lock(path: Path, answer: Any) -> None:
    try:
        with RunFolder(path).locked():
            answer.put("locked")
    except UserError as error:
        answer.put(str(error))


def _second_process(path: Path) -> str:
    context = multiprocessing.get_context("fork")
    answer: Any = context.Queue()
    process = context.Process(target=_try_lock, args=(path, answer))
    process.start()
    text: str = answer.get(timeout=30)
    process.join()
    return text


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    with run.locked():
        assert "another process" in _second_process(run.path)
    assert _second_process(run.path) == "locked"
