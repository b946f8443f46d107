"""How the network is trained: the write-up's recipe, and the default one that measurements led to."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import NetworkOptions


@dataclass(frozen=True)
class Recipe:
    """Everything about local training but the data, the seed and the number of epochs.

    Attributes:
        learning_rate: Adam's step size in the first round.
        final_rate: share of it that is left in the last round; it falls along half a cosine (Loshchilov and
            Hutter, "SGDR", ICLR 2017, without restarts). 1 keeps the step size.
        weight_decay: L2 penalty, added to the gradient as Adam does.
        batch_size: images a step.
        standardise: each image to mean 0 and standard deviation 1; otherwise grey levels divided by 255.
        flip: probability of mirroring an image left to right.
        shift: largest shift of an image along each axis, in pixels.
        clip_norm: largest L2 norm of a step's gradient; None leaves it as it is.
        proximal: mu of FedProx (Li et al., MLSys 2020): mu/2 * ||w - w_global||^2 joins the local loss.
        network: the network's own variants.
    """

    name: str
    learning_rate: float
    weight_decay: float
    batch_size: int
    standardise: bool
    flip: float
    shift: int
    clip_norm: float | None = None
    proximal: float = 0.0
    final_rate: float = 1.0
    network: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"the learning rate must be above 0, got {self.learning_rate}")
        if not 0 < self.final_rate <= 1:
            raise UserError(f"the final rate is a share above 0 and up to 1, got {self.final_rate}")
        if self.weight_decay < 0 or self.proximal < 0:
            raise UserError("weight decay and the proximal term must be 0 or more")
        if self.batch_size < 1:
            raise UserError(f"the batch size must be 1 or more, got {self.batch_size}")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is a probability from 0 to 1, got {self.flip}")
        if not 0 <= self.shift < 160:
            raise UserError(f"shift is a number of pixels from 0 to 159, got {self.shift}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"the gradient's largest norm must be above 0, got {self.clip_norm}")

    def rate_in(self, number: int, rounds: int) -> float:
        """Return Adam's step size in round ``number`` of ``rounds``, the first being 1."""
        if rounds < 2:
            return self.learning_rate
        fallen = (1 - math.cos(math.pi * (number - 1) / (rounds - 1))) / 2
        return self.learning_rate * (1 - (1 - self.final_rate) * fallen)


RECIPES = {
    "paper": Recipe(
        name="paper",
        learning_rate=5e-4,
        weight_decay=1e-4,
        batch_size=8,
        standardise=False,
        flip=0.0,
        shift=0,
    ),
    "default": Recipe(
        name="default",
        learning_rate=1.5e-3,
        weight_decay=1e-4,
        batch_size=8,
        standardise=True,
        flip=0.5,
        shift=8,
        final_rate=0.05,
        network=NetworkOptions(initialisation="he"),
    ),
}


def choose_recipe(name: str, **changes: Any) -> Recipe:
    """Return a named recipe with some of its values changed; a change of None keeps the recipe's value.

    Raises UserError for an unknown name or a value that cannot be.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: use one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})


def recipe_to_json(recipe: Recipe) -> str:
    """Write a recipe as JSON, keys sorted."""
    return json.dumps(asdict(recipe), sort_keys=True)


def recipe_from_json(text: str) -> Recipe:
    """Read a recipe that ``recipe_to_json`` wrote. Raises TypeError for a key that a recipe has not."""
    values = json.loads(text)
    return Recipe(**{**values, "network": NetworkOptions(**values["network"])})
