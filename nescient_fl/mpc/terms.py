"""What everybody must know alike before a sum is opened: the terms of one secure round."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from nescient_fl.mpc.errors import BoundError, HeaderError
from nescient_fl.mpc.noise import LARGEST_SIGMA

MOST_FRACTION_BITS = 16
_FEWEST_FRACTION_BITS = 6
_LARGEST_UPDATE = 2**25 * 1.7
"""Largest norm of an encoded update for which the norm check (norm_check.py) is sound, with room for metrics."""

_LONGEST = 2**20
"""Most words of a report: sums of them in a sketch stay exact (docs/security.md)."""

_METRICS_NORM = 2**22
"""Room in the bound for the words beside the update: three sums of up to 2^21, counts, the weight, and rounding."""


@dataclass(frozen=True)
class Terms:
    """The public terms of one sum; a site's report is bound to them, and a party enforces them.

    Attributes:
        dimension: words of a report.
        update_words: how many of them, from the first, are the weighted update; the word after is the weight.
        fraction_bits: f of the encoding round(w * u * 2^f).
        clip: largest L2 norm of an unweighted update.
        weight_max: largest weight a site may claim, a power of two.
        minimum: fewest sites in an opened sum.
        strict_membership: whether the set may change from sum to sum by nobody or by ``minimum`` at least.
        update_noise, metrics_noise: standard deviation, in ring units, of the discrete Gaussian noise that each
            party adds to each word of the update and of what follows the weight; 0 is none.
    """

    dimension: int
    update_words: int
    fraction_bits: int
    clip: float
    weight_max: int
    minimum: int
    strict_membership: bool = False
    update_noise: float = 0.0
    metrics_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.update_words < self.dimension <= _LONGEST:
            raise BoundError(f"a report holds the update, the weight and the metrics, {_LONGEST} words at most")
        if not (self.clip > 0 and self.weight_max >= 1 and self.minimum >= 2):
            raise BoundError("the clip must be above 0, the largest weight 1 and the fewest sites 2 or more")
        if self.weight_max & (self.weight_max - 1):
            raise BoundError(f"the largest weight must be a power of two, got {self.weight_max}")
        if not (0 <= self.update_noise <= LARGEST_SIGMA and 0 <= self.metrics_noise <= LARGEST_SIGMA):
            raise BoundError(f"noise must be from 0 to 2^{LARGEST_SIGMA.bit_length() - 1} units")
        if not _FEWEST_FRACTION_BITS <= self.fraction_bits <= MOST_FRACTION_BITS:
            raise BoundError(f"{self.fraction_bits} bits of fraction are outside 6 to 16")
        if self.clip * self.weight_max * 2**self.fraction_bits > _LARGEST_UPDATE:
            raise BoundError("clip, largest weight and fraction bits leave the norm check unsound")

    @property
    def private(self) -> bool:
        """Whether the sum has noise."""
        return self.update_noise > 0 or self.metrics_noise > 0

    @property
    def bound(self) -> int:
        """Return the L2 bound of a whole report, in ring units."""
        update = self.clip * self.weight_max * 2**self.fraction_bits if self.update_words else 0.0
        return int((update**2 + _METRICS_NORM**2) ** 0.5) + 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Terms":
        """Read terms. Raises HeaderError for anything but what ``to_json`` wrote, and BoundError."""
        try:
            values: Any = json.loads(text)
            known = {field.name: field.type for field in fields(cls)}
            if set(values) != set(known):
                raise ValueError("its fields are not those of this version")
            for name, value in values.items():
                if type(value) is not known[name]:
                    raise ValueError(f"{name} is of another type")
        except (ValueError, TypeError) as error:
            raise HeaderError(f"the terms of a round cannot be read: {error}") from None
        except RecursionError:
            raise HeaderError("the terms of a round cannot be read: nested too deep") from None
        return cls(**values)


def fraction_bits_for(clip: float, weight_max: int) -> int:
    """Return the most bits of fraction, up to 16, that keep the norm check sound.

    Raises BoundError when fewer than 6 are left: the clip or the largest weight is too large.
    """
    bits = MOST_FRACTION_BITS
    while bits >= _FEWEST_FRACTION_BITS and clip * weight_max * 2**bits > _LARGEST_UPDATE:
        bits -= 1
    if bits < _FEWEST_FRACTION_BITS:
        most = _LARGEST_UPDATE / 2**_FEWEST_FRACTION_BITS / weight_max
        raise BoundError(f"a clip of {clip:g} is too large for sites of {weight_max} images: {most:g} at most")
    return bits


def binding(model: str, order: bytes, terms: Terms) -> str:
    """Return the SHA-256, in hex, of the global model's hash, the round's order and the terms.

    A site computes it of what it was sent and signs it; a party computes it of what it was told. So a relay
    that tells them different things gets no sum.
    """
    text = "\x1f".join(["nescient/round/1", model, hashlib.sha256(order).hexdigest(), terms.to_json()])
    return hashlib.sha256(text.encode()).hexdigest()
