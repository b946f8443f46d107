"""A model's last layers tuned on a site's labelled radiographs, in clear or under encryption, and what that gained."""

from collections.abc import Callable, Mapping
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
from nescient_fl.lesion.training import predict_logits
from nescient_fl.mpc.roster import CLINIC
from nescient_fl.mpc.tuning.owners import check_result
from nescient_fl.mpc.tuning.plain import tune_in_clear
from nescient_fl.mpc.tuning.plan import FEWEST_IMAGES, MOST_IMAGES
from nescient_fl.seeds import numpy_generator
from nescient_fl.serving.layers import check_tunable, embeddings, with_layers_tuned
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.local_tuning import features_of, tune_locally
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.offer import DEFAULT_DECAY, DEFAULT_STEPS, check_out, make_offer
from nescient_fl.serving.scoring import chosen_owner
from nescient_fl.serving.settings import open_member, refusals
from nescient_fl.serving.tuning import TuningOffer, give_to_tuning, steps_told

HELD_OUT_SHARE = 0.3
Say = Callable[[str], None]


@dataclass(frozen=True)
class TuningOptions:
    """How the last ``layers`` are tuned; ``rate`` None takes what is safe for the model's own radiographs."""

    steps: int = DEFAULT_STEPS
    rate: float | None = None
    decay: float = DEFAULT_DECAY
    layers: int = 2
    encrypted: bool = False


def tune_model(
    path: Path, options: EvaluationOptions, tuning: TuningOptions, out: Path, say: Say | None = None
) -> dict[str, Any]:
    """Tune the model of a run's folder or a file on a site's radiographs, and write the tuned model.

    Three tenths of the site's patients are held out. Returns their figures before and after, as JSON. Raises
    UserError for what cannot be.
    """
    check_out(out)
    saved = load_model(path)
    check_tunable(saved, tuning.layers)
    how = {"steps": tuning.steps, "rate": tuning.rate, "decay": tuning.decay}
    offer = make_offer(saved, path, tuning.layers, how)
    data = select_examples(saved, path if path.is_dir() else None, options)
    chosen = _held_out(data, options.seed)
    if not chosen.any():
        raise UserError("no patient is held out: there are too few here")
    rows = data.examples.rows[~chosen]
    labels = _labels(data, rows, "beside those that are held out, ")
    tuned, cost = _tune(saved, path, data, rows, labels, tuning, offer, say or (lambda _: None))
    after = with_layers_tuned(saved, tuned)
    save_model(out, after)
    known = HeldOut(data.held_out.targets[chosen], data.held_out.patients[chosen])
    return {
        "format": 2,
        "encrypted": tuning.encrypted,
        "images": len(rows),
        "held_out": int(chosen.sum()),
        "synthetic": data.synthetic,
        "layers": tuning.layers,
        "steps": tuning.steps,
        "rate": offer.rate,
        "before": _scores(saved, data, chosen, known, options.seed),
        "after": _scores(after, data, chosen, known, options.seed),
        "model_sha256": after.sha256,
        "protocol": cost,
    }


def give_radiographs(
    frozen: Path, options: EvaluationOptions, member: Mapping[str, Any], say: Say
) -> tuple[int, int, str]:
    """Have an owner tune its model on all of a clinic's radiographs, under encryption.

    ``frozen`` is the file of the frozen layers; ``member``: keys, roster, authority, owner. Returns how many
    radiographs and steps there were, and the owner's name; the clinic learns no more. Raises UserError.
    """
    saved = load_model(frozen)
    keys, roster, _ = open_member(member, CLINIC)
    owner = chosen_owner(roster, member.get("owner"))
    data = select_examples(saved, None, options)
    rows = data.examples.rows
    labels = _labels(data, rows, "")
    say(f"reading {len(rows):,} radiographs")
    features = features_of(saved, cached_inputs(data.cache, rows, saved.recipe.standardise))
    with refusals():
        steps = give_to_tuning(keys, roster, owner, len(rows), features, labels, say)
    return len(rows), steps, owner


def _labels(data: EvaluationData, rows: NDArray[np.int64], beside: str) -> Floats:
    """Return the labels of rows. Raises UserError when one cannot tune on them."""
    if not FEWEST_IMAGES <= len(rows) <= MOST_IMAGES:
        raise UserError(
            f"tuning takes from {FEWEST_IMAGES} to {MOST_IMAGES:,} radiographs {beside}and there are {len(rows):,}: "
            "see --images"
        )
    labels = data.examples.targets[rows].astype(np.float64)
    if len(np.unique(labels)) < 2:
        raise UserError("tuning takes radiographs with a lesion and without one")
    return labels


def _tune(
    saved: SavedModel,
    path: Path,
    data: EvaluationData,
    rows: NDArray[np.int64],
    labels: Floats,
    tuning: TuningOptions,
    offer: TuningOffer,
    say: Say,
) -> tuple[list[Floats], dict[str, Any] | None]:
    with refusals():
        plan = offer.plan(len(rows))
        if tuning.encrypted:
            options = {"layers": tuning.layers, "steps": offer.steps, "rate": offer.rate, "decay": offer.decay}
            return tune_locally(path, data.cache, rows, labels, options, say)
        inputs = cached_inputs(data.cache, rows, saved.recipe.standardise)
        features = embeddings(saved.network(), inputs)[tuning.layers]
        tuned = tune_in_clear(plan, features, labels, offer.weights, steps_told(say, plan.steps))
        check_result(tuned)
        return tuned, None


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
