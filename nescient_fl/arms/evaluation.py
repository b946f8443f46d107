"""A finished model on a dataset: which radiographs it is scored on, its scores, and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nescient_fl.arms.data import cache_folder, phantom_folder
from nescient_fl.arms.encryption import BATCH, score_encrypted
from nescient_fl.arms.scoring import describe_scores
from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.metrics import Floats, HeldOut
from nescient_fl.lesion.training import choose_device, predict_logits
from nescient_fl.radiographs.cache import PixelCache, build_cache, open_cache
from nescient_fl.radiographs.cohort import CohortRule
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.seeds import numpy_generator
from nescient_fl.serving.clinic import Told
from nescient_fl.serving.messages import MOST_IMAGES
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.plans import calibration_of_run
from nescient_fl.study.run_folder import read_json
from sites.datasets import load_cohort

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationOptions:
    """What is scored.

    Attributes:
        data: a dataset's folder; None takes the radiographs of the model's run.
        cohort, uncertain, balance: the cohort rule; None is the default, or for the run's radiographs the run's.
        images: so many at random, by the seed; None takes all.

    Raises UserError for values that cannot be.
    """

    data: Path | None = None
    source: str | None = None
    cohort: str | None = None
    uncertain: str | None = None
    balance: float | None = None
    images: int | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise UserError(f"--images must be 1 or more, got {self.images}")
        if self.source is not None and self.data is None:
            raise UserError("--source says what a folder holds: name the folder")

    def rule(self, settings: Mapping[str, Any]) -> CohortRule:
        """Return the rule that selects; ``settings`` are those of the run whose radiographs are taken, else empty."""
        seed = int(settings.get("seed", self.seed))
        given = {"rule": self.cohort, "uncertain": self.uncertain, "balance": self.balance}
        used = {"rule": "cohort", "uncertain": "uncertain", "balance": "balance"}
        usual = {name: settings[key] for name, key in used.items() if key in settings}
        return CohortRule(**{**usual, **{key: value for key, value in given.items() if value is not None}}, seed=seed)


@dataclass(frozen=True)
class EvaluationData:
    """Radiographs to score: where they are, what they are, and what is worth saying about them."""

    cache: PixelCache
    examples: Examples
    held_out: HeldOut
    root: Path
    synthetic: bool
    notes: tuple[str, ...]


def select_examples(
    saved: SavedModel, run: Path | None, options: EvaluationOptions, progress: Progress | None = None
) -> EvaluationData:
    """Read, select and decode the radiographs; leave out every patient whose images the model was trained on.

    ``run`` is the folder of the model's run, where there is one: it says which images those were. They are known
    by their content, so they are found in a copied or renamed dataset too. Raises UserError as the readers do,
    and when nothing is left.
    """
    settings = {} if options.data is not None or run is None else read_json(run / "config.json").get("settings", {})
    loaded = load_cohort(_folders(settings, options), options.rule(settings))
    result = build_cache(
        loaded.roots, loaded.cohort.table, saved.geometry, cache_folder() / "pixels", progress=progress
    )
    table, cache = result.table, result.cache
    notes = list(loaded.cohort.notes)
    if result.rejected:
        notes.append(f"{len(result.rejected):,} images cannot be used and are left out")
    keep = np.ones(len(table), bool)
    if run is not None:
        seen = _seen_in_training(run)
        if seen is None:
            notes.append("the run's pixel cache is gone: it cannot be told which images the model was trained on")
        else:
            keep = _unseen(table, cache, seen)
            if not keep.all():
                notes.append(f"{int((~keep).sum()):,} images are left out: the model was trained on those patients")
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise UserError("no image is left: the model was trained on every patient here; name other radiographs")
    if options.images is not None and options.images < len(rows):
        chosen = numpy_generator(options.seed, "evaluated images").permutation(len(rows))[: options.images]
        rows = rows[np.sort(chosen)]
    targets = table["target"].to_numpy(np.int64)
    _, patients = np.unique(patient_keys(table.iloc[rows]).to_numpy(str), return_inverse=True)
    return EvaluationData(
        cache,
        Examples(cache.pixels, cache.mean, cache.std, targets.astype(np.float32), rows),
        HeldOut(targets[rows], patients.astype(np.int64)),
        next(iter(loaded.roots.values())),
        loaded.synthetic,
        tuple(notes),
    )


def _folders(settings: Mapping[str, Any], options: EvaluationOptions) -> list[tuple[Path, str | None]]:
    if options.data is not None:
        return [(options.data, options.source)]
    if "phantom_images" not in settings:
        raise UserError("name the folder of the radiographs too: this model does not say where its run's are")
    if folders := settings.get("data"):
        sources = [*settings["source"], *[None] * (len(folders) - len(settings["source"]))]
        return [(Path(folder), source) for folder, source in zip(folders, sources, strict=True)]
    return [(phantom_folder(int(settings["phantom_images"])), "chexpert")]


def _seen_in_training(run: Path) -> set[str] | None:
    """Return the SHA-256 of every file the run trained on or chose its model by; None when it cannot be known."""
    config = read_json(run / "config.json")
    partition = run / "partition.csv"
    if not partition.is_file() or "cache" not in config:
        return None
    try:
        cache = open_cache(Path(config["cache"]))
    except UserError:
        return None
    if cache.key != config.get("cache_key"):
        return None
    rows = pd.read_csv(partition, usecols=["row", "split"])
    seen = rows.loc[rows["split"] != "test", "row"].to_numpy(np.int64)
    return set(cache.table["sha256"].to_numpy(str)[seen])


def _unseen(table: pd.DataFrame, cache: PixelCache, seen: set[str]) -> NDArray[np.bool_]:
    patients = patient_keys(table)
    known = cache.table["sha256"].isin(seen).to_numpy()
    return ~patients.isin(set(patients[known])).to_numpy()


@dataclass(frozen=True)
class Evaluation:
    """A model scored on a dataset: the figures as written to JSON, and what they came from; logits float64 [n]."""

    figures: dict[str, Any]
    path: Path
    saved: SavedModel
    data: EvaluationData
    logits: Floats


def evaluate_plain(path: Path, options: EvaluationOptions, progress: Progress | None = None) -> Evaluation:
    """Score a dataset in clear with the model of a run's folder or of a file. Raises UserError."""
    saved = load_model(path)
    device = choose_device(options.device)
    run = path if path.is_dir() else (path.parent if (path.parent / "config.json").is_file() else None)
    data = select_examples(saved, run, options, progress)
    logits = predict_logits(saved.network().to(device), data.examples, saved.recipe, device)
    if not np.isfinite(logits).all():
        raise UserError(f"{saved.path}: its scores are not finite; it is of no use")
    figures: dict[str, Any] = {
        "format": 1,
        "model_sha256": saved.sha256,
        "data": {
            "synthetic": data.synthetic,
            "images": len(data.examples),
            "positives": int(data.held_out.targets.sum()),
            "patients": len(np.unique(data.held_out.patients)),
            "notes": list(data.notes),
        },
        "plain": describe_scores(logits, saved.threshold, data.held_out, options.seed),
        "encrypted": None,
        "protocol": None,
        "dealer_checked": False,
    }
    return Evaluation(figures, run or path, saved, data, logits)


def evaluate_encrypted(
    plain: Evaluation,
    options: EvaluationOptions,
    batch: int | None = None,
    progress: Told | None = None,
    twice: bool = False,
) -> Evaluation:
    """Score the same images under encryption too, ``twice`` to check the dealer. Raises UserError when a role fails."""
    if batch is not None and not 1 <= batch <= MOST_IMAGES:
        raise UserError(f"--batch is a whole number from 1 to {MOST_IMAGES}, got {batch}")
    data, threshold = plain.data, plain.saved.threshold
    calibration = data.root if calibration_of_run(plain.saved, plain.path) is None else None
    logits, protocol = score_encrypted(
        plain.path,
        data.cache,
        data.examples,
        plain.logits,
        threshold,
        batch or BATCH,
        calibration,
        progress,
        twice=twice,
    )
    scores = describe_scores(logits, threshold, data.held_out, options.seed)
    return replace(plain, figures={**plain.figures, "encrypted": scores, "protocol": protocol, "dealer_checked": twice})
