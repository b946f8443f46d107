"""The layers of a model that tuning changes, those that stay frozen, and what the latter make of radiographs."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import LesionNetwork, Weights, weights_sha256
from nescient_fl.serving.clinic import Inputs
from nescient_fl.serving.model import SavedModel

DENSE = ("dense2", "dense3")
"""Layers that can be tuned, ReLU between them; the last one of them alone can be too."""
_CHUNK = 32
Floats = NDArray[np.float64]


def tuned_names(layers: int) -> tuple[str, ...]:
    """Return the names of the last so many layers. Raises UserError for a number that cannot be."""
    if not 1 <= layers <= len(DENSE):
        raise UserError(f"from 1 to {len(DENSE)} layers can be tuned, not {layers}")
    return DENSE[-layers:]


def check_tunable(saved: SavedModel, layers: int) -> None:
    """Raise UserError for a model between whose tuned layers there is something that tuning does not know."""
    if len(tuned_names(layers)) > 1 and saved.recipe.network.activation != "relu":
        name = saved.recipe.network.activation.upper()
        raise UserError(f"{saved.path} has {name} between its layers, tuning knows ReLU: take --layers 1")


def tuned_layers(weights: Weights, layers: int) -> list[Floats]:
    """Return the weights of the last layers, float64 [outputs, inputs + 1] each, the bias last."""
    return [
        torch.cat([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], dim=1).double().numpy()
        for name in tuned_names(layers)
    ]


def with_tuned_layers(weights: Weights, values: Sequence[Floats]) -> Weights:
    """Return the weights with other last layers."""
    changed = {}
    for name, value in zip(tuned_names(len(values)), values, strict=True):
        found = torch.from_numpy(value).float()
        changed[f"{name}.weight"], changed[f"{name}.bias"] = found[:, :-1].contiguous(), found[:, -1].contiguous()
    return {**weights, **changed}


def with_layers_tuned(saved: SavedModel, values: Sequence[Floats]) -> SavedModel:
    """Return a model with other last layers."""
    weights = with_tuned_layers(saved.weights, values)
    return replace(saved, weights=weights, sha256=weights_sha256(weights))


def frozen_model(saved: SavedModel, layers: int) -> SavedModel:
    """Return a model for a clinic: zeros where the tuned layers are, and no operating point."""
    zeros = [np.zeros_like(value) for value in tuned_layers(saved.weights, layers)]
    return replace(with_layers_tuned(saved, zeros), threshold=None)


def frozen_digest(saved: SavedModel, layers: int) -> str:
    """Return a digest of all that the embeddings depend on: the frozen layers, and what inputs are."""
    frozen = weights_sha256(frozen_model(saved, layers).weights)
    about = [frozen, layers, saved.geometry, saved.recipe.standardise, saved.recipe.network.activation]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def embeddings(network: LesionNetwork, inputs: Inputs | NDArray[np.float32]) -> dict[int, Floats]:
    """Return what the last 1 and the last 2 layers of a network see of inputs: float64 [n, features] each."""
    names = list(dict(network.named_children()))
    first, last = (names.index(name) for name in DENSE)
    frozen = LesionNetwork(OrderedDict((name, network.get_submodule(name)) for name in names[:first])).eval()
    middle = torch.nn.Sequential(*(network.get_submodule(name) for name in names[first:last])).eval()
    found: dict[int, list[Floats]] = {1: [], 2: []}
    with torch.inference_mode():
        for start in range(0, len(inputs), _CHUNK):
            seen = frozen(torch.from_numpy(inputs[start : start + _CHUNK]))
            found[2].append(seen.double().numpy())
            found[1].append(middle(seen).double().numpy())
    return {layers: np.concatenate(parts) for layers, parts in found.items()}
