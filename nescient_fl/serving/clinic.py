"""The data owner: a clinic that has images scored, and alone learns the scores."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.channel import BYE, Channel, Deadline
from nescient_fl.mpc.errors import MaterialError, PlanError, QueryLimitError, RangeError
from nescient_fl.mpc.inference.owners import Summary, run_data_owner, sort_by_plan
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.inference.store import MaterialStore
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import OWNER, Roster
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.serving.dealing import fetch
from nescient_fl.serving.desk import STEP_SECONDS
from nescient_fl.serving.messages import (
    MOST_BATCHES,
    PURPOSE,
    AskCard,
    AskOrder,
    AskScore,
    AskStock,
    Card,
    Dealt,
    Go,
    Held,
    hear,
    hear_after_progress,
    tell,
)
from nescient_fl.serving.owner import SACRIFICED
from nescient_fl.serving.pair import Pair
from nescient_fl.serving.plans import SHAPE
from nescient_fl.serving.stock import Stock

Floats = NDArray[np.float64]
Make = Callable[[NDArray[np.int64]], NDArray[np.float32]]
DEALING, SCORING = "Having material dealt, images", "Scoring images"
"""What a clinic tells how far it is with."""
_CHUNK = 8
_AWAITED_SHARE = 1.25
"""Of a step: what whoever waits for somebody who waits for another allows them."""


class Inputs:
    """Inputs float32 [n, 1, 320, 390] that are made when they are asked for, so that memory does not grow with n.

    It stands where the protocol takes an array: it has a length, a shape, slices, and images one after another.
    """

    ndim = 4

    def __init__(self, make: Make, numbers: NDArray[np.int64]) -> None:
        self._make, self._numbers = make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *SHAPE)

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        return self._make(self._numbers[part])

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    def chosen(self, numbers: NDArray[np.int64]) -> "Inputs":
        """Return some of them."""
        return Inputs(self._make, self._numbers[numbers])


class Told(Protocol):
    """Is told what is done, how many of it are, and of how many."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Offline:
    """What making material ahead took: seconds, and bytes that the dealer sent to both."""

    seconds: float
    bytes_sent: int


@dataclass(frozen=True)
class Scored:
    """What the clinic learned and what it took.

    Attributes:
        logits: float64 [n].
        card: what the owner says of its model.
        sessions: one a plan that was needed.
        offline: material that had to be dealt for this; 0 where all of it was there.
        seconds: of the sessions alone, set-up included.
        left: images that may still be scored.
    """

    logits: Floats
    card: Card
    sessions: tuple[Summary, ...]
    offline: Offline
    seconds: float
    left: int


