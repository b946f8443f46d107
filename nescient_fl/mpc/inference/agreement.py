"""How two parties begin: which plan, which delivery, how many images, which batches; and whether the dealer is sound.

All of it is said before anything that depends on a secret. A batch is used only when both have it: the batches are
the first common ones.

A sacrificed check of the dealer: after both hold their material, they toss coins for some batches to give up. The
data owner shows the model owner its seeds of those; the model owner, who then knows everything that the dealer knew
of them, makes the batches again and compares every byte. A dealer whose batches are all wrong is always found out,
one that spoils a share q of the batches with probability at least 1 - (1 - q)^s for s sacrificed. Nothing is
revealed: a sacrificed batch never masked anything, and the masks of the weights stay with the model owner. Who
fears a dealer that spoils a single batch has images scored twice (``owners.run_data_owner``).
"""

import json
from dataclasses import dataclass
from typing import Any

from nescient_fl.mpc.errors import MaterialError, QueryLimitError, SessionAborted
from nescient_fl.mpc.inference.correlations import DATA_OWNER
from nescient_fl.mpc.inference.evaluate import deal
from nescient_fl.mpc.inference.material import Material
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.inference.store import MaterialSource
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.norm_check import toss_coins
from nescient_fl.mpc.randomness import SEED_BYTES, SecretStream

PROTOCOL = 1
_LONGEST_GREETING = 1 << 20
_MOST_IMAGES = 1 << 24
_GOOD, _BAD = b"good", b"bad!"


@dataclass(frozen=True)
class Terms:
    """What both parties agreed on: images to score, batches to use, batches to sacrifice, all by number."""

    images: int
    batches: tuple[int, ...]
    sacrificed: tuple[int, ...]


@dataclass(frozen=True)
class _Greeting:
    protocol: int
    plan: str
    delivery: str
    batch: int
    sacrifice: int
    images: int
    numbers: tuple[int, ...]


def agree(
    wire: Wire,
    plan: Plan,
    source: MaterialSource,
    sacrifice: int,
    images: int | None = None,
    most_images: int | None = None,
) -> Terms:
    """Agree on the terms of a session; ``images`` is what the data owner wants scored, None at the model owner.

    Raises MaterialError when the parties' plans or deliveries differ or too few batches are left, QueryLimitError
    at both when more images are asked for than the model owner's ``most_images``.
    """
    delivery = source.delivery
    if delivery.plan != plan.digest:
        raise MaterialError("the dealer's material is for another plan")
    asked = _most(most_images) if images is None else images
    mine = _Greeting(PROTOCOL, plan.digest, delivery.name, delivery.images, sacrifice, asked, tuple(source.numbers()))
    theirs = _parse(wire.exchange(json.dumps(mine.__dict__).encode())[1 - wire.rank])
    for name in ("protocol", "plan", "delivery", "batch", "sacrifice"):
        if getattr(mine, name) != getattr(theirs, name):
            raise MaterialError(f"the other party has another {name}: {getattr(theirs, name)!s:.64}")
    wanted, limit = (theirs.images, asked) if images is None else (asked, theirs.images)
    if wanted > limit:
        raise QueryLimitError(f"{wanted} images are asked for, {limit} are left of the limit")
    needed = -(-wanted // delivery.images)
    common = sorted(set(mine.numbers) & set(theirs.numbers))
    if len(common) < needed + sacrifice:
        raise MaterialError(
            f"{needed} batches and {sacrifice} to check the dealer are needed, {len(common)} are left: deal more"
        )
    common = common[: needed + sacrifice]
    sacrificed = _chosen(wire, common, sacrifice) if sacrifice else ()
    return Terms(wanted, tuple(number for number in common if number not in sacrificed), sacrificed)


def check_dealer(wire: Wire, plan: Plan, source: MaterialSource, terms: Terms, mask_seed: bytes | None) -> None:
    """Give up the batches that were chosen and check them; ``mask_seed`` is the model owner's.

    Raises MaterialError at both parties when the dealer's material does not fit together.
    """
    for number in terms.sacrificed:
        material = source.claim(number)
        if material.rank == DATA_OWNER:
            seed, _ = material.open()
            wire.send(seed)
            verdict = wire.receive(len(_GOOD))
        else:
            assert mask_seed is not None
            verdict = _GOOD if _is_sound(plan, material, mask_seed, wire.receive(SEED_BYTES)) else _BAD
            wire.send(verdict)
        if verdict != _GOOD:
            raise MaterialError(f"the dealer's material does not fit together (batch {number} was checked)")


def _is_sound(plan: Plan, material: Material, mask_seed: bytes, data_owner_seed: bytes) -> bool:
    seed, corrections = material.open()
    start = 0
    for piece in deal(plan, material.delivery.images, mask_seed, (seed, data_owner_seed)):
        if corrections[start : start + len(piece)] != piece:
            return False
        start += len(piece)
    return start == len(corrections)


def _chosen(wire: Wire, numbers: list[int], count: int) -> tuple[int, ...]:
    coins = SecretStream(toss_coins(wire))
    left = list(numbers)
    return tuple(left.pop(int(coins.below(len(left), 1)[0])) for _ in range(count))


def _most(most_images: int | None) -> int:
    return _MOST_IMAGES if most_images is None else most_images


def _parse(payload: bytes) -> _Greeting:
    """Read a greeting. Raises SessionAborted for anything else."""
    if len(payload) > _LONGEST_GREETING:
        raise SessionAborted("the other party's greeting is too long")
    try:
        values: dict[str, Any] = json.loads(payload)
        greeting = _Greeting(numbers=tuple(values.pop("numbers")), **values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SessionAborted("the other party's greeting cannot be read") from None
    counts = (greeting.protocol, greeting.batch, greeting.sacrifice, greeting.images, *greeting.numbers)
    if any(type(count) is not int or not 0 <= count <= _MOST_IMAGES for count in counts):
        raise SessionAborted("the other party's greeting cannot be read")
    if type(greeting.plan) is not str or type(greeting.delivery) is not str:
        raise SessionAborted("the other party's greeting cannot be read")
    return greeting
