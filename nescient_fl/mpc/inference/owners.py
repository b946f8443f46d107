"""The two parties of encrypted inference, from greeting to logits.

The order, the same at both:
  1. they agree on plan, delivery, images and batches (``agreement``), and check the dealer on sacrificed batches;
  2. the model owner shows its weights, masked, once;
  3. batch by batch: both claim the batch's material, compute on shares (``evaluate``), and the model owner gives its
     shares of the logits to the data owner, which alone learns them.

The data owner tests its inputs against the plan's bounds before anything else; the last batch is filled with zeros.
It gets all logits or an error, never some of them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.crypten_bridge import Exchange
from nescient_fl.mpc.errors import EncodingError, MaterialError, RangeError
from nescient_fl.mpc.inference.agreement import agree, check_dealer
from nescient_fl.mpc.inference.compile import ModelWeights
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, weight_mask
from nescient_fl.mpc.inference.evaluate import Weights, evaluate
from nescient_fl.mpc.inference.fixed_point import (
    encode_integers,
    from_wire,
    to_ring,
    to_signed,
    to_wire,
    wire_bytes,
)
from nescient_fl.mpc.inference.plan import Linear, Plan, linear_depth
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.store import MaterialSource
from nescient_fl.mpc.inference.wire import Count, Wire
from nescient_fl.mpc.randomness import fresh_stream

_MOST_APART = 2e-3
"""Between two scores of one image: each is within 1e-3 of the network's."""

SET_UP, LOGITS = "set-up", "logits"
"""What is counted beside the layers: the beginning, once a session, and the opening."""


@dataclass(frozen=True)
class Summary:
    """What a session took at this party: images, batches, and the counts by layer, in order."""

    images: int
    batches: int
    counts: Mapping[str, Count]

    @property
    def online(self) -> Count:
        """All but the set-up."""
        total = Count()
        for name, count in self.counts.items():
            if name != SET_UP:
                total.add(count)
        return total


@dataclass(frozen=True)
class Scores:
    """What the data owner learns: logits float64 [n, outputs], in the order of its images."""

    logits: NDArray[np.float64]
    summary: Summary


def run_model_owner(
    session: Exchange,
    plan: Plan,
    weights: ModelWeights,
    source: MaterialSource,
    sacrifice: int = 1,
    most_images: int | None = None,
) -> Summary:
    """Serve one session as the model owner, of rank 0; learns how many images there were, and nothing else.

    Args:
        sacrifice: batches to check the dealer by.
        most_images: refuse a data owner that asks for more.
    """
    _check_rank(session, MODEL_OWNER)
    if weights.plan_digest != plan.digest:
        raise MaterialError("the weights were encoded for another plan")
    wire = Wire(session)
    with wire.layer(SET_UP):
        terms = agree(wire, plan, source, sacrifice, most_images=most_images)
        mask_seed = source.mask_seed(_digest(weights))
        check_dealer(wire, plan, source, terms, mask_seed)
        own, shown = {}, []
        for number, step in _linear(plan):
            layer = weights.layers[number]
            own[number] = Weights(RingMatrix(layer.matrix, step.ring, layer.bits), to_ring(layer.bias, step.ring))
            mask = weight_mask(mask_seed, number, len(layer.matrix), layer.matrix.shape[1], step.ring)
            shown.append(to_wire(to_ring(layer.matrix, step.ring) - mask, step.ring))
        wire.send(b"".join(shown))
    ring = plan.states[-1].ring
    for number in terms.batches:
        hand = source.claim(number).hand()
        shares = evaluate(wire, hand, plan, own, source.delivery.images, None)
        hand.finish()
        with wire.layer(LOGITS):
            wire.send(to_wire(shares, ring))
    return Summary(terms.images, len(terms.batches), wire.counts)