def score(
    keys: MemberKeys,
    roster: Roster,
    owner: str,
    inputs: Callable[[Card], Inputs],
    folder: Path,
    batch: int = 8,
    progress: Told | None = None,
    twice: bool = False,
) -> Scored:
    """Have images scored by an owner's model.

    ``inputs`` makes them as the card says. ``folder`` keeps this clinic's material. All logits come, or an error:
    QueryLimitError, RangeError with the numbers of images that no plan is wide enough for, MaterialError, PlanError,
    or SessionAborted when a peer is lost.

    With ``twice`` every image is scored a second time at a random place, and two scores that differ are a
    MaterialError: so a dealer is found out that spoils any batch, not only with some probability. It takes twice the
    material, the time, and the images of the limit: the owner cannot tell which are the same.
    """
    tell_progress = progress or _nobody
    times = 2 if twice else 1
    peer = roster.member(owner, OWNER)
    channel = greeted(keys, peer, hello(PURPOSE, roster), Deadline(STEP_SECONDS))
    try:
        tell(channel, AskCard(), Deadline(STEP_SECONDS))
        card = hear(channel, Card, Deadline(STEP_SECONDS))
        plans = [Plan.from_json(text) for text in card.plans]
        if any(plan.input_shape != SHAPE or plan.outputs != 1 for plan in plans):
            raise PlanError(f"{owner} serves another network than the lesion network")
        found = inputs(card)
        places = times * len(found)
        if places > card.left:
            raise QueryLimitError(f"{owner}: {places} images are asked for, {card.left} are left of the limit")
        *groups, outside = sort_by_plan(plans, cast("NDArray[Any]", found))
        if len(outside):
            raise RangeError("some images are out of every plan's bounds", tuple(int(number) for number in outside))
        logits = np.empty(len(found))
        sessions, offline, seconds, before = [], Offline(0.0, 0), 0.0, 0
        for plan, numbers in zip(plans, groups, strict=True):
            if not len(numbers):
                continue
            asked = times * len(numbers)
            store, dealt = _material(keys, roster, channel, plan, asked, folder / owner, batch, tell_progress)
            offline = Offline(offline.seconds + dealt.seconds, offline.bytes_sent + dealt.bytes_sent)
            scored = partial(_scored, tell_progress, before, places)
            scored(0)
            started = time.monotonic()
            tell(channel, AskScore(plan.digest, store.delivery.name, asked), Deadline(STEP_SECONDS))
            hear(channel, Go, Deadline(STEP_SECONDS))
            chosen = cast("NDArray[Any]", found.chosen(numbers))
            pair = Pair(channel, 1, STEP_SECONDS)
            scores = run_data_owner(pair, plan, chosen, store, SACRIFICED, asked - len(numbers), scored)
            before += asked
            seconds += time.monotonic() - started
            logits[numbers] = scores.logits[:, 0]
            sessions.append(scores.summary)
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return Scored(logits, card, tuple(sessions), offline, seconds, card.left - places)
    finally:
        channel.close()


def _nobody(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def _scored(progress: Told, before: int, places: int, done: int) -> None:
    progress(SCORING, before + done, places)


def _material(
    keys: MemberKeys,
    roster: Roster,
    channel: Channel,
    plan: Plan,
    images: int,
    folder: Path,
    batch: int,
    progress: Told,
) -> tuple[MaterialStore, Offline]:
    """Return a delivery with enough batches at both sides; have one dealt where there is none."""
    stock, started = Stock(folder), time.monotonic()
    tell(channel, AskStock(plan.digest), Deadline(STEP_SECONDS))
    held = hear(channel, Held, Deadline(STEP_SECONDS))
    if store := _enough(stock, plan, held, images):
        return store, Offline(0.0, 0)
    received = fetch(keys, roster, channel.peer, stock)
    if store := _enough(stock, plan, held, images):
        return store, Offline(0.0, 0)
    batches = -(-images // batch) + SACRIFICED
    if batches > MOST_BATCHES:
        most = (MOST_BATCHES - SACRIFICED) * batch
        raise MaterialError(f"{images} images are too many at a time, have {most} scored at most")
    progress(DEALING, 0, batches * batch)
    tell(channel, AskOrder(plan.digest, batch, batches), Deadline(STEP_SECONDS))
    # The owner waits for the dealer meanwhile, and is to have the time to say who was lost.
    seconds = _AWAITED_SHARE * STEP_SECONDS
    dealt = hear_after_progress(channel, Dealt, seconds, lambda done: progress(DEALING, done * batch, batches * batch))
    received += fetch(keys, roster, channel.peer, stock)
    made = Offline(time.monotonic() - started, dealt.bytes_sent + received)
    return stock.delivery(plan.digest, dealt.delivery), made


def _enough(stock: Stock, plan: Plan, held: Held, images: int) -> MaterialStore | None:
    """Return the delivery that wastes least of those with enough batches at both sides."""
    there = {name: set(numbers) for name, _, numbers in held.deliveries}
    fitting = []
    for store in stock.deliveries(plan.digest):
        size = store.delivery.images
        common = there.get(store.delivery.name, set()) & set(store.numbers())
        needed = -(-images // size)
        if len(common) >= needed + SACRIFICED:
            fitting.append(((needed + SACRIFICED) * size, store.delivery.name, store))
    return min(fitting, key=lambda entry: entry[:2])[2] if fitting else None
