"""The model owner: serves a model to the clinics of a roster, each up to its limit, and learns nothing of an image."""

import threading
import time
from pathlib import Path

from nescient_fl.mpc.channel import Channel, Deadline
from nescient_fl.mpc.errors import MpcError, SessionAborted
from nescient_fl.mpc.inference.owners import run_model_owner
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import Roster
from nescient_fl.serving.dealing import order
from nescient_fl.serving.desk import REFUSED, STEP_SECONDS, Say, quiet, unexpected
from nescient_fl.serving.ledger import QueryLedger
from nescient_fl.serving.memory import peak_memory
from nescient_fl.serving.messages import (
    AskCard,
    AskOrder,
    AskScore,
    AskStock,
    Go,
    Held,
    Message,
    Progress,
    tell,
)
from nescient_fl.serving.pair import Pair
from nescient_fl.serving.plans import ServedModel
from nescient_fl.serving.stock import Stock
from nescient_fl.study.run_folder import append_line

SACRIFICED = 1
"""Batches of every session that the dealer is checked by."""


class OwnerDesk:
    """What the model owner answers. ``folder`` keeps material, the limits' count, and a line for every session.

    ``say`` is told of every session in a line.
    """

    def __init__(
        self, keys: MemberKeys, roster: Roster, model: ServedModel, folder: Path, limit: int, say: Say = quiet
    ) -> None:
        self._keys, self._roster, self._model, self._folder, self._say = keys, roster, model, folder, say
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ledger = QueryLedger(folder / "queries.sqlite", limit)

    @property
    def log(self) -> Path:
        """A line of JSON for every session."""
        return self._folder / "sessions.jsonl"

    def answer(self, channel: Channel, message: Message) -> None:
        """Answer one message. Raises QueryLimitError, MaterialError or PlanError for what is refused."""
        clinic = channel.peer
        step = Deadline(STEP_SECONDS)
        if isinstance(message, AskCard):
            tell(channel, self._model.card(self._ledger.left(clinic)), step)
        elif isinstance(message, AskStock):
            stores = self._stock(clinic).deliveries(message.plan)
            held = tuple((s.delivery.name, s.delivery.images, tuple(s.numbers())) for s in stores)
            tell(channel, Held(held), step)
        elif isinstance(message, AskOrder):
            plan = self._model.plans[self._model.plan(message.plan)]

            def progress(done: int) -> None:
                tell(channel, Progress(done), Deadline(STEP_SECONDS))

            stock = self._stock(clinic)
            dealt = order(self._keys, self._roster, clinic, plan, message.images, message.batches, stock, progress)
            tell(channel, dealt, Deadline(STEP_SECONDS))
        elif isinstance(message, AskScore):
            self._score(channel, message)
        else:
            raise unexpected(channel, message)

    def stock_up(self, batches: int, images: int, stop: threading.Event) -> None:
        """Have material dealt ahead: for every clinic so many batches of the narrowest plan."""
        plan = self._model.plans[0]
        for clinic in self._roster.clinics:
            stock = self._stock(clinic.name)
            there = sum(len(store.numbers()) for store in stock.deliveries(plan.digest))
            if stop.is_set() or there >= batches:
                continue
            try:
                order(self._keys, self._roster, clinic.name, plan, images, batches - there, stock)
                self._say(f"{batches - there} batches of {images} dealt ahead for {clinic.name}")
            except MpcError as error:
                self._say(f"nothing dealt ahead for {clinic.name}: {error}")

    def _score(self, channel: Channel, asked: AskScore) -> None:
        number = self._model.plan(asked.plan)
        store = self._stock(channel.peer).delivery(asked.plan, asked.delivery)
        self._ledger.charge(channel.peer, asked.images)
        started = time.monotonic()
        tell(channel, Go(), Deadline(STEP_SECONDS))
        plan, weights = self._model.plans[number], self._model.weights[number]
        try:
            summary = run_model_owner(Pair(channel, 0, STEP_SECONDS), plan, weights, store, SACRIFICED, asked.images)
        except REFUSED as error:
            # Within the protocol there is no place for an answer: the connection ends.
            raise SessionAborted(str(error)) from None
        seconds, left = time.monotonic() - started, self._ledger.left(channel.peer)
        self._say(f"{channel.peer}: {summary.images:,} images scored in {seconds:.1f} s, {left:,} left of its limit")
        append_line(
            self.log,
            {
                "clinic": channel.peer,
                "images": summary.images,
                "batches": summary.batches,
                "rounds": summary.online.rounds,
                "bytes_sent": summary.online.bytes_sent,
                "seconds": round(seconds, 3),
                "left": left,
                "peak_memory": peak_memory(),
            },
        )

    def _stock(self, clinic: str) -> Stock:
        return Stock(self._folder / "material" / self._model.name / clinic)
