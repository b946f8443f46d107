"""A model made ready to be served: calibrated, compiled to plans, and kept so that its material stays good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import FRAME
from nescient_fl.mpc.errors import PlanError
from nescient_fl.mpc.inference.compile import ModelWeights, compile_network, encode_weights
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.radiographs.cache import SMALLEST_STD, open_cache
from nescient_fl.radiographs.geometry import BadRadiograph, Geometry, place, read_radiograph
from nescient_fl.serving.messages import Card
from nescient_fl.serving.model import SavedModel
from nescient_fl.study.run_folder import read_json, write_json

SHAPE = (1, *FRAME)
CALIBRATION_IMAGES = 32
_WIDE = 64.0
"""Standardised inputs of the wide plan: no radiograph is 64 of its standard deviations away from its mean."""
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}

Inputs = NDArray[np.float32]


@dataclass(frozen=True)
class ServedModel:
    """A model with its plans, the narrowest first, the weights encoded for each, and its name for clinics."""

    plans: tuple[Plan, ...]
    weights: tuple[ModelWeights, ...]
    geometry: Geometry
    standardise: bool
    threshold: float | None
    name: str

    def card(self, left: int) -> Card:
        """Return what a clinic is told of it."""
        texts = tuple(plan.to_json() for plan in self.plans)
        return Card(texts, self.geometry, self.standardise, self.threshold, self.name, left)

    def plan(self, digest: str) -> int:
        """Return the number of a plan. Raises PlanError when the model has no such plan."""
        for number, plan in enumerate(self.plans):
            if plan.digest == digest:
                return number
        raise PlanError("this model is not served by that plan (any more): ask for its card again")


def compile_model(saved: SavedModel, calibration: Inputs) -> ServedModel:
    """Compile a model for inputs like the calibration's, float32 [n, 1, 320, 390], and once more for any others.

    Raises UserError for a network that cannot be served.
    """
    try:
        if saved.recipe.standardise:
            compiled = [
                compile_network(saved.network(), SHAPE, calibration),
                compile_network(saved.network(), SHAPE, calibration, bounds=(-_WIDE, _WIDE)),
            ]
        else:
            # Grey levels from 0 to 1: there is nothing beyond.
            compiled = [compile_network(saved.network(), SHAPE, calibration, bounds=(0.0, 1.0))]
    except PlanError as error:
        raise UserError(f"{saved.path} cannot be served under encryption: {error}") from None
    plans, weights = zip(*compiled, strict=True)
    return _served(saved, plans, weights, fresh_stream().take_bytes(8).hex())


def keep_model(served: ServedModel, folder: Path) -> None:
    """Keep the plans, since material is dealt for a plan."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(folder / "plans.json", {"name": served.name, "plans": [plan.to_json() for plan in served.plans]})


def kept_model(saved: SavedModel, folder: Path) -> ServedModel | None:
    """Return a model with the plans that were kept for it, None when none were or they do not fit any more."""
    if not (folder / "plans.json").exists():
        return None
    kept = read_json(folder / "plans.json")
    try:
        plans = [Plan.from_json(text) for text in kept["plans"]]
        return _served(saved, plans, [encode_weights(saved.network(), plan) for plan in plans], str(kept["name"]))
    except (PlanError, KeyError, TypeError):
        return None


def _served(saved: SavedModel, plans: Sequence[Plan], weights: Sequence[ModelWeights], name: str) -> ServedModel:
    standardise = saved.recipe.standardise
    return ServedModel(tuple(plans), tuple(weights), saved.geometry, standardise, saved.threshold, name)


def to_input(path: Path, geometry: Geometry, standardise: bool) -> Inputs:
    """Read an image file as the network's input, float32 [1, 320, 390]. Raises BadRadiograph."""
    framed = place(read_radiograph(path), geometry)
    if not standardise:
        return (framed.pixels[None] * np.float32(1 / 255)).astype(np.float32)
    area = framed.area
    mean = np.float32(area.mean(dtype=np.float64))
    scale = np.float32(1 / np.float32(max(SMALLEST_STD, float(area.std(dtype=np.float64)))))
    made: Inputs = (framed.pixels[None].astype(np.float32) - mean) * scale
    return made


def calibration_of_run(saved: SavedModel, run: Path) -> Inputs | None:
    """Return inputs of images that a run trained on, from its pixel cache; None when that is gone."""
    config, partition = run / "config.json", run / "partition.csv"
    if not config.is_file() or not partition.is_file():
        return None
    try:
        cache = open_cache(Path(read_json(config)["cache"]))
        rows = pd.read_csv(partition, usecols=["row", "split"])
    except (UserError, KeyError, ValueError):
        return None
    trained = rows.loc[rows["split"] == "train", "row"].to_numpy(np.int64)
    if not len(trained) or trained.max() >= len(cache) or cache.geometry != saved.geometry:
        return None
    chosen = trained[np.linspace(0, len(trained) - 1, min(CALIBRATION_IMAGES, len(trained))).astype(np.int64)]
    made: Inputs = cache.pixels[chosen].astype(np.float32)[:, None]
    if saved.recipe.standardise:
        made -= cache.mean[chosen, None, None, None]
        made /= cache.std[chosen, None, None, None]
    else:
        made /= np.float32(255)
    return made


def calibration_of_folder(saved: SavedModel, folder: Path) -> Inputs:
    """Return inputs of images below a folder. Raises UserError when there is none that can be read."""
    if not folder.is_dir():
        raise UserError(f"--calibration {folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    step = max(len(files) // CALIBRATION_IMAGES, 1)
    inputs = []
    for path in files[::step][:CALIBRATION_IMAGES]:
        try:
            inputs.append(to_input(path, saved.geometry, saved.recipe.standardise))
        except BadRadiograph:
            continue
    if not inputs:
        raise UserError(f"--calibration {folder}: no image in it can be read")
    return np.stack(inputs)
