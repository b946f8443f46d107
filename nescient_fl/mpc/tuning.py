"""The last layer of a network tuned on labelled features that their owner keeps, by weights that theirs keeps.

Two parties and a dealer: the model owner, of rank 0, has the last layer's weights, the data owner, of rank 1, has
features and labels. Logistic regression by gradient descent on CrypTen's ArithmeticSharedTensor, products by the
dealer's triples (Beaver, CRYPTO 1991). The model owner alone learns the tuned weights, the data owner nothing; both
know how many images and features there are and how many steps are taken.

The sigmoid is an odd polynomial of degree 9, within ``SIGMOID_ERROR`` of it for logits up to ``LARGEST_LOGIT``. Far
beyond that it leaves the sigmoid quickly: a model with larger logits cannot be tuned so. Numbers have 16 bits after
the point. A truncation between two parties goes wrong with probability about 2^-26 each, by so much that the result
cannot pass for weights: it is refused, and the tuning begun anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.mpc.crypten_bridge import Exchange, crypten_party
from nescient_fl.mpc.errors import EncodingError, MaterialError, SessionAborted
from nescient_fl.mpc.randomness import SEED_BYTES, SecretStream, derive_key

from crypten.mpc.primitives import ArithmeticSharedTensor  # isort: skip
from crypten.mpc.provider.provider import TupleProvider  # isort: skip

LARGEST_LOGIT = 12.0
SIGMOID_ERROR = 0.045
FEWEST_IMAGES = 20
"""Of fewer the tuned weights, which the model owner learns, would tell too much of each."""
MOST_IMAGES, MOST_FEATURES, MOST_STEPS = 4096, 1024, 1000
LARGEST_VALUE = 64.0
"""Of features and weights; what is beyond was scaled wrongly, or is the mark of a computation gone wrong."""

_SCALE = 1 << 16
_DEGREE = 9
Floats = NDArray[np.float64]
_Words = NDArray[np.int64]
_Size = tuple[int, ...]


@dataclass(frozen=True)
class TuningPlan:
    """What both parties and the dealer know: images, features (the bias among them), and how steps are taken."""

    images: int
    features: int
    steps: int
    rate: float
    decay: float

    def __post_init__(self) -> None:
        counts = ((self.images, FEWEST_IMAGES, MOST_IMAGES), (self.features, 1, MOST_FEATURES))
        for value, least, most in (*counts, (self.steps, 1, MOST_STEPS)):
            if type(value) is not int or not least <= value <= most:
                raise MaterialError(f"tuning takes from {least} to {most} images, features or steps, got {value}")
        if not (0 < self.rate <= 100 and 0 <= self.decay <= 1):
            raise MaterialError("a step's rate is above 0, its decay from 0 to 1")

    def products(self) -> Iterator[tuple[str, _Size, _Size]]:
        """Yield every product of two secrets, in the order of the computation."""
        column, images = (self.features, 1), (self.images, 1)
        for _ in range(self.steps):
            yield "matmul", (self.images, self.features), column
            for _ in range(_DEGREE // 2 + 1):
                yield "mul", images, images
            yield "matmul", (self.features, self.images), images


def sigmoid_polynomial() -> Floats:
    """Return c_0, ..., c_4: sigmoid(12 t) is about 1/2 + t (c_0 + ... + c_4 t^8), least squares on [-1, 1]."""
    angles = np.pi * (np.arange(2000) + 0.5) / 2000
    points = np.cos(angles)  # denser at the ends, where a fit is worst
    powers = points[:, None] ** np.arange(1, _DEGREE + 1, 2)
    wanted = 1 / (1 + np.exp(-LARGEST_LOGIT * points)) - 0.5
    return np.asarray(np.linalg.lstsq(powers, wanted, rcond=None)[0], np.float64)


def tune_in_clear(plan: TuningPlan, features: Floats, labels: Floats, weights: Floats, exact: bool = False) -> Floats:
    """Take the same steps in floating point: the slow twin. ``exact`` takes the sigmoid itself.

    features [images, features], labels [images] of 0 and 1, weights [features]; returns weights [features].
    """
    tuned = weights.copy()
    coefficients = sigmoid_polynomial()
    for _ in range(plan.steps):
        logits = features @ tuned
        t = logits / LARGEST_LOGIT
        scores = 1 / (1 + np.exp(-logits)) if exact else 0.5 + t * np.polyval(coefficients[::-1], t * t)
        gradient = features.T @ (scores - labels) / plan.images
        tuned = tuned - plan.rate * (gradient + plan.decay * (tuned - weights))
    return tuned


def tune_as_model_owner(session: Exchange, plan: TuningPlan, weights: Floats, material: "TuningMaterial") -> Floats:
    """Tune weights [features]. Returns the tuned ones. Raises EncodingError for a computation that went wrong."""
    _check(weights, (plan.features,))
    share = _tune(session, plan, torch.from_numpy(weights).view(-1, 1), None, None, material)
    answer = session.exchange(b"")[1]
    if len(answer) != 8 * plan.features:
        raise SessionAborted("the data owner sent something else than its share of the weights")
    words = share.numpy().reshape(-1) + np.frombuffer(answer, "<i8").astype(np.int64)
    tuned: Floats = words / _SCALE
    if np.abs(tuned).max() > LARGEST_VALUE:
        raise EncodingError("the tuned weights are out of bounds: logits were too large, or a truncation went wrong")
    return tuned


def tune_as_data_owner(
    session: Exchange, plan: TuningPlan, features: Floats, labels: Floats, material: "TuningMaterial"
) -> None:
    """Give features [images, features] and labels [images] to the tuning, and learn nothing.

    Raises EncodingError, before anything is sent, for what is not finite or too large.
    """
    _check(features, (plan.images, plan.features))
    _check(labels, (plan.images,))
    columns = torch.from_numpy(features), torch.from_numpy(labels).view(-1, 1)
    share = _tune(session, plan, None, *columns, material)
    session.exchange(share.numpy().reshape(-1).astype("<i8").tobytes())


def _tune(
    session: Exchange,
    plan: TuningPlan,
    weights: torch.Tensor | None,
    features: torch.Tensor | None,
    labels: torch.Tensor | None,
    material: "TuningMaterial",
) -> torch.Tensor:
    """Return this party's share of the tuned weights, int64 [features, 1]."""
    coefficients = [float(value) for value in sigmoid_polynomial()]
    column, images = (plan.features, 1), (plan.images, 1)
    with crypten_party(session, material):
        start = ArithmeticSharedTensor(weights, size=column, src=0)
        x = ArithmeticSharedTensor(features, size=(plan.images, plan.features), src=1)
        y = ArithmeticSharedTensor(labels, size=images, src=1)
        tuned, turned = start.clone(), x.transpose(0, 1)
        for _ in range(plan.steps):
            t = x.matmul(tuned).mul(1 / LARGEST_LOGIT)
            square = t.mul(t)
            # Horner's rule from the highest power; the last factor is t itself.
            value = square.mul(coefficients[-1]).add(coefficients[-2])
            for coefficient in reversed(coefficients[:-2]):
                value = value.mul(square).add(coefficient)
            errors = value.mul(t).add(0.5).sub(y)
            gradient = turned.matmul(errors).div(plan.images).add(tuned.sub(start).mul(plan.decay))
            tuned = tuned.sub(gradient.mul(plan.rate))
        share: torch.Tensor = tuned.share
    material.finish()
    return share


