"""Products of two shared matrices modulo 2^64, of which each is masked once for all products that it is in.

With masks P of X and Q of Y, both shared, the parties open U = X - P and V = Y - Q, and

    X Y = U V  +  U Q  +  P V  +  P Q:

one party adds U V, both what they can of the middle from their shares of the masks, and the dealer shares P Q
(Beaver, CRYPTO 1991). A dense layer has three matrices, its inputs A, weights W and errors E, in three products:
A W' going forward, E' A for the gradient, and E W going back; three masks and three shared products serve for them.

The first layer's inputs are the data owner's own, X, the same in every step. They are masked once a session, by M,
and shown as X - M to the model owner. A product with a shared Y = Y0 + Y1 then takes one message, Y0 - N, from the
model owner, and

    X Y = (X - M) Y0  +  M (Y0 - N)  +  M N  +  X Y1:

the first the model owner's, the second and last the data owner's, the third shared by the dealer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER, Hand
from nescient_fl.mpc.inference.fixed_point import Words, from_wire, to_wire
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.tuning.plan import RING


class Opened(NamedTuple):
    """A shared matrix under its mask: what was opened, and this party's share of the mask."""

    shown: Words
    mask: Words

    @property
    def transposed(self) -> "Opened":
        return Opened(self.shown.T, self.mask.T)

    @property
    def without_bias(self) -> "Opened":
        """All columns but the last."""
        return Opened(self.shown[:, :-1], self.mask[:, :-1])


class LayerMasks(NamedTuple):
    """One party's shares of a layer's masks, and of the products of the masks."""

    inputs: Words
    weights: Words
    errors: Words
    forward: Words
    gradient: Words
    back: Words


@dataclass(frozen=True)
class SharedLayer:
    """The correlation for a layer whose inputs are shared: [images, inputs] with the bias's 1, [outputs, inputs]."""

    images: int
    inputs: int
    outputs: int

    def take(self, hand: Hand) -> LayerMasks:
        """Return this party's shares."""
        masks = self._masks(hand)
        shapes = ((self.images, self.outputs), (self.outputs, self.inputs), (self.images, self.inputs - 1))
        return LayerMasks(*masks, *(hand.share(shape, RING) for shape in shapes))

    def deal(self, model_owner: Hand, data_owner: Hand) -> bytes:
        """Return the corrections for the model owner."""
        theirs = self.take(data_owner)
        inputs, weights, errors = (
            mine + other for mine, other in zip(self._masks(model_owner), theirs[:3], strict=True)
        )
        products = (inputs @ weights.T, errors.T @ inputs, errors @ weights[:, :-1])
        return b"".join(to_wire(product - share, RING) for product, share in zip(products, theirs[3:], strict=True))

    def _masks(self, hand: Hand) -> tuple[Words, Words, Words]:
        return (
            hand.words((self.images, self.inputs), RING),
            hand.words((self.outputs, self.inputs), RING),
            hand.words((self.images, self.outputs), RING),
        )


class OwnMasks(NamedTuple):
    """The model owner's masks of its shares of weights and errors (None at the data owner), and shares of products."""

    weights: Words | None
    errors: Words | None
    forward: Words
    gradient: Words


@dataclass(frozen=True)
class OwnedLayer:
    """The correlation for a layer whose inputs are the data owner's; sizes as of ``SharedLayer``."""

    images: int
    inputs: int
    outputs: int

    def take(self, hand: Hand) -> OwnMasks:
        """Return what this party has."""
        weights, errors = self._masks(hand) if hand.rank == MODEL_OWNER else (None, None)
        forward = hand.share((self.images, self.outputs), RING)
        return OwnMasks(weights, errors, forward, hand.share((self.outputs, self.inputs), RING))

    def deal(self, model_owner: Hand, data_owner: Hand, features: Words) -> bytes:
        """Return the corrections for the model owner; ``features`` is the session's mask of the features."""
        weights, errors = self._masks(model_owner)
        theirs = self.take(data_owner)
        products = (features @ weights.T, errors.T @ features)
        return b"".join(to_wire(product - share, RING) for product, share in zip(products, theirs[2:], strict=True))

    def _masks(self, hand: Hand) -> tuple[Words, Words]:
        return hand.words((self.outputs, self.inputs), RING), hand.words((self.images, self.outputs), RING)


class Features(NamedTuple):
    """The first layer's inputs [images, inputs], the bias's 1 among them, as one party has them.

    ``known`` is X - M at the model owner, whose ``mask`` is None; X and M at the data owner.
    """

    known: Words
    mask: Words | None


def open_masked(wire: Wire, *values: tuple[Words, Words]) -> list[Opened]:
    """Open shares, each under a share of its mask: one round for all of them."""
    own = [share - mask for share, mask in values]
    payload = b"".join(to_wire(part, RING) for part in own)
    answer, start, opened = wire.swap(payload, len(payload)), 0, []
    for part, (_, mask) in zip(own, values, strict=True):
        theirs = from_wire(answer[start : start + 8 * part.size], part.shape, RING)
        start += 8 * part.size
        opened.append(Opened(part + theirs, mask))
    return opened


def product(rank: int, left: Opened, right: Opened, share: Words) -> Words:
    """Return a share of the product of two opened matrices, given one of their masks' product."""
    crossed = left.shown @ right.mask + left.mask @ right.shown + share
    return crossed + left.shown @ right.shown if rank == MODEL_OWNER else crossed


def times_features(wire: Wire, features: Features, right: Words, mask: Words | None, share: Words) -> Words:
    """Return a share of X Y', for shares Y [k, inputs]: one message of the model owner's."""
    own = features.known @ right.T + share
    shown = _from_model_owner(wire, right, mask)
    return own if shown is None else own + _mask(features) @ shown.T


def gradient_of_features(wire: Wire, features: Features, errors: Words, mask: Words | None, share: Words) -> Words:
    """Return a share of E' X, for shares E [images, k]: one message of the model owner's."""
    own = errors.T @ features.known + share
    shown = _from_model_owner(wire, errors, mask)
    return own if shown is None else own + shown.T @ _mask(features)


def show_features(wire: Wire, features: Words | None, mask: Words | None, shape: tuple[int, int]) -> Features:
    """Show the features under the session's mask, as the data owner; receive them so, as the model owner."""
    if features is None or mask is None:
        return Features(from_wire(wire.receive(8 * shape[0] * shape[1]), shape, RING), None)
    wire.send(to_wire(features - mask, RING))
    return Features(features, mask)


def _from_model_owner(wire: Wire, values: Words, mask: Words | None) -> Words | None:
    """Show the model owner's share under its mask; the data owner gets it, the model owner None."""
    if wire.rank == DATA_OWNER:
        return from_wire(wire.receive(8 * values.size), values.shape, RING)
    assert mask is not None
    wire.send(to_wire(values - mask, RING))
    return None


def _mask(features: Features) -> Words:
    assert features.mask is not None
    return np.ascontiguousarray(features.mask)
