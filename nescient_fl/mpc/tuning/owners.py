"""The two parties of a tuning, from the comparison of their plans to the weights.

The order, the same at both:
  1. they compare plans, and check the dealer on steps that are given up (``material``);
  2. the data owner shows its features, masked, once;
  3. step by step: both compute on shares (``step``);
  4. the data owner gives its shares of the weights to the model owner, which alone learns them.

Values are tested before anything is sent. Either party gets its result or an error, never a part.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.crypten_bridge import Exchange
from nescient_fl.mpc.errors import EncodingError, MaterialError, RangeError
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER
from nescient_fl.mpc.inference.fixed_point import Words, encode_integers, from_wire, to_signed, to_wire
from nescient_fl.mpc.inference.wire import Count, Wire
from nescient_fl.mpc.tuning.material import TuningMaterial, check_dealer
from nescient_fl.mpc.tuning.plan import LARGEST_FEATURE, LARGEST_WEIGHT, RING, VALUE_BITS, WEIGHT_BITS, TuningPlan
from nescient_fl.mpc.tuning.products import show_features
from nescient_fl.mpc.tuning.step import CLAMP, Step, Weights

Floats = NDArray[np.float64]
Tick = Callable[[int], None]
SET_UP, OPENING = "set-up", "opening"


def tune_as_model_owner(
    session: Exchange, weights: Sequence[Floats], material: TuningMaterial, tick: Tick | None = None
) -> tuple[list[Floats], Count]:
    """Have weights [outputs, inputs + 1] a layer tuned, the bias last, as the model owner, of rank 0.

    Returns the tuned ones, and what it took. ``tick`` is told the number of each step as it begins. Raises
    EncodingError, before anything is sent, for weights of other shapes or out of bounds; MaterialError for a dealer
    that is found out; SessionAborted when the peer is lost. ``check_result`` says whether they are of use.
    """
    plan = material.plan
    encoded = encode_weights(plan, weights)
    wire = _wire(session, material, MODEL_OWNER)
    shares = [part.astype(np.uint64) for part in encoded]
    found = _tune(wire, material, None, None, shares, tick)
    with wire.layer(OPENING):
        count = sum(part.size for part in found)
        words = from_wire(wire.receive(8 * count), (count,), RING)
    whole = to_signed(np.concatenate([part.reshape(-1) for part in found]) + words, RING)
    parts = np.split(whole, np.cumsum([part.size for part in found])[:-1])
    return [part.reshape(like.shape) / 2.0**WEIGHT_BITS for part, like in zip(parts, found, strict=True)], wire.total


def tune_as_data_owner(
    session: Exchange, features: Floats, labels: Floats, material: TuningMaterial, tick: Tick | None = None
) -> Count:
    """Give features [images, inputs] and labels [images] of 0 and 1 to a tuning, as the data owner, of rank 1.

    Returns what it took, and learns nothing. Raises EncodingError, before anything is sent, for what is not finite or
    out of bounds; otherwise as ``tune_as_model_owner``.
    """
    plan = material.plan
    encoded = encode_features(plan, features)
    targets = encode_labels(plan, labels)
    wire = _wire(session, material, DATA_OWNER)
    shares = [np.zeros(plan.shape(layer), np.uint64) for layer in range(plan.layers)]
    found = _tune(wire, material, encoded.astype(np.uint64), targets, shares, tick)
    with wire.layer(OPENING):
        wire.send(to_wire(np.concatenate([part.reshape(-1) for part in found]), RING))
    return wire.total


def encode_weights(plan: TuningPlan, weights: Sequence[Floats]) -> list[NDArray[np.int64]]:
    """Return weights in fixed point. Raises EncodingError when they are not the plan's, or out of bounds."""
    if [part.shape for part in weights] != [plan.shape(layer) for layer in range(plan.layers)]:
        raise EncodingError("the layers to be tuned have other shapes than the plan says")
    encoded = [encode_integers(part, WEIGHT_BITS) for part in weights]
    if max(int(np.abs(part).max()) for part in encoded) > CLAMP:
        raise EncodingError(f"the layers to be tuned have weights beyond {LARGEST_WEIGHT}")
    return encoded


def encode_features(plan: TuningPlan, features: Floats) -> NDArray[np.int64]:
    """Return features in fixed point, [images, inputs + 1], with the bias's 1. Raises EncodingError as above."""
    if features.shape != (plan.images, plan.sizes[0]):
        raise EncodingError(f"features have the shape {(plan.images, plan.sizes[0])}, got {features.shape}")
    encoded = encode_integers(features, VALUE_BITS)
    outside = np.abs(encoded).max(axis=1) > LARGEST_FEATURE << VALUE_BITS
    if outside.any():
        raise EncodingError(f"the features of {int(outside.sum())} images are beyond {LARGEST_FEATURE}: leave them out")
    return np.concatenate([encoded, np.full((len(encoded), 1), 1 << VALUE_BITS)], axis=1)


def encode_labels(plan: TuningPlan, labels: Floats) -> Words:
    """Return labels as words. Raises EncodingError unless they are 0 and 1, one an image."""
    if labels.shape != (plan.images,) or not np.isin(labels, (0, 1)).all():
        raise EncodingError(f"{plan.images} labels of 0 and 1 are needed")
    return labels.astype(np.uint64)


def check_result(weights: Sequence[Floats]) -> None:
    """Raise RangeError for weights that ended at their bounds: they were clamped, and are no minimum of anything."""
    if max(float(np.abs(part).max()) for part in weights) >= LARGEST_WEIGHT:
        raise RangeError(f"tuned weights reach their bound of {LARGEST_WEIGHT}: take a smaller rate")


def _wire(session: Exchange, material: TuningMaterial, rank: int) -> Wire:
    if session.rank != rank or material.rank != rank:
        raise MaterialError("the session or the material is the other party's")
    return Wire(session)


def _tune(
    wire: Wire,
    material: TuningMaterial,
    features: Words | None,
    labels: Words | None,
    shares: list[Words],
    tick: Tick | None,
) -> list[Words]:
    """Return this party's shares of the tuned weights."""
    plan = material.plan
    with wire.layer(SET_UP):
        if wire.swap(plan.digest, len(plan.digest)) != plan.digest:
            raise MaterialError("the other party has another plan of the tuning")
        numbers = check_dealer(wire, material)
        mask = None if features is None else material.features_mask()
        shown = show_features(wire, features, mask, (plan.images, plan.shape(0)[1]))
    weights = Weights(shares, shares, shares)
    for step, number in enumerate(numbers):
        if tick is not None:
            tick(step)
        weights = Step(wire, material.hand(number), plan, shown, labels).take(weights)
    return weights.now
