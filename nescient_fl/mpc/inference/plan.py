"""The public plan of an encrypted inference: shapes, scales and widths, and no weight.

All three roles hold the same plan; its digest is said on every connection and stands in all material. A plan is a
list of steps between integers in fixed point:

  Linear    a convolution or dense layer (then a 1 x 1 convolution over a 1 x 1 image), weights private
  SumPool   the sums of windows; an average's division is in the weights of a neighbouring linear step
  Truncate  low bits cut off: the scale of a product becomes the scale of a value, the ring becomes smaller
  MaxPool   the largest of every window, by a tournament
  Relu      max(x, 0), and back into a ring large enough for the next linear step
  Lift      the same change of ring without a ReLU
  Reshape   rows, columns and channels become one vector (Flatten)

What the widths promise is a theorem, not a hope: for every input within ``low`` and ``high`` no value leaves its
ring or its comparison's width, by interval arithmetic over the very weights (``bounds``). The data owner tests its
inputs against ``low`` and ``high`` before it sends anything.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from nescient_fl.mpc.errors import PlanError
from nescient_fl.mpc.inference.windows import Pads, Pair, output_size

FORMAT = 1
Shape = tuple[int, int, int]
"""Channels, rows, columns."""

_MOST_VALUES = 1 << 24
_MOST_STEPS = 256
_LARGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Linear:
    """Channels of windows of the input's first ``crop`` rows and columns, after padding, times weights.

    ``ring`` bits hold the sums; ``weight_fraction`` is the weights' scale.
    """

    name: str
    crop: Pair
    pads: Pads
    kernel: Pair
    stride: Pair
    channels: int
    weight_fraction: int
    ring: int


@dataclass(frozen=True)
class SumPool:
    name: str
    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class Truncate:
    """Cut ``shift`` bits; ``bits`` is the ring that remains."""

    name: str
    shift: int
    bits: int


@dataclass(frozen=True)
class MaxPool:
    """``width`` is the bits of a comparison: an odd number, since carries are computed two bits at a time."""

    name: str
    kernel: Pair
    stride: Pair
    width: int


@dataclass(frozen=True)
class Relu:
    """``width`` as of MaxPool; the result is in a ring of ``ring`` bits."""

    name: str
    width: int
    ring: int


@dataclass(frozen=True)
class Lift:
    """From values in [-2^(width-2), 2^(width-2)) to a ring of ``ring`` bits."""

    name: str
    width: int
    ring: int


@dataclass(frozen=True)
class Reshape:
    name: str


Step = Linear | SumPool | Truncate | MaxPool | Relu | Lift | Reshape
_KINDS: dict[str, type[Step]] = {
    kind.__name__: kind for kind in (Linear, SumPool, Truncate, MaxPool, Relu, Lift, Reshape)
}


@dataclass(frozen=True)
class State:
    """Between two steps: the values' shape, and the bits of the ring that their shares are in."""

    shape: Shape
    ring: int

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Plan:
    """A checked list of steps.

    Attributes:
        input_shape: channels, rows, columns of an image.
        input_fraction: scale of the inputs: the integer of x is round(x * 2^input_fraction).
        low, high: the smallest and largest integer that an input may have.
        output_fraction: scale of the logits.
        output_bound: no logit's integer is larger than this in size.
        steps: what is done; the last is a Linear step, whose channels are the logits.
    """

    input_shape: Shape
    input_fraction: int
    low: int
    high: int
    output_fraction: int
    output_bound: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def states(self) -> list[State]:
        """The state before each step, and after the last one."""
        states = [State(self.input_shape, _first(self).ring)]
        for step in self.steps:
            states.append(after(step, states[-1]))
        return states

    @property
    def outputs(self) -> int:
        """Logits of an image."""
        last = self.steps[-1]
        assert isinstance(last, Linear)
        return last.channels

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON, in hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        values = asdict(self)
        values["steps"] = [{"step": type(step).__name__, **asdict(step)} for step in self.steps]
        return json.dumps({"format": FORMAT, **values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan. Raises PlanError for anything that is not one."""
        if len(text) > _LARGEST_TEXT:
            raise PlanError("a plan is not that long")
        try:
            values = _tuples(json.loads(text))
            if values.pop("format") != FORMAT:
                raise PlanError("the plan is of another version of this program")
            steps = tuple(_KINDS[step.pop("step")](**step) for step in values.pop("steps"))
            return cls(steps=steps, **values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise PlanError("the plan cannot be read") from None


def linear_input(step: Linear, state: State) -> Shape:
    """Return the shape that a linear step uses of its input."""
    return (state.shape[0], *step.crop)


def linear_depth(step: Linear, state: State) -> int:
    """Return how many products each sum of a linear step has."""
    return state.shape[0] * step.kernel[0] * step.kernel[1]


def after(step: Step, state: State) -> State:
    """Return the state that a step leaves."""
    channels, rows, columns = state.shape
    if isinstance(step, Linear):
        rows = output_size(step.crop[0] + step.pads[0] + step.pads[2], step.kernel[0], step.stride[0])
        columns = output_size(step.crop[1] + step.pads[1] + step.pads[3], step.kernel[1], step.stride[1])
        return State((step.channels, rows, columns), step.ring)
    if isinstance(step, SumPool | MaxPool):
        rows = output_size(rows, step.kernel[0], step.stride[0])
        columns = output_size(columns, step.kernel[1], step.stride[1])
        return State((channels, rows, columns), state.ring)
    if isinstance(step, Truncate):
        return State(state.shape, step.bits)
    if isinstance(step, Reshape):
        return State((channels * rows * columns, 1, 1), state.ring)
    return State(state.shape, step.ring)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _check(plan: Plan) -> None:
    """Refuse what no compiler of ours makes, so that a strange plan can neither exhaust nor crash who reads it."""
    if not _sizes(plan.input_shape, 3) or not 1 <= len(plan.steps) <= _MOST_STEPS:
        raise PlanError("a plan's input has channels, rows and columns, and it has from 1 to 256 steps")
    if not _within(plan.low, -(2**40), plan.high) or not _within(plan.high, plan.low, 2**40):
        raise PlanError("a plan's inputs lie between two bounds below 2^40")
    if not (_within(plan.input_fraction, 0, 40) and _within(plan.output_fraction, 0, 60)):
        raise PlanError("a plan's scales are from 2^0 up to 2^40, and up to 2^60 for its outputs")
    if not isinstance(plan.steps[-1], Linear) or not _within(plan.steps[-1].ring, 8, 64):
        raise PlanError("a plan ends with a linear step")
    if not _within(plan.output_bound, 1, 2 ** (plan.steps[-1].ring - 1) - 1):
        raise PlanError("a plan's outputs fit their ring")
    state = State(plan.input_shape, _first(plan).ring)
    begun = False
    for step in plan.steps:
        begun = begun or isinstance(step, Linear)
        if not (begun or isinstance(step, Reshape)) or not _fits(step, state):
            raise PlanError(f"the plan's step {str(step.name)[:80]!r} does not fit what comes before it")
        state = after(step, state)
        if not 0 < state.size <= _MOST_VALUES or min(state.shape) < 1:
            raise PlanError(f"the plan's step {step.name!r} leaves nothing, or too much")
    if state.shape[1:] != (1, 1):
        raise PlanError("a plan ends with one vector of logits")


def _first(plan: Plan) -> Linear:
    return next(step for step in plan.steps if isinstance(step, Linear))


def _fits(step: Step, state: State) -> bool:
    if type(step.name) is not str or len(step.name) > 80:
        return False
    if isinstance(step, Linear):
        if not (_sizes(step.crop, 2) and _sizes(step.kernel, 2) and _sizes(step.stride, 2) and _pads(step.pads)):
            return False
        whole = step.crop[0] <= state.shape[1] and step.crop[1] <= state.shape[2]
        depth = state.shape[0] * step.kernel[0] * step.kernel[1]
        scales = _within(step.weight_fraction, 0, 40) and step.ring == state.ring and _within(step.ring, 8, 64)
        return whole and scales and _within(step.channels, 1, 1 << 20) and depth <= _MOST_VALUES
    if isinstance(step, SumPool | MaxPool):
        if not (_sizes(step.kernel, 2) and _sizes(step.stride, 2)) or step.kernel[0] * step.kernel[1] > 1 << 12:
            return False
        return isinstance(step, SumPool) or _width(step.width, state.ring)
    if isinstance(step, Truncate):
        return _within(step.shift, 0, 63) and _within(step.bits, 1, state.ring - step.shift)
    if isinstance(step, Reshape):
        return True
    return _width(step.width, state.ring) and _within(step.ring, max(step.width + 1, 8), 64)


def _width(width: int, ring: int) -> bool:
    return _within(width, 3, ring) and width % 2 == 1


def _within(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _sizes(values: Any, count: int) -> bool:
    return type(values) is tuple and len(values) == count and all(_within(value, 1, 1 << 20) for value in values)


def _pads(values: Any) -> bool:
    return type(values) is tuple and len(values) == 4 and all(_within(value, 0, 1 << 12) for value in values)
