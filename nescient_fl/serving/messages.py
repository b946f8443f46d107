"""What the roles of encrypted inference say to each other beside the protocol itself, checked when it is read.

A message is one frame of JSON: the name of its kind and its fields, no more and no less.

  clinic to owner    AskCard, AskStock, AskOrder, AskScore
  owner to clinic    Card, Held, Progress, Dealt, Go
  owner to dealer    AskDeal; answered by Dealt, then the owner's half of every batch
  clinic to dealer   AskParcel; answered by Parcel, then the clinic's half of every batch
  anybody            Refusal

Tuning has messages of its own:

  clinic to owner    AskTuning, Go (the terms are good), Go (the material is there)
  owner to clinic    TuningTerms, Progress while the dealer works, TuningDealt, Go (the tuned layers are there)
  owner to dealer    AskTuningDeal; answered by Go, the owner's half, TuningDealt
  clinic to dealer   AskTuningHalf; answered by Go and that half
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_args

from nescient_fl.mpc.channel import DATA, Channel, Deadline
from nescient_fl.mpc.errors import MaterialError, MpcError, PlanError, QueryLimitError, SessionAborted

PURPOSE = bytes.fromhex("5f4e2b0d7a3c9186e5d4c3b2a19087f6" * 2)
"""In place of a session's name: what is spoken here is encrypted inference."""
LARGEST_MESSAGE = 1 << 22
MOST_IMAGES = 64
"""Of a batch: more would make a step longer than a peer is waited for."""
MOST_BATCHES = 4096
"""Of a delivery."""
_MOST_PLANS = 4


class _Malformed(ValueError):
    pass


def _need(good: bool) -> None:
    if not good:
        raise _Malformed


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_hex(value: Any, digits: int) -> bool:
    return type(value) is str and len(value) == digits and not set(value) - set("0123456789abcdef")


@dataclass(frozen=True)
class AskCard:
    """What does the model need, and what is left of my limit?"""


@dataclass(frozen=True)
class Card:
    """What a clinic must know of a model: its plans, the narrowest first, its inputs, its operating point.

    ``left`` is how many images the clinic may still have scored; ``model`` a name for the model that tells nothing
    of its weights.
    """

    plans: tuple[str, ...]
    geometry: str
    standardise: bool
    threshold: float | None
    model: str
    left: int

    def __post_init__(self) -> None:
        _need(type(self.plans) is tuple and 1 <= len(self.plans) <= _MOST_PLANS)
        _need(all(type(plan) is str for plan in self.plans))
        _need(self.geometry in ("paper", "upright") and type(self.standardise) is bool)
        _need(self.threshold is None or (type(self.threshold) is float and 0 <= self.threshold <= 1))
        _need(_is_hex(self.model, 16) and _is_count(self.left, 0, 1 << 62))


@dataclass(frozen=True)
class AskStock:
    """What material of mine do you hold for this plan?"""

    plan: str

    def __post_init__(self) -> None:
        _need(_is_hex(self.plan, 64))


