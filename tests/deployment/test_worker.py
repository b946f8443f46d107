"""The wire between a message's process and its actor's worker: frames, limits, who may ask, what is said when."""

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from sites import wire, worker
from sites.wire import ANSWER, MAGIC, REQUEST, STATUS, WorkerError, ask, ask_bytes, pack, unpack
from sites.worker import Worker


class Echo:
    """An actor that answers with what it heard, waits where it is told to, and fails where it is told to."""

    name, role = "site-1", "site"

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        if kind == "wait":
            self.entered.set()
            assert self.go_on.wait(60)
        if kind == "fail":
            raise UserError("the disk of this site is full")
        if kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/private/place/site-1/transcript.jsonl")
        return RecordDict({"heard": ConfigRecord({"kind": kind}), **content})


class Lines:
    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.lines.append({"event": event, **fields})

    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def actor() -> Echo:
    return Echo()


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def path(tmp_path: Path, actor: Echo, log: Lines) -> Iterator[Path]:
    with Worker(actor, tmp_path / "w.socket", log):
        yield tmp_path / "w.socket"


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(str(path))
    return connection


def test_a_message_comes_back_bit_for_bit(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(values)}), "config": ConfigRecord({"b": b"\0\xff", "n": 3, "t": "x"})}
    )
    answer = ask(path, "train", content)
    assert answer.config_records["heard"]["kind"] == "train"
    assert dict(answer.config_records["config"]) == {"b": b"\0\xff", "n": 3, "t": "x"}
    assert answer.array_records["arrays"]["w"].numpy().tobytes() == values.tobytes()


@given(st.dictionaries(st.text(), st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.binary()), max_size=4))
def test_records_survive_packing(values: dict[str, object]) -> None:
    content = RecordDict({"c": ConfigRecord(values)})  # type: ignore[arg-type]
    assert dict(unpack(pack(content)).config_records["c"]) == values


def test_the_socket_is_its_owners_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_why_the_actor_failed_is_told_and_the_worker_goes_on(path: Path, log: Lines) -> None:
    with pytest.raises(WorkerError, match=r"^the disk of this site is full$"):
        ask(path, "fail", RecordDict())
    assert ask(path, "query", RecordDict())
    assert log.events() == ["asked", "failed", "asked", "answered"]


