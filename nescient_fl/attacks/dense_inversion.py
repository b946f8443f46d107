"""Reading the first dense layer's input out of an update: exact, for a site that trained on one image.

With a layer y = W x + b and any loss, dL/dW = dL/dy x^T and dL/db = dL/dy, so that a row of the one divided by the
same row of the other is x (Phong et al., "Privacy-preserving deep learning via additively homomorphic encryption",
IEEE TIFS 2018, section 3). Plain gradient descent hands both over, scaled alike.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.attacks.evidence import Finding, Trial, correlations, rank_of
from nescient_fl.attacks.federation import Federation
from nescient_fl.attacks.readings import ranking_trial, sealed_readings
from nescient_fl.attacks.victims import Scene, descend, take_adam_step
from nescient_fl.lesion.network import Weights

_EXACT = 0.01
"""Relative error up to which the features count as recovered: float32 updates of a small step are no finer."""


def recover_features(update: Weights) -> NDArray[np.float64]:
    """Return the layer's input, float64 [1560], from the row whose bias moved most."""
    rows, biases = update["dense1.weight"].double(), update["dense1.bias"].double()
    row = int(biases.abs().argmax())
    found: NDArray[np.float64] = (rows[row] / biases[row]).nan_to_num(0.0, 0.0, 0.0).numpy()
    return found


def recover_active(update: Weights, weights: Weights) -> NDArray[np.float64]:
    """Return which inputs were not zero, float64 [1560] of 0 and 1, from one step of Adam.

    Adam's first step has one size for every weight, so the ratio is lost; the signs are not. Where the input is
    zero only weight decay moves a weight, towards zero; elsewhere the gradient decides.
    """
    moved, before = update["dense1.weight"], weights["dense1.weight"]
    decayed = torch.sign(moved) == -torch.sign(before)
    found: NDArray[np.float64] = (~decayed.all(dim=0)).double().numpy()
    return found


def relative_error(found: NDArray[np.float64], true: NDArray[np.float32]) -> float:
    """Return the L2 error of recovered features by the features' own norm."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def attack_dense_layer(scene: Scene, federation: Federation) -> Finding:
    """Invert every site's one-image update, in clear and as the relay and each party hold it."""
    features = scene.features()
    errors: list[float] = []
    plain_ranks: list[int] = []
    adam_ranks: list[int] = []
    sealed_ranks: dict[str, list[int]] = {}
    active = (features > 0).astype(np.float64)
    for victim in range(len(scene)):
        update = descend(scene, [victim])
        found = recover_features(update)
        errors.append(relative_error(found, features[victim]))
        plain_ranks.append(rank_of(victim, correlations(found, features)))
        signs = recover_active(take_adam_step(scene, victim), scene.weights)
        adam_ranks.append(rank_of(victim, correlations(signs, active)))
        for reader, reading in sealed_readings(federation, scene, update, victim).items():
            guess = recover_features(reading)
            sealed_ranks.setdefault(reader, []).append(rank_of(victim, correlations(guess, features)))
    plain = ranking_trial({"the coordinator": plain_ranks}, len(scene))
    adam = sum(rank == 1 for rank in adam_ranks)
    return Finding(
        key="dense_inversion",
        title="Invert the first dense layer",
        saw="One site's update from one image: in clear; as the relay, each party, and both together hold it.",
        plain=Trial(
            plain.succeeded and float(np.median(errors)) < _EXACT,
            plain.brief,
            f"{plain.figures['hits']['the coordinator']} of {len(scene)} radiographs named among {len(scene)}, the "
            f"layer's input read to {np.median(errors):.0e} of its norm; after a step of Adam, {adam} of {len(scene)}.",
            {**plain.figures, "median_relative_error": float(np.median(errors)), "adam_hits": adam},
        ),
        secure=ranking_trial(sealed_ranks, len(scene)),
    )
