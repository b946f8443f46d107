"""The courier runs nothing that was sent to it: another bundle is refused, by name, and its message answered so."""

import io
import zipfile
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from nescient_fl.deployment.bundle import build_bundle, bundle_sha256
from nescient_fl.deployment.courier import answer
from sites.worker import Worker


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a task of Flower's, which may make messages."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Actor:
    name, role = "site-1", "site"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        self.asked.append(kind)
        if kind == "query.deal":
            raise OSError("the disk of this site is full")
        return content


def carried(
    bundle: bytes, trusted: str, kind: str, folder: Path
) -> tuple[Message, str, Actor, list[dict[str, object]]]:
    actor, lines = Actor(), list[dict[str, object]]()

    def log(event: str, **fields: object) -> None:
        lines.append({"event": event, **fields})

    message = Message(RecordDict({"c": ConfigRecord({"x": 1})}), 5, kind)
    socket = folder / "w.socket"
    context = Context(run_id=1, node_id=5, node_config={"socket": str(socket)}, state=RecordDict(), run_config={})
    with Worker(actor, socket, lambda *_, **__: None):
        reply, problem = answer(message, context, bundle, trusted, log)
    return reply, problem, actor, lines


def test_the_trusted_bundles_message_reaches_the_worker(tmp_path: Path) -> None:
    bundle = build_bundle()
    reply, problem, actor, lines = carried(bundle, bundle_sha256(bundle), "train", tmp_path)
    assert reply.content.config_records["c"]["x"] == 1
    assert (problem, actor.asked, lines) == ("", ["train"], [])


def test_a_modified_bundle_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    bundle = build_bundle()
    changed = io.BytesIO(bundle)
    with zipfile.ZipFile(changed, "a") as file:
        file.writestr("nescient_federation/more.py", "import os\n")
    reply, problem, actor, lines = carried(changed.getvalue(), bundle_sha256(bundle), "train", tmp_path)
    assert reply.has_error()
    assert "is not the one trusted here" in reply.error.reason
    assert bundle_sha256(changed.getvalue())[:12] in problem
    assert actor.asked == []
    assert lines == [{"event": "refused", "reason": problem}]


def test_why_the_actor_failed_is_the_answer(tmp_path: Path) -> None:
    bundle = build_bundle()
    reply, problem, _, _ = carried(bundle, bundle_sha256(bundle), "query.deal", tmp_path)
    assert reply.error.reason == problem == "the disk of this site is full"


def test_the_same_version_makes_the_same_bundle() -> None:
    assert build_bundle() == build_bundle()
