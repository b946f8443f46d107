"""Tuning in memory: made-up sites, both parties as threads, and steps with everything that they cut off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from in_memory import InMemoryExchange, run_parties
from numpy.typing import NDArray

from nescient_fl.mpc.inference.fixed_point import to_signed
from nescient_fl.mpc.inference.wire import Count, Wire
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.tuning.material import TuningMaterial, deal_tuning
from nescient_fl.mpc.tuning.owners import encode_features, encode_weights, tune_as_data_owner, tune_as_model_owner
from nescient_fl.mpc.tuning.plan import RING, TuningPlan
from nescient_fl.mpc.tuning.products import show_features
from nescient_fl.mpc.tuning.step import Step, Weights

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Spoil = Callable[[int, bytes], bytes]


@dataclass(frozen=True)
class Site:
    """Features float64 [images, inputs], labels of 0 and 1, and weights [outputs, inputs + 1] a layer."""

    features: Floats
    labels: Floats
    weights: list[Floats]


def made_up(sizes: Sequence[int], images: int = 40, seed: int = 0, size: float = 1.0) -> Site:
    """Make up a site whose labels the features tell; ``size`` is that of features and weights."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(images) % 2).astype(np.float64)
    features = size * (generator.standard_normal((images, sizes[0])) * 0.6 + labels[:, None] * 0.8)
    shapes = [(after, before + 1) for before, after in pairwise(sizes)]
    return Site(features, labels, [size * generator.standard_normal(shape) * 0.5 for shape in shapes])


@dataclass(frozen=True)
class Outcome:
    """What came out at the model owner and at the data owner, and both ends."""

    tuned: list[Floats]
    counts: tuple[Count, Count]
    ends: list[InMemoryExchange]


def tune(plan: TuningPlan, site: Site, spoil: Spoil | None = None, wrap: Callable[[Any], Any] | None = None) -> Outcome:
    """Tune in memory. ``spoil`` changes the corrections of a step, ``wrap`` an end of the exchange."""
    owners, clinics, steps = deal_tuning(plan, fresh_stream())
    pieces = {number: spoil(number, step) if spoil else step for number, step in enumerate(steps)}
    ends: list[Any] = [None, None]

    def party(end: InMemoryExchange) -> Any:
        ends[end.rank] = end
        session = wrap(end) if wrap else end
        if end.rank == 0:
            return tune_as_model_owner(session, site.weights, TuningMaterial(plan, owners, pieces))
        return tune_as_data_owner(session, site.features, site.labels, TuningMaterial(plan, clinics, None))

    (tuned, first), second = run_parties(2, party)
    return Outcome(tuned, (first, second), ends)


def shared_steps(plan: TuningPlan, site: Site) -> tuple[list[Integers], list[Integers]]:
    """Take all steps on shares, unchecked. Returns the weights as integers, and what the data owner cut off."""
    owners, clinics, steps = deal_tuning(plan, fresh_stream())
    pieces, lows = dict(enumerate(steps)), []
    inputs, start = encode_features(plan, site.features), encode_weights(plan, site.weights)

    def party(end: InMemoryExchange) -> list[Any]:
        wire, shape = Wire(end), (plan.images, plan.sizes[0] + 1)
        if end.rank == 0:
            material, labels = TuningMaterial(plan, owners, pieces), None
            known = show_features(wire, None, None, shape)
            first = [part.astype(np.uint64) for part in start]
        else:
            material, labels = TuningMaterial(plan, clinics, None), site.labels.astype(np.uint64)
            known = show_features(wire, inputs.astype(np.uint64), material.features_mask(), shape)
            first = [np.zeros(part.shape, np.uint64) for part in start]
        weights = Weights(first, first, first)
        for number in range(plan.steps):
            kept = lows if end.rank == 1 else None
            weights = Step(wire, material.hand(number), plan, known, labels, kept).take(weights)
        return weights.now

    left, right = run_parties(2, party)
    whole = [to_signed(a + b, RING) for a, b in zip(left, right, strict=True)]
    return whole, [low.astype(np.int64) for low in lows]
