"""The last layers of a model tuned on a clinic's labelled radiographs: what owner and clinic say and do.

The clinic holds radiographs, labels and the frozen layers, and so its embeddings. The owner holds the last layers,
learns the tuned ones, and nothing else of the clinic's.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nescient_fl.mpc.channel import BYE, Channel, Deadline
from nescient_fl.mpc.errors import EncodingError, MaterialError, PlanError, RangeError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.roster import OWNER, Roster
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.mpc.tuning.owners import (
    Floats,
    check_result,
    encode_features,
    encode_labels,
    encode_weights,
    tune_as_data_owner,
    tune_as_model_owner,
)
from nescient_fl.mpc.tuning.plan import FEWEST_IMAGES, SACRIFICED, TuningPlan
from nescient_fl.serving.dealing import fetch_tuning, order_tuning
from nescient_fl.serving.desk import REFUSED, STEP_SECONDS, Say, unexpected
from nescient_fl.serving.memory import peak_memory
from nescient_fl.serving.messages import (
    PURPOSE,
    AskTuning,
    Go,
    Message,
    Progress,
    TuningDealt,
    TuningTerms,
    hear,
    hear_after_progress,
    tell,
)
from nescient_fl.serving.pair import Pair
from nescient_fl.serving.rate import MOMENTUM
from nescient_fl.serving.settings import state_folder

_TOLD_EVERY = 0.5


@dataclass(frozen=True)
class TuningOffer:
    """What an owner lets a clinic tune: its layers, how steps are taken, and the digest of the layers before them."""

    weights: Sequence[Floats]
    steps: int
    rate: float
    decay: float
    frozen: str

    def check(self) -> None:
        """Raise MaterialError for steps that cannot be, EncodingError for weights that cannot."""
        encode_weights(self.plan(FEWEST_IMAGES), self.weights)

    def plan(self, images: int) -> TuningPlan:
        """Return the plan for so many images. Raises MaterialError when there can be none."""
        sizes = (self.weights[0].shape[1] - 1, *(len(layer) for layer in self.weights))
        return TuningPlan(images, sizes, self.steps, self.rate, MOMENTUM, self.decay)


@dataclass(frozen=True)
class TuningCost:
    """What a tuning took at the owner: seconds, rounds and bytes of the protocol, and of the dealer's material.

    ``peak_memory`` is the most, in bytes, that the owner's process ever held.
    """

    clinic: str
    images: int
    seconds: float
    rounds: int
    bytes_sent: int
    bytes_received: int
    offline_seconds: float
    offline_bytes: int
    peak_memory: int


class TuningDesk:
    """What an owner answers that lets its last layers be tuned, once; ``keep`` is given the tuned ones.

    ``stop`` is set after that, or when the weights ran into their bounds: ``failed`` then says so. The dealer's
    material lies in the owner's folder of state until it is used.
    """

    def __init__(
        self,
        keys: MemberKeys,
        roster: Roster,
        offer: TuningOffer,
        keep: Callable[[list[Floats], TuningCost], None],
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._keys, self._roster, self._offer, self._keep, self._say = keys, roster, offer, keep, say
        self._busy, self._stop, self._spool = threading.Lock(), stop, state_folder(keys) / "spool"
        self.ended = False
        self.failed: str | None = None

    def answer(self, channel: Channel, message: Message) -> None:
        """Answer one message. Raises MaterialError for what is refused."""
        if not isinstance(message, AskTuning):
            raise unexpected(channel, message)
        plan = self._offer.plan(message.images)
        tell(channel, TuningTerms(plan.to_json(), self._offer.frozen), Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        if not self._busy.acquire(blocking=False):
            raise MaterialError("the layers are being tuned with another clinic: try later")
        try:
            if self.ended:
                raise MaterialError("the layers were tuned with another clinic")
            self.clear()
            self._tune(channel, plan)
        finally:
            self.clear()
            self._busy.release()

    def clear(self) -> None:
        """Remove material that is left, also of a process that was killed: none of it is ever used again."""
        shutil.rmtree(self._spool, ignore_errors=True)

    def _tune(self, channel: Channel, plan: TuningPlan) -> None:
        self._say(f"{channel.peer}: tuning on {plan.images} images asked for")

        def progress(done: int) -> None:
            tell(channel, Progress(done), Deadline(STEP_SECONDS))

        started = time.monotonic()
        name, material, received = order_tuning(self._keys, self._roster, channel.peer, plan, self._spool, progress)
        dealt = time.monotonic()
        tell(channel, TuningDealt(name), Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        tick = steps_told(lambda line: self._say(f"{channel.peer}: {line}"), plan.steps)
        begun = time.monotonic()
        try:
            tuned, count = tune_as_model_owner(Pair(channel, 0, STEP_SECONDS), self._offer.weights, material, tick)
        except (*REFUSED, EncodingError) as error:
            # Within the protocol there is no place for an answer: the connection ends.
            raise SessionAborted(str(error)) from None
        ended = time.monotonic()
        # That the shares came is all that the clinic is told, whatever the weights are.
        try:
            check_result(tuned)
        except RangeError as error:
            self.failed = str(error)
        else:
            sent, got = count.bytes_sent, count.bytes_received
            offline = dealt - started, received, peak_memory()
            cost = TuningCost(channel.peer, plan.images, ended - begun, count.rounds, sent, got, *offline)
            self._keep(tuned, cost)
        self.ended = True
        try:
            tell(channel, Go(), Deadline(STEP_SECONDS))
        finally:
            self._stop.set()


def give_to_tuning(
    keys: MemberKeys,
    roster: Roster,
    owner: str,
    images: int,
    features: Mapping[int, tuple[str, Floats]],
    labels: Floats,
    say: Say,
) -> int:
    """Have an owner's last layers tuned on labelled images, and learn nothing. Returns how many steps were taken.

    ``features`` has, by how many layers are tuned, the digest of the frozen ones and what they make of the images,
    [images, features]; labels [images] are 0 and 1. Raises MaterialError, PlanError, EncodingError, or SessionAborted
    when a peer is lost.
    """
    peer = roster.member(owner, OWNER)
    channel = greeted(keys, peer, hello(PURPOSE, roster), Deadline(STEP_SECONDS))
    try:
        tell(channel, AskTuning(images), Deadline(STEP_SECONDS))
        terms = hear(channel, TuningTerms, Deadline(STEP_SECONDS))
        plan = TuningPlan.from_json(terms.plan)
        if plan.layers not in features or plan.sacrificed < SACRIFICED:
            raise PlanError(
                f"{owner} says to tune {plan.layers} layers with {plan.sacrificed} steps to check the dealer"
            )
        digest, found = features[plan.layers]
        if digest != terms.frozen:
            raise PlanError(f"{owner} tunes another model than the frozen layers are of: ask it for its frozen file")
        if (plan.images, plan.sizes[0]) != found.shape:
            raise PlanError(f"{owner} tunes layers of {plan.sizes[0]} features of {plan.images} images")
        say(f"{owner} tunes {plan.layers} layers in {plan.steps} steps at a rate of {plan.rate:.3g}")
        encode_features(plan, found)
        encode_labels(plan, labels)
        tell(channel, Go(), Deadline(STEP_SECONDS))
        name = _dealt(channel, plan, say)
        material = fetch_tuning(keys, roster, owner, name, plan)
        tell(channel, Go(), Deadline(STEP_SECONDS))
        tick = steps_told(say, plan.steps)
        tune_as_data_owner(Pair(channel, 1, STEP_SECONDS), found, labels, material, tick)
        hear(channel, Go, Deadline(STEP_SECONDS))
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return plan.steps
    finally:
        channel.close()


def steps_told(say: Say, steps: int) -> Callable[[int], None]:
    """Return what says at which step a tuning is, the first and then now and then."""
    last = -_TOLD_EVERY

    def tick(step: int) -> None:
        nonlocal last
        now = time.monotonic()
        if step in (0, steps - 1) or now - last >= _TOLD_EVERY:
            last = now
            say(f"step {step + 1} of {steps}")

    return tick


def _dealt(channel: Channel, plan: TuningPlan, say: Say) -> str:
    """Wait for the dealer's material. Returns its name."""
    last = -_TOLD_EVERY

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _TOLD_EVERY:
            last = time.monotonic()
            say(f"material for {done} of {plan.dealt} steps")

    return hear_after_progress(channel, TuningDealt, STEP_SECONDS, progress).material