def run_data_owner(
    session: Exchange,
    plan: Plan,
    inputs: NDArray[Any],
    source: MaterialSource,
    sacrifice: int = 1,
    repeats: int = 0,
    scored: Callable[[int], None] | None = None,
) -> Scores:
    """Have inputs [n, channels, rows, columns] scored, as the data owner, of rank 1.

    Args:
        sacrifice: batches to check the dealer by; both parties must name the same number.
        repeats: images, chosen at random, that are scored a second time at a random place. With as many as there
            are images, material that spoils any score is found out: its two scores would have to be spoiled alike.
        scored: is told after each batch how many images were scored until then, repeated ones twice.

    Raises RangeError before anything is sent when an input is out of the plan's bounds; see ``sort_by_plan``.
    """
    _check_rank(session, DATA_OWNER)
    (outside,) = sort_by_plan([plan], inputs)[1:]
    if len(outside):
        raise RangeError("some images are out of the plan's bounds", tuple(int(number) for number in outside))
    order = _order(len(inputs), repeats)
    wire = Wire(session)
    with wire.layer(SET_UP):
        terms = agree(wire, plan, source, sacrifice, images=len(order))
        check_dealer(wire, plan, source, terms, None)
        shown = _masked_weights(wire, plan)
    ring, size = plan.states[-1].ring, source.delivery.images
    logits = np.empty((len(order), plan.outputs))
    for index, number in enumerate(terms.batches):
        part = inputs[order[index * size : (index + 1) * size]]
        words = np.zeros((size, *plan.input_shape), np.int64)
        words[: len(part)] = encode_integers(part, plan.input_fraction)
        hand = source.claim(number).hand()
        shares = evaluate(wire, hand, plan, shown, size, to_ring(words, plan.states[0].ring))
        hand.finish()
        with wire.layer(LOGITS):
            other = from_wire(wire.receive(shares.size * wire_bytes(ring)), shares.shape, ring)
        opened = to_signed(shares + other, ring)[: len(part)]
        if np.abs(opened).max(initial=0) > plan.output_bound:
            raise RangeError("a logit is out of bounds: the parties' weights, plan or material do not fit")
        logits[index * size : index * size + len(part)] = opened / 2.0**plan.output_fraction
        if scored is not None:
            scored(index * size + len(part))
    return Scores(_in_order(logits, order, len(inputs)), Summary(len(inputs), len(terms.batches), wire.counts))


def sort_by_plan(plans: Sequence[Plan], inputs: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return, for each plan, the numbers of the images that it is the first to be wide enough for.

    Last come the numbers of those that no plan fits: too large, or not finite. Raises EncodingError when the
    inputs' shape is not the plans'.
    """
    if inputs.ndim != 4 or any(inputs.shape[1:] != plan.input_shape for plan in plans):
        raise EncodingError(f"inputs have the shape [n, {', '.join(map(str, plans[0].input_shape))}]")
    found: list[list[int]] = [[] for _ in range(len(plans) + 1)]
    for number, image in enumerate(inputs):
        fits = (place for place, plan in enumerate(plans) if _fits(plan, image))
        found[next(fits, len(plans))].append(number)
    return [np.array(numbers, np.int64) for numbers in found]


def _fits(plan: Plan, image: NDArray[Any]) -> bool:
    least, most = float(image.min()), float(image.max())
    # Comparisons that NaN fails.
    if not (abs(least) < 2.0**20 and abs(most) < 2.0**20):
        return False
    low, high = encode_integers(np.array([least, most]), plan.input_fraction)
    return bool(plan.low <= low and high <= plan.high)


def _order(images: int, repeats: int) -> NDArray[np.int64]:
    """Return the number of the image at each place, some of them twice and then in random order."""
    if not 0 <= repeats <= images:
        raise MaterialError(f"from 0 to {images} images can be repeated, not {repeats}")
    if not repeats:
        return np.arange(images)
    stream = fresh_stream()
    again = np.argsort(stream.take_int64(images))[:repeats]
    order: NDArray[np.int64] = np.concatenate([np.arange(images), again])[
        np.argsort(stream.take_int64(images + repeats))
    ]
    return order


def _in_order(logits: NDArray[np.float64], order: NDArray[np.int64], images: int) -> NDArray[np.float64]:
    """Undo ``_order``. Raises MaterialError when two scores of one image differ."""
    found = np.empty((images, logits.shape[1]))
    found[order] = logits
    if np.abs(logits - found[order]).max(initial=0) > _MOST_APART:
        raise MaterialError("two scores of one image differ: the dealer's material or the other party is at fault")
    return found


def _masked_weights(wire: Wire, plan: Plan) -> dict[int, Weights]:
    shapes = {
        number: (step.channels, linear_depth(step, plan.states[number]), step.ring) for number, step in _linear(plan)
    }
    sizes = [rows * depth * wire_bytes(ring) for rows, depth, ring in shapes.values()]
    payload, start = wire.receive(sum(sizes)), 0
    shown: dict[int, Weights] = {}
    for (number, (rows, depth, ring)), size in zip(shapes.items(), sizes, strict=True):
        shown[number] = Weights(RingMatrix(from_wire(payload[start : start + size], (rows, depth), ring), ring))
        start += size
    return shown


def _linear(plan: Plan) -> list[tuple[int, Linear]]:
    return [(number, step) for number, step in enumerate(plan.steps) if isinstance(step, Linear)]


def _digest(weights: ModelWeights) -> str:
    digest = hashlib.sha256(weights.plan_digest.encode())
    for number, layer in sorted(weights.layers.items()):
        digest.update(str((number, layer.matrix.shape)).encode())
        digest.update(layer.matrix.astype("<i8").tobytes() + layer.bias.astype("<i8").tobytes())
    return digest.hexdigest()


def _check_rank(session: Exchange, rank: int) -> None:
    if session.rank != rank:
        raise MaterialError("the model owner is the first party of the roster, the data owner the second")