def test_a_full_disk_is_told_by_the_files_name_and_not_where_it_lies(path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^transcript\.jsonl: No space left on device$"):
        ask(path, "full", RecordDict())


def test_its_state_is_told_while_it_works(path: Path, actor: Echo) -> None:
    order = RecordDict({"order": ConfigRecord({"json": json.dumps({"round": 7})})})
    ask(path, "train", order)
    waiting = threading.Thread(target=ask, args=(path, "wait", RecordDict()))
    waiting.start()
    assert actor.entered.wait(60)
    status = json.loads(ask_bytes(path, STATUS, b""))
    actor.go_on.set()
    waiting.join()
    assert (status["state"], status["round"], status["last"], status["answers"]) == ("wait", 7, "train", 1)
    assert status["bytes_in"] == len(pack(order)) + len(pack(RecordDict()))
    assert status["process"] == os.getpid()
    after = json.loads(ask_bytes(path, STATUS, b""))
    assert (after["state"], after["last"], after["answers"]) == ("idle", "wait", 2)


def test_one_message_at_a_time(path: Path, actor: Echo) -> None:
    first = threading.Thread(target=ask, args=(path, "wait", RecordDict()))
    first.start()
    assert actor.entered.wait(60)
    answered = threading.Event()

    def second() -> None:
        ask(path, "query", RecordDict())
        answered.set()

    other = threading.Thread(target=second)
    other.start()
    assert not answered.wait(0.3)
    actor.go_on.set()
    assert answered.wait(60)
    first.join()
    other.join()


@pytest.mark.parametrize(
    "header",
    [REQUEST.pack(MAGIC, 5, wire.LARGEST + 1), REQUEST.pack(b"HTTP", 5, 3), b"GET / HTTP/1.1\r\n\r\n"],
    ids=["too large", "another version", "another protocol"],
)
def test_a_request_that_cannot_be_is_refused_before_it_is_read(path: Path, header: bytes, log: Lines) -> None:
    with connected(path) as connection:
        connection.sendall(header)
        magic, status, length = ANSWER.unpack(wire.exactly(connection, ANSWER.size))
        assert (magic, status) == (MAGIC, wire.FAILED)
        assert b"too large" in wire.exactly(connection, length)
    assert log.events() == ["refused"]


def test_a_request_cut_short_is_dropped_and_the_next_is_answered(path: Path, log: Lines) -> None:
    with connected(path) as connection:
        connection.sendall(REQUEST.pack(MAGIC, 5, 100) + b"train" + b"half")
    assert ask(path, "query", RecordDict())
    # Every connection has a thread of its own: the first one's end may be noted after the second's answer.
    end = time.monotonic() + 10
    while "lost" not in log.events() and time.monotonic() < end:
        time.sleep(0.01)
    assert "lost" in log.events()


def test_damaged_records_are_an_error_not_a_crash(path: Path) -> None:
    with pytest.raises(WorkerError, match="damaged"):
        ask_bytes(path, "train", b"\xff\xff\xff not protobuf")
    assert ask(path, "query", RecordDict())


def test_a_process_of_another_user_is_refused(path: Path, log: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "peer_user", lambda _: os.geteuid() + 1)
    with pytest.raises(WorkerError, match="was lost"):
        ask(path, "query", RecordDict())
    assert log.lines == [
        {"event": "refused", "reason": "a process of another user connected", "user": os.geteuid() + 1}
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_kernel_says_whose_process_asks(log: Lines, actor: Echo) -> None:
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1]); print(s.recv(9))"
    )
    with tempfile.TemporaryDirectory() as folder, Worker(actor, Path(folder) / "w.socket", log):
        # Opened up on purpose: the kernel's word must be enough.
        Path(folder).chmod(0o755)
        path = Path(folder) / "w.socket"
        path.chmod(0o666)
        result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120)
    assert result.stdout == "b''\n", result.stderr
    assert log.lines == [{"event": "refused", "reason": "a process of another user connected", "user": 65534}]


def test_a_worker_of_another_user_is_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "peer_user", lambda _: os.geteuid() + 1)
    with pytest.raises(WorkerError, match="belongs to another user"):
        ask(path, "query", RecordDict())


def test_no_worker_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"no worker listens at .*gone\.socket"):
        ask(tmp_path / "gone.socket", "query", RecordDict(), connect_seconds=0)


def test_a_worker_that_ends_while_it_is_asked_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "dies.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def die() -> None:
            connection, _ = listener.accept()
            connection.close()

        dying = threading.Thread(target=die)
        dying.start()
        with pytest.raises(WorkerError, match=r"the worker at .* was lost"):
            ask(path, "query", RecordDict())
        dying.join()


def test_an_answer_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lies.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def lie() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(ANSWER.pack(MAGIC, wire.DONE, wire.LARGEST + 1))
                connection.recv(1 << 16)

        lying = threading.Thread(target=lie)
        lying.start()
        with pytest.raises(WorkerError, match="no worker of this version"):
            ask(path, "query", RecordDict())
        lying.join()


def test_a_worker_being_started_again_is_waited_for(tmp_path: Path, actor: Echo, log: Lines) -> None:
    path = tmp_path / "late.socket"
    answers: list[RecordDict] = []
    asking = threading.Thread(target=lambda: answers.append(ask(path, "query", RecordDict())))
    asking.start()
    with Worker(actor, path, log):
        asking.join(60)
    assert len(answers) == 1
    assert not path.exists()


def test_a_socket_path_too_long_is_said_before_anything_is_made(tmp_path: Path, actor: Echo, log: Lines) -> None:
    with pytest.raises(WorkerError, match="longer than 100 bytes"):
        Worker(actor, tmp_path / ("x" * 101), log)


def test_a_message_process_imports_nothing_heavy() -> None:
    code = "import sites.client, sys; print(sorted({'torch', 'pandas', 'scipy', 'crypten', 'ray'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout == "[]\n"
