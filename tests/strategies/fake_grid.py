"""A Flower grid in one process: toy sites answer at once, with what their site made of the message."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights
from nescient_fl.lesion.recipe import recipe_from_json
from nescient_fl.messages import (
    ORDER,
    RoundOrder,
    SiteReport,
    node_content,
    read_order,
    report_content,
)
from nescient_fl.seeds import derive_seed
from tests.half_grid import HalfGrid

FLOWERS_WORDS = (
    "<class 'flwr.clientapp.client_app.ClientAppException'>:<'\nException ClientAppException occurred. Message: {}'>"
)


@dataclass
class ToySite:
    """Answers as a site does, deterministic in its name, the order and the model, without any image.

    Training brings it to a target of its own, or with the recipe's proximal term, mu/2 * ||w - w_global||^2 beside
    1/2 * ||w - target||^2, to the minimum of both, 1 / (1 + mu) of the way.

    ``fails`` and ``silent`` say in which rounds the site raises (with what words) or says nothing; ``auroc``
    which score its validation has in which round (else 0.5); ``scale`` how far its targets are.
    """

    name: str
    images: int = 10
    fails: dict[int, str] = field(default_factory=dict)
    silent: frozenset[int] = frozenset()
    auroc: dict[int, float] = field(default_factory=dict)
    orders: list[RoundOrder] = field(default_factory=list)
    scale: float = 1.0

    def answer(self, content: RecordDict) -> RecordDict | Error | None:
        if ORDER not in content:
            return node_content(self.name)
        order, weights = read_order(content)
        self.orders.append(order)
        if order.round in self.silent:
            return None
        if order.round in self.fails:
            return Error(1, FLOWERS_WORDS.format(self.fails[order.round]))
        return self.worked(order, weights, content)

    def worked(self, order: RoundOrder, weights: Weights, content: RecordDict) -> RecordDict:  # noqa: ARG002
        """Return what the site makes of an order that it neither fails at nor keeps silent to."""
        return report_content(*self.parts(order, weights))

    def parts(self, order: RoundOrder, weights: Weights) -> tuple[SiteReport, ScoreCounts, Weights | None]:
        update = self._update(order, weights) if order.train else None
        return SiteReport(self.name, self.images, 0.7, 0.5, 0.0), self._counts(order.round), update

    def _update(self, order: RoundOrder, weights: Weights) -> Weights:
        generator = torch.Generator().manual_seed(derive_seed(order.seed, "toy", self.name, order.round))
        way = self.scale / (1 + recipe_from_json(order.recipe).proximal)
        return {
            name: way * (0.1 * torch.randn(value.shape, generator=generator) - 0.5 * value)
            for name, value in weights.items()
        }

    def _counts(self, number: int) -> ScoreCounts:
        # Of 100 pairs of one positive and 100 negatives, the wanted share is in order.
        wanted = self.auroc.get(number, 0.5)
        negatives = np.where(np.arange(100) < round(100 * wanted), -4.0, 4.0)
        return ScoreCounts.of(np.append(negatives, 0.0), np.append(np.zeros(100), 1).astype(np.float32))


class FakeGrid(HalfGrid):
    """Delivers messages to toy sites; node ids are drawn anew and replies come in any order.

    ``before_push`` and ``before_pull`` are called with the number of the call: a test raises or stops there.
    ``joining`` nodes are known only after that many questions for the nodes.
    """

    def __init__(self, sites: Iterable[ToySite], seed: int = 0, joining: int = 0) -> None:
        draw = random.Random(seed)
        ids = draw.sample(range(1, 10**9), len(sites := list(sites)))
        draw.shuffle(sites)
        self.sites = dict(zip(ids, sites, strict=True))
        self.before_push: Callable[[int], None] = lambda _: None
        self.before_pull: Callable[[int], None] = lambda _: None
        self._draw, self._joining = draw, joining
        self._pushes = self._pulls = self._questions = 0
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        self._questions += 1
        return list(self.sites) if self._questions > self._joining else list(self.sites)[:-1]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._pushes += 1
        self.before_push(self._pushes)
        ids = []
        for message in messages:
            key = f"{self._pushes}-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = key
            answer = self.sites[message.metadata.dst_node_id].answer(message.content)
            if answer is not None:
                self._replies[key] = Message(answer, reply_to=message)
            ids.append(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand over about half of what is there, in any order, as a network would."""
        self._pulls += 1
        self.before_pull(self._pulls)
        there = [key for key in message_ids if key in self._replies]
        self._draw.shuffle(there)
        return [self._replies.pop(key) for key in there[: max(1, len(there) // 2)]]


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.joined: list[str] = []
        self.problems: list[tuple[int, str, str]] = []
        self.answered: list[tuple[int, str]] = []
        self.lines: list[dict[str, Any]] = []
        self.aborted: list[tuple[int, str]] = []
        self.ended: list[str] = []

    def sites_joined(self, names: Sequence[str]) -> None:
        self.joined = list(names)

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        if problem is None:
            self.answered.append((round_number, site))
        else:
            self.problems.append((round_number, site, problem))

    def round_aborted(self, round_number: int, reason: str) -> None:
        self.aborted.append((round_number, reason))

    def study_ended(self, reason: str) -> None:
        self.ended.append(reason)

    def round_validated(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


@contextmanager
def coordinator_identity() -> Iterator[None]:
    """Be the task that Flower says a coordinator is: it may make messages."""
    patch = pytest.MonkeyPatch()
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", 1)):
        patch.setattr(TaskIdentity, name, value)
    yield
    patch.undo()
