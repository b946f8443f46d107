"""A site's patients divided into train, validation and test."""

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

SPLITS: Final = ("train", "validation", "test")
SHARES: Final = (0.7, 0.1, 0.2)


class NotEnough(Exception):
    """A site whose patients cannot fill three splits; the message says what the site has."""


def allot(total: int, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Divide ``total`` into whole parts in proportion to ``shares``; the largest remainders round up."""
    exact = total * shares / shares.sum()
    parts: npt.NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    left = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:left]] += 1
    return parts


def split_patients(patients: pd.DataFrame, generator: np.random.Generator) -> npt.NDArray[np.object_]:
    """Return the split of each patient of one site: 70% train, 10% validation, 20% test, by patient.

    ``patients`` has one row a patient with the counts ``images`` and ``positives``. Patients with a positive
    image and those without are divided each by themselves, so the splits resemble one another, and every
    split gets at least one positive and one negative image. Raises ``NotEnough`` where that cannot be.
    """
    positives = patients["positives"].to_numpy() > 0
    mixed = positives & (patients["positives"] < patients["images"]).to_numpy()
    splits = np.empty(len(patients), dtype=object)
    if positives.sum() < len(SPLITS):
        raise NotEnough(
            f"{positives.sum()} patients with a positive image, and train, validation and test need one each"
        )
    if (~positives).sum() < len(SPLITS) and (~positives).sum() + mixed.sum() < len(SPLITS):
        raise NotEnough(
            f"{(~positives).sum() + mixed.sum()} patients with a negative image, and train, validation and"
            f" test need one each"
        )
    for stratum in (positives, ~positives):
        members = generator.permutation(np.flatnonzero(stratum))
        splits[members] = np.repeat(np.array(SPLITS, dtype=object), _counts(len(members)))
    _give_negatives(splits, ~positives, mixed, generator)
    return splits


def _counts(patients: int) -> npt.NDArray[np.int64]:
    """Patients a split: the shares rounded, but one each, and the first two to train and test."""
    if patients < len(SPLITS):
        return np.array([patients > 0, False, patients > 1], dtype=np.int64)
    counts = allot(patients, np.array(SHARES))
    while (counts == 0).any():
        counts[int(np.argmax(counts))] -= 1
        counts[int(np.argmin(counts))] += 1
    return counts


def _give_negatives(
    splits: npt.NDArray[np.object_],
    without: npt.NDArray[np.bool_],
    mixed: npt.NDArray[np.bool_],
    generator: np.random.Generator,
) -> None:
    """Where there are fewer than three patients without a positive image, place patients who have both kinds.

    Only a handful of sites in a strong label skew come here. A split without a negative image swaps one of
    its patients for one with both kinds from a split that can spare it, so the sizes of the splits stay.
    """
    holds_negative = without | mixed
    for split in SPLITS:
        if (holds_negative & (splits == split)).any():
            continue
        spare = [
            place
            for place in generator.permutation(np.flatnonzero(holds_negative))
            if (holds_negative & (splits == splits[place])).sum() > 1
        ]
        partners = generator.permutation(np.flatnonzero((splits == split) & ~holds_negative))
        for place in spare:
            # A swap among patients with a positive image keeps one in each split.
            if mixed[place] and len(partners):
                splits[place], splits[partners[0]] = split, splits[place]
                break
        else:
            raise NotEnough("too few patients with a negative image for train, validation and test")
