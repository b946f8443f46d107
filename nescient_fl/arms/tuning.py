"""A model's last layer tuned on a site's labelled radiographs, in clear or under encryption, and what that gained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.arms.evaluation import EvaluationData, EvaluationOptions, select_examples
from nescient_fl.arms.scoring import describe_scores
from nescient_fl.errors import UserError
from nescient_fl.lesion.metrics import Floats, HeldOut
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.lesion.training import predict_logits
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.tuning import FEWEST_IMAGES, LARGEST_LOGIT, MOST_IMAGES, TuningPlan, tune_in_clear
from nescient_fl.seeds import numpy_generator
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.plans import calibration_of_run
from nescient_fl.serving.tuning import embeddings, last_layer, safe_rate, tune_locally, with_last_layer

HELD_OUT_SHARE = 0.3


@dataclass(frozen=True)
class TuningOptions:
    """How a last layer is tuned; ``rate`` None takes what is safe for the features of the model's own radiographs."""

    steps: int = 60
    rate: float | None = None
    decay: float = 0.01
    encrypted: bool = False


def tune_model(
    path: Path,
    options: EvaluationOptions,
    tuning: TuningOptions,
    out: Path,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Tune the model of a run's folder or a file on a site's radiographs, and write the tuned model.

    Three tenths of the site's patients are held out. Returns their figures before and after, as JSON. Raises
    UserError for what cannot be.
    """
    if out.exists() or not out.parent.is_dir():
        raise UserError(f"--out {out}: name a new file in a folder that is there")
    saved = load_model(path)
    run = path if path.is_dir() else None
    data = select_examples(saved, run, options)
    chosen = _held_out(data, options.seed)
    rows = data.examples.rows[~chosen]
    if not FEWEST_IMAGES <= len(rows) <= MOST_IMAGES or not chosen.any():
        raise UserError(
            f"tuning takes from {FEWEST_IMAGES} to {MOST_IMAGES:,} radiographs beside those that are held out, "
            f"and there are {len(rows):,}: see --images"
        )
    labels = data.examples.targets[rows].astype(np.float64)
    if len(np.unique(labels)) < 2:
        raise UserError("tuning takes radiographs with a lesion and without one")
    rate = tuning.rate or _owners_rate(saved, path, tuning.encrypted)
    tuned = with_last_layer(saved.weights, _tune(saved, data, rows, labels, tuning, rate, say))
    after = replace(saved, weights=tuned, sha256=weights_sha256(tuned))
    save_model(out, after)
    known = HeldOut(data.held_out.targets[chosen], data.held_out.patients[chosen])
    return {
        "format": 1,
        "encrypted": tuning.encrypted,
        "images": len(rows),
        "held_out": int(chosen.sum()),
        "synthetic": data.synthetic,
        "steps": tuning.steps,
        "rate": rate,
        "before": _scores(saved, data, chosen, known, options.seed),
        "after": _scores(after, data, chosen, known, options.seed),
        "model_sha256": after.sha256,
    }


def _tune(
    saved: SavedModel,
    data: EvaluationData,
    rows: NDArray[np.int64],
    labels: Floats,
    tuning: TuningOptions,
    rate: float,
    say: Callable[[str], None] | None,
) -> Floats:
    weights = last_layer(saved.weights)
    try:
        plan = TuningPlan(len(rows), len(weights), tuning.steps, rate, tuning.decay)
    except MpcError as error:
        raise UserError(str(error)) from None
    if tuning.encrypted:
        return tune_locally(saved, data.cache, rows, labels, tuning.steps, rate, tuning.decay, say)
    features = embeddings(saved.network(), cached_inputs(data.cache, rows, saved.recipe.standardise))
    return tune_in_clear(plan, features, labels, weights, exact=True)


def _owners_rate(saved: SavedModel, path: Path, encrypted: bool) -> float:
    """Return a safe rate by the radiographs that the owner trained on; the clinic's have no part in it.

    Raises UserError when they are gone, or when their logits are larger than encrypted tuning's sigmoid allows.
    """
    inputs = calibration_of_run(saved, path) if path.is_dir() else None
    if inputs is None:
        raise UserError("--rate is missing: the radiographs that this model was trained on, which tell it, are gone")
    features = embeddings(saved.network(), inputs)
    largest = float(np.abs(features @ last_layer(saved.weights)).max())
    if encrypted and largest > LARGEST_LOGIT:
        raise UserError(
            f"this model's logits reach {largest:.0f}, and encrypted tuning holds up to {LARGEST_LOGIT:.0f}: tune in "
            "clear, or train it for fewer rounds"
        )
    return safe_rate(features)


def _held_out(data: EvaluationData, seed: int) -> NDArray[np.bool_]:
    """Choose three tenths of the patients. Returns bool [n], of the examples."""
    patients = np.unique(data.held_out.patients)
    count = round(HELD_OUT_SHARE * len(patients))
    chosen = numpy_generator(seed, "held out of tuning").permutation(patients)[:count]
    return np.isin(data.held_out.patients, chosen)


def _scores(
    saved: SavedModel, data: EvaluationData, chosen: NDArray[np.bool_], known: HeldOut, seed: int
) -> dict[str, Any]:
    examples = replace(data.examples, rows=data.examples.rows[chosen])
    logits = predict_logits(saved.network(), examples, saved.recipe, torch.device("cpu"))
    loss = float(np.logaddexp(0, np.where(known.targets == 1, -logits, logits)).mean())
    return {"loss": loss, **describe_scores(logits, saved.threshold, known, seed)}
