"""The Flower app of a site: messages in, messages out, and a line in the transcript for each that left."""

import hashlib
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from nescient_fl.arms.conduct import prepare_run
from nescient_fl.arms.watching import Silent
from nescient_fl.lesion.network import build_network, get_weights
from nescient_fl.lesion.recipe import RECIPES, recipe_to_json
from nescient_fl.messages import (
    ARRAYS,
    COUNTS,
    REPORT,
    RoundOrder,
    order_content,
    payload_bytes,
    read_node,
    read_report,
)
from nescient_fl.study.run_folder import RunFolder, read_lines
from nescient_fl.study.settings import make_settings
from sites.client import make_app
from sites.transcript import content_sha256


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a task of Flower's, which may make messages."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_dataset: Path) -> Path:
    folder = RunFolder.create(tmp_path_factory.mktemp("client") / "run")
    settings = make_settings(
        {
            "data": [str(toy_dataset)],
            "clients": 2,
            "aggregation": "plain",
            "partition": "iid",
            "min_images": 20,
            "min_positives": 4,
        }
    )
    prepare_run(settings, folder, Silent())
    return folder.path


@pytest.fixture(autouse=True)
def own_transcript(run: Path) -> None:
    RunFolder(run).transcript.unlink(missing_ok=True)


def send(run: Path, content: RecordDict, kind: str, site: int = 0, named: bool = True) -> Message:
    context = Context(
        run_id=1,
        node_id=5,
        node_config={"partition-id": site},
        state=RecordDict(),
        run_config={} if named else {"run": str(run)},
    )
    return make_app(str(run) if named else None)(Message(content, 5, kind), context)


def order(train: bool = True) -> RecordDict:
    recipe = recipe_to_json(RECIPES["default"])
    return order_content(RoundOrder(1, 2, 1, 7, recipe, train), get_weights(build_network(seed=1)))


@pytest.mark.parametrize("named", [True, False], ids=["run given", "run configured"])
@pytest.mark.parametrize(("site", "name"), [(0, "site-1"), (1, "site-2")])
def test_a_node_says_which_site_it_is(run: Path, site: int, name: str, named: bool) -> None:
    reply = send(run, RecordDict(), MessageType.QUERY, site, named)
    assert read_node(reply.content) == (name, "site")
    (line,) = read_lines(RunFolder(run).transcript)
    assert (line["site"], line["kind"], line["round"]) == (name, "name", 0)


@pytest.mark.parametrize(("train", "kind"), [(True, "update"), (False, "scores")])
def test_an_answer_leaves_with_a_line_in_the_transcript(run: Path, train: bool, kind: str) -> None:
    reply = send(run, order(train), MessageType.TRAIN)
    report, counts, update = read_report(reply.content)
    assert report.site == "site-1"
    assert counts.images > 0
    assert (update is not None) == train
    (line,) = read_lines(RunFolder(run).transcript)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "site": "site-1",
        "to": "coordinator",
        "round": 1,
        "kind": kind,
        "records": sorted([REPORT, COUNTS] + [ARRAYS] * train),
        "seal_seconds": None,
        "bytes": payload_bytes(reply.content),
        "sha256": content_sha256(reply.content),
    }


def test_nothing_else_about_the_training_is_in_an_answer(run: Path) -> None:
    content = send(run, order(), MessageType.TRAIN).content
    shapes = {name: tuple(array.shape) for name, array in content.array_records[ARRAYS].items()}
    assert shapes == {name: tuple(value.shape) for name, value in get_weights(build_network(seed=1)).items()}
    assert {name: tuple(array.shape) for name, array in content.array_records[COUNTS].items()} == {
        "positives": (384,),
        "negatives": (384,),
    }
    assert set(content) == {ARRAYS, COUNTS, REPORT}


def test_the_digest_is_of_names_and_bytes() -> None:
    content = RecordDict({"b": ConfigRecord({"y": 2, "x": "1"}), "a": ConfigRecord({"z": True})})
    by_hand = hashlib.sha256(b"a/z:True" + b"b/x:1" + b"b/y:2").hexdigest()
    assert content_sha256(content) == by_hand


def test_the_digest_changes_with_any_byte() -> None:
    first, second = order(), order()
    assert content_sha256(first) == content_sha256(second)
    weights = get_weights(build_network(seed=1))
    weights["dense3.bias"] = torch.nextafter(weights["dense3.bias"], torch.tensor(1.0))
    third = order_content(RoundOrder(1, 2, 1, 7, recipe_to_json(RECIPES["default"]), True), weights)
    assert content_sha256(third) != content_sha256(first)
