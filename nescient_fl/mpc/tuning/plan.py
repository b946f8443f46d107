"""The public plan of a tuning: sizes, steps, and fixed-point formats whose widths are proved to suffice.

A stack of dense layers, ReLU between them, a logit at the end. Every value is an integer in fixed point:

    features, activations, logits    12 bits of fraction, features at most LARGEST_FEATURE
    weights                          20 bits of fraction, kept within LARGEST_WEIGHT after every step
    errors (p - y, and what flows back) 16 bits of fraction

Since features and weights have bounds (the data owner's are tested in clear, the model owner's are clamped after
every step, under encryption), so has everything: the sums below bound each value whatever the data are, and the
widths of comparisons and rings follow from them. A plan for which they would not fit 64 bits cannot be made.

A step is w' = clamp(w + momentum (w - w before) - rate (gradient + decay (w - w at the start))): gradient descent
with Polyak's heavy ball ("Some methods of speeding up the convergence of iteration methods", 1964), written so that
only weights are kept, which are bounded. Its factors are integers over 2^shift, the same at both parties.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.bounds import width_for
from nescient_fl.mpc.tuning.sigmoid import KNOTS, LOGIT_BITS

FEWEST_IMAGES = 20
"""Of fewer the tuned weights, which the model owner learns, would tell too much of each."""
MOST_IMAGES, MOST_VALUES, MOST_LAYERS, MOST_STEPS = 4096, 1024, 4, 1000
MOST_SACRIFICED = 100
SACRIFICED = 6
"""Steps to check the dealer by, unless said otherwise; a clinic takes no fewer."""
MOST_COMPARISONS = 1 << 19
"""Of one layer's ReLU in one step: bounds memory."""
LARGEST_FEATURE, LARGEST_WEIGHT = 64, 4
LARGEST_RATE = 100.0

RING = 64
VALUE_BITS = LOGIT_BITS
"""Fraction bits of features, activations and logits."""
WEIGHT_BITS, ERROR_BITS = 20, 16
GRADIENT_BITS = ERROR_BITS + VALUE_BITS
ERROR_WIDTH = 19
"""An error of the logit is at most 1 and a little; it is lifted from so many bits."""

_FORMAT = 2
_FARTHEST_KNOT = max(KNOTS) / 2.0**LOGIT_BITS
_MOST_FACTOR_BITS = 30
_LEAST_FACTOR = 16
"""Of the rate's integer, so that rounding changes it by a thirty-second at most."""


