"""Which radiographs a study uses, and what each counts as.

Two rules. ``paper`` reproduces the write-up this project starts from, which takes the rows coded -1.0
(uncertain) for negatives and fills the negatives up with unmentioned rows until the classes balance. The
default, ``corrected``, calls negative what a radiologist negated, and blanks only of patients who have no
positive image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, isfinite
from typing import Literal, get_args

import numpy as np
import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.seeds import numpy_generator

Rule = Literal["corrected", "paper"]
Uncertain = Literal["exclude", "positive", "negative"]


@dataclass(frozen=True)
class CohortRule:
    """How to select a cohort.

    ``balance`` is the number of negative images asked for each positive one, negated and (with
    ``uncertain="negative"``) uncertain images included. ``uncertain`` and ``balance`` belong to
    ``corrected``; ``paper`` fixes both. Raises ``UserError`` where the values do not go together.
    """

    rule: Rule = "corrected"
    uncertain: Uncertain = "exclude"
    balance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise UserError(f"--cohort {self.rule} is unknown; choose {' or '.join(get_args(Rule))}")
        if self.uncertain not in get_args(Uncertain):
            choices = ", ".join(get_args(Uncertain))
            raise UserError(f"--uncertain {self.uncertain} is unknown; choose one of {choices}")
        if not isfinite(self.balance) or self.balance < 0:
            raise UserError(f"--balance {self.balance} must be a number of negatives for each positive, 0 or more")
        if self.rule == "paper" and self.uncertain == "positive":
            raise UserError("--cohort paper takes uncertain images for negatives; leave --uncertain out")
        if self.rule == "paper" and self.balance != 1.0:
            raise UserError("--cohort paper balances its classes; leave --balance out or use --cohort corrected")


@dataclass(frozen=True)
class Cohort:
    """A selected cohort.

    ``table`` is the standard table with ``target`` (int64, 0 or 1), sorted by source and image; ``dropped``
    counts the rows left out by reason; ``notes`` are sentences the user should read, such as a balance that
    the dataset could not supply.
    """

    table: pd.DataFrame
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = field(default=())

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.table)

    @property
    def patients(self) -> int:
        """The number of patients, one person in two sources counting as two."""
        return int(patient_keys(self.table).nunique())

    @property
    def positives(self) -> int:
        """The number of images with target 1."""
        return int(self.table["target"].sum())


def select_cohort(table: pd.DataFrame, rule: CohortRule) -> Cohort:
    """Select a cohort from a standard table; the same rows and seed give the same cohort in any order.

    Each source is selected and balanced by itself, so that the share of positives does not tell the sources
    apart. Raises ``UserError`` when no image is positive or none is negative.
    """
    table = table.sort_values(["source", "image"], ignore_index=True)
    chosen: list[pd.DataFrame] = []
    dropped: dict[str, int] = {}
    notes: list[str] = []
    for source, rows in table.groupby("source", sort=True):
        select = _paper if rule.rule == "paper" else _corrected
        part, reasons, note = select(rows, rule, str(source))
        chosen.append(part)
        notes += [note] if note else []
        for reason, count in reasons.items():
            if count:
                dropped[reason] = dropped.get(reason, 0) + count
    cohort = pd.concat(chosen, ignore_index=True) if chosen else table.assign(target=np.int64(0))
    for target, name in ((1, "positive"), (0, "negative")):
        if not (cohort["target"] == target).any():
            counts = table["label"].value_counts().to_dict()
            labels = ", ".join(f"{label} {count}" for label, count in counts.items()) or "no rows at all"
            raise UserError(
                f"the cohort has no {name} image (labels found: {labels}); use a larger dataset, or change"
                f" --cohort, --uncertain or --balance"
            )
    return Cohort(cohort, dropped, tuple(notes))


_Selection = tuple[pd.DataFrame, dict[str, int], str | None]


def _paper(rows: pd.DataFrame, rule: CohortRule, source: str) -> _Selection:
    # On CheXpert: 7,040 positives, 1,108 uncertain, so 7,040 - 1,108 = 5,932 blanks. Where a dataset has no
    # uncertain rows (NIH) the same rule takes as many blanks as positives.
    label = rows["label"]
    positive, uncertain = label == "positive", label == "uncertain"
    wanted = max(0, int(positive.sum()) - int(uncertain.sum()))
    blanks, note = _sample(label == "unmentioned", wanted, rule, source)
    kept = positive | uncertain | blanks
    dropped = {
        "negated, which the paper's cohort leaves out": int((label == "negated").sum()),
        "unmentioned, beyond balanced classes": int(((label == "unmentioned") & ~blanks).sum()),
    }
    return rows[kept].assign(target=positive[kept].astype("int64")), dropped, note


def _corrected(rows: pd.DataFrame, rule: CohortRule, source: str) -> _Selection:
    label = rows["label"]
    uncertain = label == "uncertain"
    positive, negative = label == "positive", label == "negated"
    if rule.uncertain == "positive":
        positive |= uncertain
    elif rule.uncertain == "negative":
        negative |= uncertain
    # A blank of a patient with a lesion on another image may show that lesion, so it is no negative.
    with_positive = rows["patient"].isin(rows["patient"][positive])
    blank = label == "unmentioned"
    asked = floor(rule.balance * int(positive.sum()) + 0.5)
    blanks, note = _sample(blank & ~with_positive, max(0, asked - int(negative.sum())), rule, source)
    kept = positive | negative | blanks
    dropped = {
        "uncertain": int(uncertain.sum()) if rule.uncertain == "exclude" else 0,
        "unmentioned, of a patient with a positive image": int((blank & with_positive).sum()),
        "unmentioned, beyond the asked balance": int((blank & ~with_positive & ~blanks).sum()),
    }
    return rows[kept].assign(target=positive[kept].astype("int64")), dropped, note


def _sample(
    candidates: "pd.Series[bool]", wanted: int, rule: CohortRule, source: str
) -> "tuple[pd.Series[bool], str | None]":
    """Choose ``wanted`` of the candidate rows, or all of them and a note when there are fewer."""
    places = np.flatnonzero(candidates.to_numpy())
    chosen = np.zeros(len(candidates), dtype=bool)
    note = None
    if wanted > len(places):
        note = (
            f"{source}: {wanted:,} unmentioned images were wanted as negatives and {len(places):,} are there;"
            f" all of them were taken"
        )
        wanted = len(places)
    generator = numpy_generator(rule.seed, "cohort", rule.rule, source)
    chosen[generator.choice(places, size=wanted, replace=False)] = True
    return pd.Series(chosen, index=candidates.index, dtype=bool), note
