"""``/health`` says how a role is, to its own host alone; a stopping worker answers what it works on, and no more."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from flwr.app import RecordDict

from nescient_fl.deployment.health import Health
from nescient_fl.deployment.logs import make_log
from nescient_fl.deployment.tether import free_port
from nescient_fl.errors import UserError
from sites.wire import WorkerError, ask
from sites.worker import Worker


def get(port: int, path: str = "/health") -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()) if error.code == 503 else {}


def test_health_is_told_with_what_the_role_says() -> None:
    port, well = free_port(), [True]
    with Health(port, lambda: (well[0], {"round": 3})):
        assert get(port) == (200, {"healthy": True, "round": 3})
        well[0] = False
        assert get(port) == (503, {"healthy": False, "round": 3})
        assert get(port, "/")[0] == 404
        with pytest.raises(UserError, match=f"health-port {port}: .*; choose another"):
            Health(port, lambda: (True, {}))
    with pytest.raises(urllib.error.URLError):
        get(port)


def test_port_0_is_no_endpoint() -> None:
    with Health(0, lambda: (True, {})) as health:
        assert health._server is None


class Slow:
    name, role = "site-1", "site"

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def handle(self, kind: str, content: RecordDict) -> RecordDict:  # noqa: ARG002
        self.entered.set()
        assert self.go_on.wait(60)
        return content


def test_a_stopping_worker_answers_the_message_at_work_and_begins_no_other(tmp_path: Path) -> None:
    actor, answers = Slow(), list[RecordDict]()
    path = tmp_path / "w.socket"
    with Worker(actor, path, lambda *_, **__: None) as worker:
        asking = threading.Thread(target=lambda: answers.append(ask(path, "train", RecordDict())))
        asking.start()
        assert actor.entered.wait(60)
        assert not worker.finish(0.1)
        actor.go_on.set()
        assert worker.finish(60)
        asking.join()
        assert len(answers) == 1
    with pytest.raises(WorkerError, match="no worker listens"):
        ask(path, "train", RecordDict(), connect_seconds=0)


def test_a_log_line_is_json_with_who_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    make_log("site", "hospital-a")("answered", kind="train", folder=Path("x"))
    line = json.loads(capsys.readouterr().out)
    assert line.pop("time").endswith("+00:00")
    assert line == {"role": "site", "name": "hospital-a", "event": "answered", "kind": "train", "folder": "x"}