@dataclass(frozen=True)
class TuningPlan:
    """What both parties and the dealer know.

    Attributes:
        images: rows of features.
        sizes: features, then the outputs of each layer that is tuned; the last is 1, the logit.
        steps: of gradient descent, each over all images.
        rate, momentum, decay: of a step; ``effective_rate`` is the rate as it is rounded.
        sacrificed: steps' material that is dealt beyond, and given up to check the dealer.

    Raises MaterialError for what cannot be.
    """

    images: int
    sizes: tuple[int, ...]
    steps: int
    rate: float
    momentum: float = 0.0
    decay: float = 0.0
    sacrificed: int = SACRIFICED

    def __post_init__(self) -> None:
        _check(self.images, FEWEST_IMAGES, MOST_IMAGES, "images")
        _check(self.steps, 1, MOST_STEPS, "steps")
        _check(self.sacrificed, 0, MOST_SACRIFICED, "sacrificed steps")
        if type(self.sizes) is not tuple or not 2 <= len(self.sizes) <= MOST_LAYERS + 1 or self.sizes[-1] != 1:
            raise MaterialError(f"tuning is of 1 to {MOST_LAYERS} layers, the last with one output")
        for size in self.sizes:
            _check(size, 1, MOST_VALUES, "values of a layer")
        for value, least, most, what in (
            (self.rate, 0.0, LARGEST_RATE, "rate"),
            (self.momentum, 0.0, 0.99, "momentum"),
            (self.decay, 0.0, 1.0, "decay"),
        ):
            if type(value) is not float or not least <= value <= most:
                raise MaterialError(f"a step's {what} is from {least:g} to {most:g}, got {value}")
        if self.images * max(self.sizes[1:]) > MOST_COMPARISONS:
            raise MaterialError(f"{self.images} images times {max(self.sizes[1:])} outputs are too many for one step")
        for layer in range(self.layers):
            self.relu_width(layer)
            self.error_width(layer)
        if self._factor_bits < 0 or self.rate_factor < _LEAST_FACTOR:
            raise MaterialError(f"a step's rate of {self.rate:g} is too small, or too large, for the fixed point")

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def shape(self, layer: int) -> tuple[int, int]:
        """Return outputs and inputs of a layer, a constant 1 for the bias being the last input."""
        return self.sizes[layer + 1], self.sizes[layer] + 1

    @property
    def dealt(self) -> int:
        """Steps that material is dealt for."""
        return self.steps + self.sacrificed

    @cached_property
    def value_bounds(self) -> tuple[float, ...]:
        """How large the inputs of each layer can be, then the logit."""
        bounds = [float(LARGEST_FEATURE)]
        for size in self.sizes[:-1]:
            # Each truncation is at most a unit in the last place off.
            bounds.append((size * bounds[-1] + 1) * LARGEST_WEIGHT + 2.0**-VALUE_BITS)
        return tuple(bounds)

    @cached_property
    def error_bounds(self) -> tuple[float, ...]:
        """How large the errors at the outputs of each layer can be."""
        bounds = [1 + 2.0 ** (1 - ERROR_BITS)]
        for size in reversed(self.sizes[2:]):
            bounds.append(size * bounds[-1] * LARGEST_WEIGHT + 2.0**-ERROR_BITS)
        return tuple(reversed(bounds))

    def relu_width(self, layer: int) -> int:
        """Return the bits of the comparisons of a layer's outputs with 0, the logit's knots for the last."""
        bound = self.value_bounds[layer + 1] + (_FARTHEST_KNOT if layer == self.layers - 1 else 0)
        return _fitting(bound * 2.0**VALUE_BITS, RING - WEIGHT_BITS)

    def error_width(self, layer: int) -> int:
        """Return the bits that errors are lifted from, which flow back to the outputs of a layer."""
        return _fitting(2 * self.error_bounds[layer] * 2.0**ERROR_BITS, RING - WEIGHT_BITS)

    @cached_property
    def update_width(self) -> int:
        """Bits of the comparisons that clamp weights."""
        return _fitting(self._update_bound * 2.0**WEIGHT_BITS, RING)

    @property
    def update_shift(self) -> int:
        """Bits that a step's factors have, and that are cut off after."""
        return GRADIENT_BITS - WEIGHT_BITS + self._factor_bits

    @property
    def rate_factor(self) -> int:
        """The rate over the images, times 2^(update_shift + WEIGHT_BITS - GRADIENT_BITS)."""
        return round(self.rate / self.images * 2.0**self._factor_bits)

    @property
    def momentum_factor(self) -> int:
        return round(self.momentum * 2.0**self.update_shift)

    @property
    def decay_factor(self) -> int:
        return round(self.rate * self.decay * 2.0**self.update_shift)

    @property
    def effective_rate(self) -> float:
        """The rate that steps have in fixed point."""
        return self.rate_factor * self.images / 2.0**self._factor_bits

    @cached_property
    def _update_bound(self) -> float:
        """How large a weight can be before it is clamped, its bound added or taken away."""
        gradient = max(value * error for value, error in zip(self.value_bounds[:-1], self.error_bounds, strict=True))
        moved = (2 + 2 * self.momentum + 2 * self.rate * self.decay + 0.01) * LARGEST_WEIGHT
        return moved + self.rate * 33 / 32 * gradient

    @cached_property
    def _factor_bits(self) -> int:
        """As many as leave room for the widest weight before its clamping, and for the images' summed gradient."""
        return min(_MOST_FACTOR_BITS, RING - self.update_width - (GRADIENT_BITS - WEIGHT_BITS))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the plan's JSON."""
        return hashlib.sha256(self.to_json().encode()).digest()

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TuningPlan":
        """Read a plan. Raises MaterialError for anything that is not one."""
        try:
            values: dict[str, Any] = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise MaterialError("the plan of a tuning is of another version of this program")
            return cls(**{**values, "sizes": tuple(values["sizes"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise MaterialError("the plan of a tuning cannot be read") from None


def _check(value: Any, least: int, most: int, what: str) -> None:
    if type(value) is not int or not least <= value <= most:
        raise MaterialError(f"tuning takes from {least} to {most:,} {what}, got {value}")


def _fitting(size: float, ring: int) -> int:
    """Return a comparison's width for integers up to ``size``. Raises MaterialError when a ring has no room for it."""
    width = width_for(size)
    if width > ring:
        raise MaterialError("the layers to be tuned are too large for the fixed point")
    return width
