"""Reading and writing the numbers of a study: intervals out of ``metrics.json``, and text out of numbers.

Nothing here is ever printed as ``None`` or ``nan``: what is unknown or undefined is shown as ``MISSING``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
ArmName = Literal["federated", "pooled", "local"]
Point = Literal["half", "operating_point"]

ARMS: tuple[ArmName, ...] = ("federated", "pooled", "local")
MISSING = "\u2013"  # an en dash, what a table shows where there is no figure
NEAR_CHANCE = 0.55  # an AUROC whose interval reaches below this is not called better than guessing


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval; any part may be unknown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def known(self) -> bool:
        return self.value is not None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return both ends, or nothing when either is unknown."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def complement(self) -> "Interval":
        """Return one minus the figure: from a specificity to a false-alarm rate."""
        low, high = (None if end is None else 1.0 - end for end in (self.high, self.low))
        return Interval(None if self.value is None else 1.0 - self.value, low, high)

    def overlaps(self, other: "Interval") -> bool | None:
        """Say whether two intervals overlap; nothing when either is unknown."""
        if self.bounds is None or other.bounds is None:
            return None
        return self.bounds[0] <= other.bounds[1] and other.bounds[0] <= self.bounds[1]


def real(raw: object) -> float | None:
    """Return a finite number, or nothing."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    return float(raw) if math.isfinite(raw) else None


def read_interval(raw: object) -> Interval:
    """Read an ``{value, low, high}`` object; anything else is an unknown figure."""
    if not isinstance(raw, Mapping):
        return Interval(real(raw))
    return Interval(real(raw.get("value")), real(raw.get("low")), real(raw.get("high")))


def section(source: Mapping[str, Any] | None, *path: str) -> Json:
    """Walk down a nested mapping; an absent or null section is an empty one."""
    here: Any = source
    for name in path:
        here = here.get(name) if isinstance(here, Mapping) else None
    return dict(here) if isinstance(here, Mapping) else {}


def read_arm(metrics: Mapping[str, Any], name: ArmName) -> Json | None:
    """Return one arm of the study, or nothing when it did not run."""
    return section(metrics, "arms", name) or None


def score(arm: Mapping[str, Any] | None, point: Point, metric: str) -> Interval:
    """Return one score of an arm at one threshold.

    AUROC, AUPRC, Brier and calibration error depend on no threshold and stand under ``test`` alone.
    """
    scores = section(arm, "test" if point == "half" else "operating_point")
    return read_interval(scores.get(metric))


def number(value: object, digits: int = 3) -> str:
    """Write a plain number; a whole one without decimals."""
    known = real(value)
    if known is None:
        return MISSING
    return f"{known:,.0f}" if known == int(known) and abs(known) >= 1 else f"{known:,.{digits}f}"


def fixed(value: object, digits: int = 3) -> str:
    """Write a number with just so many decimals."""
    known = real(value)
    return MISSING if known is None else f"{known:.{digits}f}"


def count(value: object) -> str:
    """Write a count; a mean of counts keeps one decimal."""
    known = real(value)
    if known is None:
        return MISSING
    return f"{known:,.0f}" if abs(known - round(known)) < 1e-9 else f"{known:,.1f}"


def with_bounds(interval: Interval, digits: int = 3) -> str:
    """Write ``0.912 (0.861-0.953)``; the figure alone when its bounds are unknown."""
    if interval.value is None:
        return MISSING
    text = f"{interval.value:.{digits}f}"
    if interval.bounds is None:
        return text
    low, high = interval.bounds
    return f"{text} ({low:.{digits}f}\u2013{high:.{digits}f})"


def figure(interval: Interval, digits: int = 3) -> str | tuple[str, str]:
    """Write a figure and its bounds apart, for a cell that sets one below the other."""
    if interval.bounds is None:
        return fixed(interval.value, digits)
    low, high = interval.bounds
    return fixed(interval.value, digits), f"{low:.{digits}f}\u2013{high:.{digits}f}"


def duration(value: object) -> str:
    """Write a time the way a person says it: 0.4 s, 38 s, 12 min 5 s, 2 h 3 min."""
    seconds = real(value)
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(value: object) -> str:
    """Write a number of bytes in decimal units."""
    amount = real(value)
    if amount is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.2f} {unit}"


def plain(value: object) -> str:
    """Write any setting for a table of settings."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items()) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or MISSING
    return str(value) or MISSING


def printable(text: str) -> str:
    """Return text that any terminal and page can show."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
