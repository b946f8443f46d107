"""The dealer of encrypted inference, and how an owner and a clinic get what it deals.

It works ahead: an owner asks for batches for a clinic and gets its own halves at once; the clinic's, a few hundred
bytes each, wait in a folder until the clinic fetches them, and are deleted then. The dealer sees plans, names and
numbers of batches, and nothing of weights, images or scores.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nescient_fl.mpc.channel import BYE, DATA, LARGEST_PAYLOAD, Channel, Deadline
from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.inference.material import Material, deal_batch, new_delivery
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.randomness import SEED_BYTES, fresh_stream
from nescient_fl.mpc.roster import CLINIC, OWNER, Roster
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.mpc.tuning.material import Spool, TuningMaterial, deal_tuning
from nescient_fl.mpc.tuning.plan import TuningPlan
from nescient_fl.serving.desk import STEP_SECONDS, Say, quiet, unexpected
from nescient_fl.serving.memory import peak_memory
from nescient_fl.serving.messages import (
    PURPOSE,
    AskDeal,
    AskParcel,
    AskTuningDeal,
    AskTuningHalf,
    Dealt,
    Go,
    Message,
    Parcel,
    TuningDealt,
    hear,
    tell,
)
from nescient_fl.serving.stock import Stock
from nescient_fl.study.pace import PlainLines
from nescient_fl.study.run_folder import append_line

_LARGEST_HALF = 4096
"""Bytes of a clinic's half of a batch: a seed and a header."""
_LENGTH_BYTES, _PART_BYTES = 8, 1 << 20
_TICK_SECONDS = 1.0


