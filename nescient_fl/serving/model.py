"""A finished model as its file holds it: weights, what its inputs are, and its operating point."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import (
    LesionNetwork,
    NetworkOptions,
    Weights,
    build_network,
    set_weights,
    weights_sha256,
)
from nescient_fl.lesion.recipe import RECIPES, Recipe
from nescient_fl.radiographs.geometry import Geometry, checked_geometry
from nescient_fl.study.checkpoint import load_checkpoint, save_checkpoint
from nescient_fl.study.run_folder import RunFolder


@dataclass(frozen=True)
class SavedModel:
    """A model that a run saved.

    Attributes:
        path: its file.
        weights: of the lesion network, float32.
        recipe: only what concerns inputs and the network itself is the model's; the rest is the default recipe's.
        geometry: how its radiographs fill the frame.
        threshold: its operating point, a score; None for a model that chose none.
        sha256: of its weights.
    """

    path: Path
    weights: Weights
    recipe: Recipe
    geometry: Geometry
    threshold: float | None
    sha256: str

    def network(self) -> LesionNetwork:
        """Build it, in evaluation mode."""
        network = build_network(self.recipe.network, seed=0)
        set_weights(network, self.weights)
        return network.eval()


def load_model(path: Path) -> SavedModel:
    """Load the model of a run's folder, or of a file.

    Raises UserError when there is none, it is damaged, or it is not of the lesion network.
    """
    if path.is_dir():
        file = RunFolder(path).model
        if not file.is_file():
            unfinished = (path / "config.json").is_file()
            raise UserError(
                f"{path} holds a run that is not finished: go on with --resume {path}"
                if unfinished
                else f"{path} holds no model.safetensors: name a run's folder, or a model's file"
            )
        path = file
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a run's folder, or a model's file")
    try:
        groups, about = load_checkpoint(path)
    except UserError:
        raise UserError(f"{path} is damaged, or no model: name the model.safetensors of a run") from None
    if "model" not in groups or not isinstance(about, dict) or "geometry" not in about:
        raise UserError(f"{path} is no finished model: name the model.safetensors of a run")
    model = SavedModel(
        path=path,
        weights=groups["model"],
        recipe=_recipe(path, about),
        geometry=checked_geometry(str(about["geometry"])),
        threshold=_threshold(path, about.get("threshold")),
        sha256=str(about["sha256"]),
    )
    if not all(torch.isfinite(value).all() for value in model.weights.values()):
        raise UserError(f"{path} has weights that are not finite: it is of no use")
    try:
        model.network()
    except RuntimeError:
        raise UserError(f"{path} is not a model of the lesion network") from None
    return model


def save_model(path: Path, model: SavedModel) -> None:
    """Write a model so that ``load_model`` reads it."""
    about = {
        "geometry": model.geometry,
        "standardise": model.recipe.standardise,
        "activation": model.recipe.network.activation,
        "threshold": model.threshold,
        "sha256": weights_sha256(model.weights),
    }
    save_checkpoint(path, {"model": model.weights}, about)


def _recipe(path: Path, about: dict[str, Any]) -> Recipe:
    standardise, activation = about.get("standardise"), about.get("activation")
    if not isinstance(standardise, bool) or activation not in ("relu", "gelu"):
        raise UserError(f"{path} does not say what its inputs and activation are")
    return replace(RECIPES["default"], standardise=standardise, network=NetworkOptions(activation=activation))


def _threshold(path: Path, value: Any) -> float | None:
    if value is not None and not (isinstance(value, float | int) and 0 <= value <= 1):
        raise UserError(f"{path} has an operating point that is no score: {value!r}")
    return None if value is None else float(value)
