"""The real engine: sites that raise are named and left out, and what stops the coordinator is told."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from nescient_fl.arms.conduct import prepare_run
from nescient_fl.arms.ray_engine import RayEngine, workers_for
from nescient_fl.arms.watching import Silent
from nescient_fl.errors import UserError
from nescient_fl.messages import read_order
from nescient_fl.study.run_folder import RunFolder, read_lines
from nescient_fl.study.settings import make_settings
from sites import client
from strategies.state import load_state

FAILS = {(1, 1): "the disk of this site is full", (2, 0): "no power", (2, 1): "no network"}
"""By round and site."""

pytestmark = pytest.mark.slow


def make_failing_app(make_app: Any, run: str) -> ClientApp:
    """Make the real app, but for sites that raise in some rounds."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        reply: Message = make_app(run)(message, context)
        return reply

    @app.train()
    def train(message: Message, context: Context) -> Message:
        order, _ = read_order(message.content)
        reason = FAILS.get((order.round, int(context.node_config["partition-id"])))
        if reason is not None:
            raise OSError(reason)
        reply: Message = make_app(run)(message, context)
        return reply

    return app


class Notes(Silent):
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.joined: list[str] = []
        self.problems: list[tuple[int, str, str]] = []

    def sites_joined(self, names: Sequence[str]) -> None:
        self.joined = list(names)

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        if problem is not None:
            self.problems.append((round_number, site, problem))


def test_failing_sites_are_left_out_until_too_few_are_left(
    tmp_path: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = RunFolder.create(tmp_path / "run"), Notes()
    settings = make_settings(
        {
            **{"data": [str(toy_dataset)], "clients": 3, "partition": "iid", "min_images": 20},
            **{"min_positives": 4, "rounds": 3, "local_epochs": 1, "device": "cpu", "aggregation": "plain"},
        }
    )
    prepare_run(settings, run, notes)
    real = client.make_app
    monkeypatch.setattr(client, "make_app", lambda folder: make_failing_app(real, folder))
    engine = RayEngine(torch.device("cpu"))
    try:
        with pytest.raises(UserError) as caught:
            engine.run(run.path, 3, notes, threading.Event())
    finally:
        engine.close()
    assert notes.joined == ["site-1", "site-2", "site-3"]
    assert sorted(notes.problems) == [
        (1, "site-2", "the disk of this site is full"),
        (2, "site-1", "no power"),
        (2, "site-2", "no network"),
    ]
    for words in ("round 2: 1 of 3 sites", "site-1: no power", "site-2: no network", f"--resume {run.path}"):
        assert words in str(caught.value)
    state = load_state(run.checkpoints)
    assert state is not None
    assert state.round == 1
    assert state.pending["failures"] == [{"site": "site-2", "reason": "the disk of this site is full"}]
    assert [line["round"] for line in read_lines(run.rounds)] == [0]


@pytest.mark.parametrize(
    ("sites", "cpus", "workers"),
    [(5, 2, 5), (4, 2, 2), (2, 4, 2), (5, 1, 1), (6, 4, 6), (7, 2, 2), (100, 2, 2), (17, 16, 16)],
)
def test_a_few_uneven_sites_get_a_worker_each_and_many_do_not(sites: int, cpus: int, workers: int) -> None:
    assert workers_for(sites, cpus) == workers
