"""The study's encrypted part: which images it takes, what it says of them, and that it never costs a study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.saved_models import write_model

from nescient_fl.arms import encryption
from nescient_fl.arms.data import StudyData, prepare_data
from nescient_fl.arms.encryption import describe_encrypted
from nescient_fl.arms.watching import Silent
from nescient_fl.errors import UserError
from nescient_fl.serving.local import LocalScores
from nescient_fl.study.run_folder import RunFolder
from nescient_fl.study.settings import make_settings
from strategies.exchange import Stopped


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def encrypting(self, images: int) -> None:
        self.said.append(images)

    def left_out(self, reason: str) -> None:
        self.said.append(reason)


@pytest.fixture(scope="module")
def data(toy_dataset: Path) -> StudyData:
    return prepare_data(study(toy_dataset), lambda *_: None)


def study(dataset: Path, **options: Any) -> Any:
    usual = {"data": [str(dataset)], "clients": 2, "partition": "iid", "min_images": 20, "min_positives": 4}
    return make_settings({**usual, "aggregation": "plain", **options})


def layer(seconds: float, sent: int, received: int, rounds: int) -> dict[str, float]:
    return {
        "rounds": rounds,
        "bytes_sent": sent,
        "bytes_received": received,
        "seconds": seconds,
        "waiting": seconds / 2,
    }


def fake_scores(logits: Any) -> LocalScores:
    layers = {"set-up": layer(1.0, 10, 500, 6), "pool": layer(4.0, 4000, 2000, 48), "logits": layer(1.0, 0, 80, 2)}
    memory = {"clinic": 3, "owner": 2, "dealer": 1}
    return LocalScores(logits, layers, 2, 6.0, 3.0, 900, 2080, memory)


def test_held_out_images_are_compared_both_ways(
    tmp_path: Path, toy_dataset: Path, data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    write_model(run.model, threshold=0.5)
    seen: list[Any] = []

    def scored(*asked: Any) -> LocalScores:
        seen.append(asked[2])
        assert asked[5] == watcher.preparing, "the study's view shows how far it is"
        logits = np.full(len(asked[2]), 0.25)
        logits[0] = -0.25
        return fake_scores(logits)

    watcher = Told()
    monkeypatch.setattr(encryption, "score_locally", scored)
    monkeypatch.setattr(encryption, "predict_logits", lambda _, examples, *__: np.full(len(examples), 0.2))
    found = describe_encrypted(study(toy_dataset, encrypted_images=10), data, run, watcher, lambda: None)
    assert found is not None
    assert watcher.said == [10]
    assert len(seen[0]) == 10
    assert set(data.table["split"].iloc[seen[0]]) == {"test"}
    assert (found["images"], found["flipped"], found["agreement"]) == (10, 1, 0.9)
    assert found["max_abs_logit_error"] == pytest.approx(0.45)
    assert found["mean_abs_logit_error"] == pytest.approx(0.09)
    # Of 2 batches, 5 seconds and 4,000 bytes the larger way, the set-up apart.
    assert (found["seconds_per_image"], found["rounds"], found["bytes_per_party"]) == (0.5, 25, 400)
    assert found["set_up"] == {"seconds": 1.0, "bytes": 510}
    assert found["offline"] == {"seconds_per_image": 0.3, "bytes_per_image": 90}
    assert [line["layer"] for line in found["by_layer"]] == ["pool", "logits"]
    assert found["encrypted"]["half"]["recall"]["value"] is not None


def test_a_role_that_fails_is_told_and_the_study_goes_on(
    tmp_path: Path, toy_dataset: Path, data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    write_model(run.model)

    def fails(*_: Any) -> LocalScores:
        raise UserError("dealer: no space left")

    monkeypatch.setattr(encryption, "score_locally", fails)
    watcher = Told()
    assert describe_encrypted(study(toy_dataset), data, run, watcher, lambda: None) is None
    assert watcher.said[-1] == "encrypted inference: dealer: no space left"


def test_a_study_that_asks_for_none_or_has_another_network_has_none(
    tmp_path: Path, toy_dataset: Path, data: StudyData
) -> None:
    run = RunFolder.create(tmp_path / "run")
    watcher = Told()
    assert describe_encrypted(study(toy_dataset, encrypted_images=0), data, run, watcher, lambda: None) is None
    assert watcher.said == []
    write_model(run.model, activation="gelu")
    assert describe_encrypted(study(toy_dataset, activation="gelu"), data, run, watcher, lambda: None) is None
    assert "gelu" in str(watcher.said[0])


@pytest.mark.slow
def test_a_study_that_is_stopped_ends_the_roles_too(tmp_path: Path, toy_dataset: Path, data: StudyData) -> None:
    run = RunFolder.create(tmp_path / "run")
    write_model(run.model)

    def tick() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        describe_encrypted(study(toy_dataset, encrypted_images=4), data, run, Told(), tick)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(str(run.path).encode() in command for command in commands)
