"""Federated averaging (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017): the new global model is the old one plus the mean update, weighted by images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.lesion.network import Weights


@dataclass(frozen=True)
class Contribution:
    """One site's part of a round: its update (float32) and its weight, the number of its training images."""

    site: str
    images: int
    update: Weights


def average(weights: Weights, contributions: Sequence[Contribution]) -> Weights:
    """Return the global weights moved by the weighted mean update.

    Sums run in float64 and in the order of site names, whatever order the answers came in, so that the same
    answers give the same bits. Raises ValueError for no contributions, a total weight of zero, or a site that
    appears twice.
    """
    ordered = sorted(contributions, key=lambda contribution: contribution.site)
    names = [contribution.site for contribution in ordered]
    if len(set(names)) < len(names):
        raise ValueError("a site contributed twice to one round")
    total = sum(contribution.images for contribution in ordered)
    if total <= 0:
        raise ValueError("there is no weight to average by")
    summed: dict[str, NDArray[np.float64]] = {}
    for name, value in weights.items():
        moved = torch.zeros_like(value, dtype=torch.float64)
        for contribution in ordered:
            moved += contribution.images * contribution.update[name].double()
        summed[name] = moved.numpy()
    return moved_by(weights, summed, total)


def moved_by(weights: Weights, summed: Mapping[str, NDArray[np.float64]], total: int) -> Weights:
    """Return weights moved by a sum of weighted updates, float64, divided by the sum of their weights."""
    return {
        name: (value.double() + torch.from_numpy(summed[name]) / total).to(value.dtype)
        for name, value in weights.items()
    }