class TuningMaterial(TupleProvider):  # type: ignore[misc]
    """One party's triples for one plan, handed out in order, once."""

    def __init__(self, plan: TuningPlan, seed: bytes, corrections: bytes | None) -> None:
        super().__init__()
        if len(seed) != SEED_BYTES:
            raise MaterialError("a seed of the dealer's material has another length")
        self._left = plan.products()
        self._stream = SecretStream(derive_key(seed, b"nescient/tuning/1"))
        self._corrections = None if corrections is None else memoryview(corrections)

    def __repr__(self) -> str:
        return "TuningMaterial()"

    def generate_additive_triple(self, size0: Any, size1: Any, op: str, device: Any = None) -> tuple[Any, Any, Any]:
        """Return shares of random a and b and of op(a, b). Raises MaterialError for another product than the next."""
        if next(self._left, None) != (op, tuple(size0), tuple(size1)) or device not in (None, torch.device("cpu")):
            raise MaterialError("the dealer's material is for other products")
        a, b, c = (torch.from_numpy(words) for words in _draw(self._stream, op, tuple(size0), tuple(size1)))
        if self._corrections is not None:
            part, self._corrections = self._corrections[: 8 * c.numel()], self._corrections[8 * c.numel() :]
            if len(part) != 8 * c.numel():
                raise MaterialError("the dealer's material is shorter than the plan needs")
            c += torch.from_numpy(np.frombuffer(part, "<i8").astype(np.int64)).view(c.shape)
        first, second, product = (ArithmeticSharedTensor.from_shares(words, precision=0) for words in (a, b, c))
        return first, second, product

    def finish(self) -> None:
        """Raise MaterialError when something is left over."""
        if next(self._left, None) is not None or self._corrections:
            raise MaterialError("the dealer's material is longer than the plan needs")


def deal_tuning(plan: TuningPlan, stream: SecretStream) -> tuple[bytes, bytes, bytes]:
    """Return the model owner's seed and corrections, and the data owner's seed."""
    seeds = stream.take_bytes(SEED_BYTES), stream.take_bytes(SEED_BYTES)
    first, second = (SecretStream(derive_key(seed, b"nescient/tuning/1")) for seed in seeds)
    corrections = []
    for op, size0, size1 in plan.products():
        mine, theirs = _draw(first, op, size0, size1), _draw(second, op, size0, size1)
        a, b, c = (left + right for left, right in zip(mine, theirs, strict=True))
        corrections.append((_product(op, a, b) - c).astype("<i8").tobytes())
    return seeds[0], b"".join(corrections), seeds[1]


def _draw(stream: SecretStream, op: str, size0: _Size, size1: _Size) -> tuple[_Words, _Words, _Words]:
    size = (size0[0], size1[1]) if op == "matmul" else size0
    return stream.take_int64(*size0), stream.take_int64(*size1), stream.take_int64(*size)


def _product(op: str, a: _Words, b: _Words) -> _Words:
    product: _Words = a @ b if op == "matmul" else a * b
    return product


def _check(values: Floats, shape: _Size) -> None:
    if values.shape != shape or not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST_VALUE:
        raise EncodingError(f"values of shape {shape} up to {LARGEST_VALUE:g} are needed")
