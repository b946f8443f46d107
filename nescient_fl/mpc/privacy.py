"""The privacy ledger: what every opened sum cost, and a stop before the budget is exceeded.

Site-level differential privacy: a site's whole part in the run hides in the noise. Two runs are neighbours when one
site's reports are zeros in one of them; who takes part is public in both. (Where that site's data may be exchanged
for any other, the sensitivity is twice as large: epsilon is that of half the noise multiplier.) A sum is a Gaussian
mechanism of one noise multiplier; the discrete Gaussian obeys the same Renyi bound as the continuous one (Canonne,
Kamath and Steinke, 2020, theorem 14). dp-accounting does the arithmetic.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import dp_accounting
from dp_accounting.rdp import RdpAccountant

from nescient_fl.errors import UserError

_LARGEST_MULTIPLIER = 1e5
"""More would be more noise than the ring holds."""


class BudgetSpent(UserError):
    """The next sum would cost more than the study's epsilon."""


@dataclass(frozen=True)
class PrivacyBudget:
    """What a study may spend: (epsilon, delta), in sums of one noise multiplier (noise by sensitivity)."""

    epsilon: float
    delta: float
    noise_multiplier: float

    def spent(self, sums: int) -> float:
        """Return the epsilon of so many opened sums, at this delta."""
        if sums == 0:
            return 0.0
        accountant = RdpAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(self.noise_multiplier), sums)
        return float(accountant.get_epsilon(self.delta))


def noise_multiplier_for(epsilon: float, delta: float, sums: int) -> float:
    """Return the smallest noise multiplier with which so many sums cost at most epsilon at delta.

    Raises UserError when no noise is enough.
    """

    def event(multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), sums)

    try:
        found = dp_accounting.calibrate_dp_mechanism(
            RdpAccountant,
            event,
            epsilon,
            delta,
            dp_accounting.ExplicitBracketInterval(1e-3, _LARGEST_MULTIPLIER),
            tol=1e-4,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"no noise gives epsilon {epsilon:g} over {sums} sums ({error})") from None
    return float(found)


def multiplier_for_study(epsilon: float, delta: float, rounds: int) -> float:
    """Return the noise multiplier of a study: one sum a round, and one more that scores the last model.

    Raises UserError when no noise is enough.
    """
    return noise_multiplier_for(epsilon, delta, rounds + 1)


class PrivacyLedger:
    """A file with a line for every sum that was paid for; a sum that was paid for is not charged again."""

    def __init__(self, path: Path, budget: PrivacyBudget) -> None:
        self._path, self._budget = path, budget

    @property
    def keys(self) -> list[str]:
        """Return what was charged, oldest first. Raises UserError for a damaged file: no line may be lost."""
        if not self._path.exists():
            return []
        try:
            lines = [json.loads(line) for line in self._path.read_text().splitlines()]
            return [str(line["sum"]) for line in lines]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self._path} is damaged: what was spent is not known, start a new run") from None

    @property
    def epsilon(self) -> float:
        """Return what was spent so far."""
        return self._budget.spent(len(self.keys))

    def charge(self, key: str) -> float:
        """Pay for one sum before it is opened; the line is on disk when this returns. Returns the epsilon spent.

        Raises BudgetSpent, and writes nothing, when it would exceed the budget.
        """
        keys = self.keys
        if key in keys:
            return self._budget.spent(len(keys))
        epsilon = self._budget.spent(len(keys) + 1)
        # The calibration's own tolerance is no reason to lose the last round.
        if epsilon > self._budget.epsilon * (1 + 1e-9):
            raise BudgetSpent(
                f"the privacy budget is spent: one more sum would cost epsilon {epsilon:.3f} of "
                f"{self._budget.epsilon:g}; the model of the last finished round stands"
            )
        line = {
            "sum": key,
            "noise_multiplier": self._budget.noise_multiplier,
            "delta": self._budget.delta,
            "epsilon": epsilon,
        }
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        return epsilon
