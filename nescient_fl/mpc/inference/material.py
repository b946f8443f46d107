"""The dealer's material for batches of images: what it is, and that it serves once.

A delivery is a number of batches for one plan, dealt at one time under one mask of the weights. For each batch the
data owner gets a seed, and the model owner a seed and corrections. Names tie a batch to plan, delivery, number and
size; a blob that is damaged or of another name is refused. A delivery knows how many batches it has, so that each
side can tell when it is finished.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, Hand
from nescient_fl.mpc.inference.evaluate import deal
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.randomness import SEED_BYTES, SecretStream

DELIVERY_BYTES = 16
MOST_IMAGES = 1024
"""Of a batch."""
MOST_BATCHES = 1 << 20
"""Of a delivery."""
_MAGIC = b"nescient inference material 2\n"
_LONGEST_HEADER = 1024


@dataclass(frozen=True)
class Delivery:
    """What all batches of one delivery share.

    Attributes:
        name: 32 hexadecimal digits.
        plan: its plan's digest.
        images: of a batch.
        batches: how many there are in all; they are numbered from 0.
    """

    name: str
    plan: str
    images: int
    batches: int

    def __post_init__(self) -> None:
        if not _hexadecimal(self.name, DELIVERY_BYTES) or not _hexadecimal(self.plan, 32):
            raise MaterialError("a delivery and its plan are named by hexadecimal digits")
        if type(self.images) is not int or not 1 <= self.images <= MOST_IMAGES:
            raise MaterialError(f"a batch has from 1 to {MOST_IMAGES} images")
        if type(self.batches) is not int or not 1 <= self.batches <= MOST_BATCHES:
            raise MaterialError(f"a delivery has from 1 to {MOST_BATCHES} batches")


class Material:
    """One party's material for one batch, which can be opened once."""

    def __init__(self, delivery: Delivery, number: int, rank: int, payload: bytes) -> None:
        self.delivery, self.number, self.rank = delivery, number, rank
        self._payload: bytes | None = payload

    def __repr__(self) -> str:
        return f"Material({self.delivery}, {self.number}, {self.rank})"

    def __reduce__(self) -> str:
        raise TypeError("material is never copied")

    def open(self) -> tuple[bytes, memoryview]:
        """Return seed and corrections. Raises MaterialError the second time."""
        if self._payload is None:
            raise MaterialError(f"batch {self.number} of the dealer's material was used before")
        payload, self._payload = self._payload, None
        return payload[:SEED_BYTES], memoryview(payload)[SEED_BYTES:]

    def hand(self) -> Hand:
        """Open it as the source of masks that the protocol draws from."""
        return Hand(self.rank, *self.open())

    def to_bytes(self) -> bytes:
        """Return it as it is sent and stored."""
        assert self._payload is not None
        header = {
            "delivery": self.delivery.name,
            "plan": self.delivery.plan,
            "images": self.delivery.images,
            "batches": self.delivery.batches,
            "number": self.number,
            "rank": self.rank,
            "sha256": hashlib.sha256(self._payload).hexdigest(),
        }
        return _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + self._payload

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Material":
        """Read what ``to_bytes`` wrote. Raises MaterialError for anything else."""
        start = len(_MAGIC)
        end = blob.find(b"\n", start, start + _LONGEST_HEADER)
        if not blob.startswith(_MAGIC) or end < 0:
            raise MaterialError("this is no material for encrypted inference")
        payload = blob[end + 1 :]
        try:
            header: dict[str, Any] = json.loads(blob[start:end])
            delivery = Delivery(header["delivery"], header["plan"], header["images"], header["batches"])
            number, rank, digest = header["number"], header["rank"], header["sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise MaterialError("the dealer's material has a damaged header") from None
        if (
            type(number) is not int
            or not 0 <= number < delivery.batches
            or rank not in (MODEL_OWNER, DATA_OWNER)
            or type(rank) is not int
        ):
            raise MaterialError("the dealer's material has a damaged header")
        if hashlib.sha256(payload).hexdigest() != digest or len(payload) < SEED_BYTES:
            raise MaterialError(f"batch {number} of the dealer's material is damaged")
        return cls(delivery, number, rank, payload)


def new_delivery(plan: Plan, images: int, batches: int, stream: SecretStream) -> tuple[Delivery, bytes]:
    """Return a delivery of batches of so many images, and the seed of the weights' masks, for the model owner."""
    name = stream.take_bytes(DELIVERY_BYTES).hex()
    return Delivery(name, plan.digest, images, batches), stream.take_bytes(SEED_BYTES)


def deal_batch(
    plan: Plan, delivery: Delivery, mask_seed: bytes, number: int, stream: SecretStream
) -> tuple[Material, Material]:
    """Make one batch, for the model owner and for the data owner."""
    if plan.digest != delivery.plan:
        raise MaterialError("the delivery is for another plan")
    seeds = stream.take_bytes(SEED_BYTES), stream.take_bytes(SEED_BYTES)
    corrections = b"".join(deal(plan, delivery.images, mask_seed, seeds))
    return (
        Material(delivery, number, MODEL_OWNER, seeds[0] + corrections),
        Material(delivery, number, DATA_OWNER, seeds[1]),
    )


def deal_batches(
    plan: Plan, delivery: Delivery, mask_seed: bytes, stream: SecretStream
) -> Iterator[tuple[Material, Material]]:
    """Make a delivery's batches one at a time, so that only one is in memory."""
    for number in range(delivery.batches):
        yield deal_batch(plan, delivery, mask_seed, number, stream)


def _hexadecimal(value: Any, size: int) -> bool:
    return type(value) is str and len(value) == 2 * size and not set(value) - set("0123456789abcdef")