class DealerDesk:
    """What the dealer answers. ``folder`` keeps the clinics' halves and a line for every delivery.

    ``say`` is told of every delivery, and how far a long one is.
    """

    def __init__(self, roster: Roster, folder: Path, say: Say = quiet) -> None:
        self._roster, self._folder, self._say = roster, folder, say
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def log(self) -> Path:
        """A line of JSON for every delivery."""
        return self._folder / "deliveries.jsonl"

    def answer(self, channel: Channel, message: Message) -> None:
        """Answer one message. Raises PlanError or MaterialError for what cannot be dealt."""
        roles = {member.name: member.role for member in self._roster.members}
        if isinstance(message, AskDeal) and roles.get(channel.peer) == OWNER:
            self._deal(channel, message)
        elif isinstance(message, AskParcel) and roles.get(channel.peer) == CLINIC:
            self._hand_over(channel, message)
        elif isinstance(message, AskTuningDeal) and roles.get(channel.peer) == OWNER:
            self._deal_tuning(channel, message)
        elif isinstance(message, AskTuningHalf) and roles.get(channel.peer) == CLINIC:
            self._hand_over_half(channel, message)
        else:
            raise unexpected(channel, message)

    def _deal(self, channel: Channel, asked: AskDeal) -> None:
        self._check_clinic(asked.clinic)
        plan = Plan.from_json(asked.plan)
        stream, started, before = fresh_stream(), time.monotonic(), channel.bytes_sent
        delivery, mask_seed = new_delivery(plan, asked.images, asked.batches, stream)
        dealt = Dealt(delivery.name, plan.digest, asked.images, asked.batches, 0)
        tell(channel, dealt, Deadline(STEP_SECONDS))
        channel.send(DATA, mask_seed, Deadline(STEP_SECONDS))
        waiting = self._waiting(channel.peer, asked.clinic)
        whom, images = f"{channel.peer} and {asked.clinic}", asked.images * asked.batches
        progress = PlainLines(self._say)
        for number in range(asked.batches):
            for_owner, for_clinic = deal_batch(plan, delivery, mask_seed, number, stream)
            _write(waiting / f"{delivery.name}-{number:06d}.bin", for_clinic.to_bytes())
            _send_parts(channel, for_owner.to_bytes())
            progress(f"dealing for {whom}, images", (number + 1) * asked.images, images)
        self._say(f"dealt {asked.batches:,} batches of {asked.images} images for {whom}")
        self._log(channel, asked.clinic, asked.batches, asked.images, started, before)

    def _hand_over(self, channel: Channel, asked: AskParcel) -> None:
        if asked.owner not in [owner.name for owner in self._roster.owners]:
            raise MaterialError(f"the roster has no owner {asked.owner!r}")
        files = sorted(self._waiting(asked.owner, channel.peer).glob("*.bin"))
        tell(channel, Parcel(len(files)), Deadline(STEP_SECONDS))
        for path in files:
            channel.send(DATA, path.read_bytes(), Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        for path in files:
            path.unlink(missing_ok=True)

    def _deal_tuning(self, channel: Channel, asked: AskTuningDeal) -> None:
        self._check_clinic(asked.clinic)
        plan, stream = TuningPlan.from_json(asked.plan), fresh_stream()
        started, before = time.monotonic(), channel.bytes_sent
        name, (seed, half, steps) = stream.take_bytes(16).hex(), deal_tuning(plan, stream)
        tell(channel, Go(), Deadline(STEP_SECONDS))
        channel.send(DATA, seed, Deadline(STEP_SECONDS))
        for corrections in steps:
            _send_parts(channel, corrections)
        waiting = self._waiting(channel.peer, asked.clinic)
        for old in waiting.glob("tuning-*.seed"):
            old.unlink(missing_ok=True)  # of a tuning that broke off before it was fetched
        _write(waiting / f"tuning-{name}.seed", half)
        tell(channel, TuningDealt(name), Deadline(STEP_SECONDS))
        self._log(channel, asked.clinic, plan.dealt, plan.images, started, before)

    def _hand_over_half(self, channel: Channel, asked: AskTuningHalf) -> None:
        if asked.owner not in [owner.name for owner in self._roster.owners]:
            raise MaterialError(f"the roster has no owner {asked.owner!r}")
        path = self._waiting(asked.owner, channel.peer) / f"tuning-{asked.material}.seed"
        if not path.exists():
            raise MaterialError("this material was handed out before, or never dealt")
        half = path.read_bytes()
        path.unlink()
        tell(channel, Go(), Deadline(STEP_SECONDS))
        channel.send(DATA, half, Deadline(STEP_SECONDS))

    def _log(self, channel: Channel, clinic: str, batches: int, images: int, started: float, before: int) -> None:
        line = {
            "owner": channel.peer,
            "clinic": clinic,
            "batches": batches,
            "images": images,
            "seconds": round(time.monotonic() - started, 3),
            "bytes_sent": channel.bytes_sent - before,
            "peak_memory": peak_memory(),
        }
        append_line(self.log, line)

    def _check_clinic(self, name: str) -> None:
        if name not in [clinic.name for clinic in self._roster.clinics]:
            raise MaterialError(f"the roster has no clinic {name!r}")

    def _waiting(self, owner: str, clinic: str) -> Path:
        folder = self._folder / owner / clinic
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder


def order(
    keys: MemberKeys,
    roster: Roster,
    clinic: str,
    plan: Plan,
    images: int,
    batches: int,
    stock: Stock,
    progress: Callable[[int], None] = lambda _: None,
) -> Dealt:
    """Have the dealer deal for a clinic and this owner, and put this owner's halves into its stock.

    ``progress`` is told how many batches have come, after each and every second or so in between. Raises
    SessionAborted when the dealer is lost; the batches that came until then can be used.
    """
    channel = _connected(keys, roster)
    try:
        asked = AskDeal(clinic, plan.to_json(), images, batches)
        tell(channel, asked, Deadline(STEP_SECONDS))
        dealt = hear(channel, Dealt, Deadline(STEP_SECONDS))
        mask_seed = channel.receive(DATA, Deadline(STEP_SECONDS), SEED_BYTES)
        if (dealt.plan, dealt.images, dealt.batches) != (plan.digest, images, batches):
            raise MaterialError("the dealer deals something else than was asked for")
        store = None
        for number in range(batches):
            material = Material.from_bytes(_receive_parts(channel, partial(progress, number)))
            if material.delivery.name != dealt.delivery or material.number != number:
                raise MaterialError("the dealer sent another batch than the next one")
            if store is None:
                store = stock.begin(material.delivery)
                store.add_mask_seed(mask_seed)
            store.add(material)
            progress(number + 1)
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return Dealt(dealt.delivery, dealt.plan, images, batches, channel.bytes_received)
    finally:
        channel.close()


def fetch(keys: MemberKeys, roster: Roster, owner: str, stock: Stock) -> int:
    """Fetch what the dealer holds for this clinic and an owner, into the clinic's stock. Returns the bytes.

    Raises SessionAborted when the dealer is lost; it still has then what was not acknowledged.
    """
    channel = _connected(keys, roster)
    try:
        tell(channel, AskParcel(owner), Deadline(STEP_SECONDS))
        parcel = hear(channel, Parcel, Deadline(STEP_SECONDS))
        for _ in range(parcel.batches):
            stock.add(Material.from_bytes(channel.receive(DATA, Deadline(STEP_SECONDS), _LARGEST_HALF)))
        tell(channel, Go(), Deadline(STEP_SECONDS))
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return channel.bytes_received
    finally:
        channel.close()


def order_tuning(
    keys: MemberKeys,
    roster: Roster,
    clinic: str,
    plan: TuningPlan,
    folder: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[str, TuningMaterial, int]:
    """Have the dealer deal for a tuning. Returns the material's name, this owner's half, spooled, and its bytes.

    ``folder`` is where it lies until it is used; ``progress`` is told after each step how many have come.
    """
    channel, spool = _connected(keys, roster), Spool(folder)
    try:
        tell(channel, AskTuningDeal(clinic, plan.to_json()), Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        seed = channel.receive(DATA, Deadline(STEP_SECONDS), SEED_BYTES)
        for number in range(plan.dealt):
            spool.add(number, _receive_parts(channel, partial(progress, number)))
            progress(number + 1)
        dealt = hear(channel, TuningDealt, Deadline(STEP_SECONDS))
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return dealt.material, TuningMaterial(plan, seed, spool), channel.bytes_received
    finally:
        channel.close()


def fetch_tuning(keys: MemberKeys, roster: Roster, owner: str, material: str, plan: TuningPlan) -> TuningMaterial:
    """Fetch this clinic's half of the material for a tuning: a seed, which the dealer then has no more."""
    channel = _connected(keys, roster)
    try:
        tell(channel, AskTuningHalf(owner, material), Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        half = channel.receive(DATA, Deadline(STEP_SECONDS), SEED_BYTES)
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
        return TuningMaterial(plan, half, None)
    finally:
        channel.close()


def _send_parts(channel: Channel, data: bytes) -> None:
    """Send what is large part by part, each with a step's time, so that a slow link is no lost peer."""
    channel.send(DATA, len(data).to_bytes(_LENGTH_BYTES, "big"), Deadline(STEP_SECONDS))
    for start in range(0, len(data), _PART_BYTES):
        channel.send(DATA, data[start : start + _PART_BYTES], Deadline(STEP_SECONDS))


def _receive_parts(channel: Channel, tick: Callable[[], None]) -> bytes:
    """Receive what came in parts; ``tick`` is called about every second, for whoever waits for the whole of it."""
    said = channel.receive(DATA, Deadline(STEP_SECONDS), _LENGTH_BYTES)
    length = int.from_bytes(said, "big")
    if len(said) != _LENGTH_BYTES or length > LARGEST_PAYLOAD:
        raise SessionAborted(f"{channel.peer} announced {length} bytes, which is too much", channel.peer)
    parts, left, told = [], length, time.monotonic()
    while left:
        wanted = min(left, _PART_BYTES)
        part = channel.receive(DATA, Deadline(STEP_SECONDS), wanted)
        if len(part) != wanted:
            raise SessionAborted(f"{channel.peer} sent {len(part)} bytes, not {wanted}", channel.peer)
        parts.append(part)
        left -= wanted
        if left and time.monotonic() - told > _TICK_SECONDS:
            tick()
            told = time.monotonic()
    return b"".join(parts)


def _connected(keys: MemberKeys, roster: Roster) -> Channel:
    return greeted(keys, roster.dealer, hello(PURPOSE, roster), Deadline(STEP_SECONDS))


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