@dataclass(frozen=True)
class Held:
    """Deliveries that are held: name, images a batch, numbers of the batches left."""

    deliveries: tuple[tuple[str, int, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        _need(type(self.deliveries) is tuple and len(self.deliveries) <= 1024)
        for delivery in self.deliveries:
            _need(type(delivery) is tuple and len(delivery) == 3)
            name, images, numbers = delivery
            _need(_is_hex(name, 32) and _is_count(images, 1, MOST_IMAGES) and type(numbers) is tuple)
            _need(len(numbers) <= MOST_BATCHES and all(_is_count(number, 0, MOST_BATCHES - 1) for number in numbers))


@dataclass(frozen=True)
class AskOrder:
    """Have so many batches of so many images dealt for this plan."""

    plan: str
    images: int
    batches: int

    def __post_init__(self) -> None:
        _need(_is_hex(self.plan, 64) and _is_count(self.images, 1, MOST_IMAGES))
        _need(_is_count(self.batches, 1, MOST_BATCHES))


@dataclass(frozen=True)
class Progress:
    """Batches of an order that have come."""

    done: int

    def __post_init__(self) -> None:
        _need(_is_count(self.done, 0, MOST_BATCHES))


@dataclass(frozen=True)
class Dealt:
    """A delivery: name, plan, images a batch, batches; and what the dealer sent to the owner for it."""

    delivery: str
    plan: str
    images: int
    batches: int
    bytes_sent: int

    def __post_init__(self) -> None:
        _need(_is_hex(self.delivery, 32) and _is_hex(self.plan, 64) and _is_count(self.images, 1, MOST_IMAGES))
        _need(_is_count(self.batches, 1, MOST_BATCHES) and _is_count(self.bytes_sent, 0, 1 << 62))


@dataclass(frozen=True)
class AskScore:
    """Score so many images with this plan and delivery."""

    plan: str
    delivery: str
    images: int

    def __post_init__(self) -> None:
        _need(_is_hex(self.plan, 64) and _is_hex(self.delivery, 32) and _is_count(self.images, 1, 1 << 24))


@dataclass(frozen=True)
class Go:
    """The protocol begins."""


@dataclass(frozen=True)
class AskDeal:
    """Deal batches for a clinic and me."""

    clinic: str
    plan: str
    images: int
    batches: int

    def __post_init__(self) -> None:
        _need(type(self.clinic) is str and len(self.clinic) <= 40 and type(self.plan) is str)
        _need(_is_count(self.images, 1, MOST_IMAGES) and _is_count(self.batches, 1, MOST_BATCHES))


@dataclass(frozen=True)
class AskParcel:
    """Give me what was dealt for an owner and me."""

    owner: str

    def __post_init__(self) -> None:
        _need(type(self.owner) is str and len(self.owner) <= 40)


@dataclass(frozen=True)
class Parcel:
    """So many halves of batches follow."""

    batches: int

    def __post_init__(self) -> None:
        _need(_is_count(self.batches, 0, 1 << 24))


@dataclass(frozen=True)
class AskTuning:
    """Tune your last layers on so many labelled images of mine."""

    images: int

    def __post_init__(self) -> None:
        _need(_is_count(self.images, 1, 1 << 24))


@dataclass(frozen=True)
class TuningTerms:
    """How: the plan, and the digest of the frozen layers that the embeddings must come from."""

    plan: str
    frozen: str

    def __post_init__(self) -> None:
        _need(type(self.plan) is str and len(self.plan) <= 4096 and _is_hex(self.frozen, 64))


@dataclass(frozen=True)
class AskTuningDeal:
    """Deal for a tuning with a clinic."""

    clinic: str
    plan: str

    def __post_init__(self) -> None:
        _need(type(self.clinic) is str and len(self.clinic) <= 40)
        _need(type(self.plan) is str and len(self.plan) <= 4096)


@dataclass(frozen=True)
class TuningDealt:
    """The material has this name."""

    material: str

    def __post_init__(self) -> None:
        _need(_is_hex(self.material, 32))


@dataclass(frozen=True)
class AskTuningHalf:
    """Give me my half of the material of this name."""

    owner: str
    material: str

    def __post_init__(self) -> None:
        _need(type(self.owner) is str and len(self.owner) <= 40 and _is_hex(self.material, 32))


@dataclass(frozen=True)
class Refusal:
    """Why not: the kind of error and its text."""

    error: str
    reason: str

    def __post_init__(self) -> None:
        _need(type(self.error) is str and type(self.reason) is str and len(self.reason) <= 1000)

    def raised(self, peer: str) -> MpcError:
        """Return it as an error of the kind that was told."""
        reason = "".join(character if character.isprintable() else " " for character in self.reason)
        kind = _REFUSALS.get(self.error)
        return SessionAborted(f"{peer} refused: {reason}", peer) if kind is None else kind(f"{peer}: {reason}")


Message = (
    AskCard
    | Card
    | AskStock
    | Held
    | AskOrder
    | Progress
    | Dealt
    | AskScore
    | Go
    | AskDeal
    | AskParcel
    | Parcel
    | AskTuning
    | TuningTerms
    | AskTuningDeal
    | TuningDealt
    | AskTuningHalf
    | Refusal
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}
_REFUSALS: dict[str, type[MpcError]] = {kind.__name__: kind for kind in (QueryLimitError, MaterialError, PlanError)}

M = TypeVar("M")


def encode(message: Message) -> bytes:
    """Return a message as it travels."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}, allow_nan=False).encode()


def decode(payload: bytes, peer: str) -> Message:
    """Read a message of ``peer``. Raises SessionAborted for anything that ``encode`` did not write."""
    try:
        values = json.loads(payload)
        kind = _KINDS[values.pop("kind")]
        _need(set(values) == {field.name for field in fields(kind)})
        message: Message = kind(**{name: _frozen(value) for name, value in values.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SessionAborted(f"{peer} sent a message that cannot be read", peer) from None
    return message


def tell(channel: Channel, message: Message, deadline: Deadline) -> None:
    """Send a message."""
    channel.send(DATA, encode(message), deadline)


def hear(channel: Channel, kind: type[M], deadline: Deadline) -> M:
    """Receive a message of one kind. Raises what a refusal in its place says, SessionAborted for anything else."""
    message = decode(channel.receive(DATA, deadline, LARGEST_MESSAGE), channel.peer)
    if isinstance(message, Refusal):
        raise message.raised(channel.peer)
    if not isinstance(message, kind):
        raise SessionAborted(f"{channel.peer} said {type(message).__name__}, not {kind.__name__}", channel.peer)
    return message


def hear_after_progress(channel: Channel, kind: type[M], seconds: float, progress: Callable[[int], None]) -> M:
    """Receive a message of one kind after any number of ``Progress``, each within so many seconds of the last.

    ``progress`` is told what each says. Raises as ``hear`` does.
    """
    while True:
        message = decode(channel.receive(DATA, Deadline(seconds), LARGEST_MESSAGE), channel.peer)
        if isinstance(message, Refusal):
            raise message.raised(channel.peer)
        if isinstance(message, kind):
            return message
        if not isinstance(message, Progress):
            raise SessionAborted(f"{channel.peer} said {type(message).__name__}, not Progress", channel.peer)
        progress(message.done)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
