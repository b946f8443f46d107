"""Reading an image out of the opened sum: what sealing does not prevent, and noise does.

The sum is meant to be known. But a hidden unit of the first dense layer that only one image of all sites wakes has
that image's input in its row of the sum, as in ``dense_inversion``, whoever sent it. After many steps over many
images the rows are blends; nothing but differential privacy promises that they are.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.attacks.dense_inversion import relative_error
from nescient_fl.attacks.evidence import NOISE, Finding, Trial
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.victims import Scene, descend
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.privacy import PrivacyBudget
from nescient_fl.sealed_vector import flatten

SITES = 5
_READ = 0.02
"""Relative error of the features up to which an image counts as read; the nearest two images differ by 0.18."""
_RATE = 0.5
"""Step size: large, so that fixed point blurs the sum as little as it may."""
_MANY_IMAGES, _MANY_STEPS = 10, 20


def rows_of(update: Weights) -> NDArray[np.float64]:
    """Return every row of the first dense layer by its bias, float64 [rows, 1560]; rows that did not move are out."""
    rows, biases = update["dense1.weight"].double().numpy(), update["dense1.bias"].double().numpy()
    moved = np.abs(biases) > 0
    found: NDArray[np.float64] = rows[moved] / biases[moved][:, None]
    return found


def images_read(update: Weights, features: NDArray[np.float32]) -> list[int]:
    """Return which of the images, by their features float32 [n, 1560], a row of the update gives away."""
    rows = rows_of(update)
    return [index for index, own in enumerate(features) if any(relative_error(row, own) < _READ for row in rows)]


def attack_opened_sum(scene: Scene, make: Callable[..., Federation], budget: PrivacyBudget) -> Finding:
    """Read images out of sums of one-step updates of one image a site, with and without noise.

    ``make`` makes a federation, given its sites, clip, largest weight and noise multiplier.
    """
    features = scene.features()
    count = SITES
    updates = [descend(scene, [image], rate=_RATE) for image in range(count)]
    # The tightest clip that changes nothing: noise is then as small as it can be.
    clip = max(float(np.linalg.norm(flatten(update, 1))) for update in updates) * 1.001
    bare = make(sites=count, clip=clip, weight_max=1)
    noisy = make(sites=count, clip=clip, weight_max=1, noise_multiplier=budget.noise_multiplier)
    open_read = images_read(_opened(scene, bare, updates), features)
    noisy_read = images_read(_opened(scene, noisy, updates), features)
    each = min(_MANY_IMAGES, len(scene) // count)
    blended = [descend(scene, range(each * place, each * (place + 1)), _MANY_STEPS) for place in range(count)]
    many_read = images_read(_summed(blended), features)
    return Finding(
        key="opened_sum",
        title="Read an image out of the sum",
        saw="The opened sum, as relay and parties get it, of sites that took one step on one image each.",
        plain=Trial(
            bool(open_read),
            f"{len(open_read)} of {count} images read",
            f"{len(open_read)} of {count} images read without noise, though not whose they are; "
            f"{len(many_read)} after {_MANY_STEPS} steps on {each} images a site.",
            {"read": len(open_read), "of": count, "read_after_many_steps": len(many_read)},
        ),
        secure=Trial(
            bool(noisy_read),
            f"{len(noisy_read)} of {count} images read",
            f"{len(noisy_read)} of {count} images read with noise ({budget_text(budget)}).",
            {"read": len(noisy_read), "of": count, "noise_multiplier": budget.noise_multiplier},
        ),
        protection=NOISE,
    )


def budget_text(budget: PrivacyBudget) -> str:
    """Say a budget in a phrase."""
    return f"epsilon {budget.epsilon:g}, delta {budget.delta:g}"


def _opened(scene: Scene, federation: Federation, updates: Sequence[Weights]) -> Weights:
    """Return what a whole secure round moves the model by."""
    answers = {name: answer_of(name, update, 1) for name, update in zip(federation.sites, updates, strict=True)}
    averaged = federation.take_round(scene.order(1), scene.weights, answers).averaged
    assert averaged is not None
    return {name: averaged[name].double() - scene.weights[name] for name in averaged}


def _summed(updates: Sequence[Weights]) -> Weights:
    return {name: torch.stack([update[name].double() for update in updates]).sum(dim=0) for name in updates[0]}
