"""What encryption costs: held-out radiographs scored under it, beside the same model in clear."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nescient_fl.arms.data import StudyData
from nescient_fl.arms.scoring import describe_scores
from nescient_fl.arms.watching import StudyWatcher
from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.curves import sigmoid
from nescient_fl.lesion.metrics import Floats, HeldOut
from nescient_fl.lesion.training import predict_logits
from nescient_fl.mpc.inference.owners import SET_UP
from nescient_fl.radiographs.cache import PixelCache
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.seeds import numpy_generator
from nescient_fl.serving.clinic import Told
from nescient_fl.serving.local import LocalScores, score_locally
from nescient_fl.serving.model import load_model
from nescient_fl.study.run_folder import RunFolder
from nescient_fl.study.settings import StudySettings

BATCH = 8


def describe_encrypted(
    settings: StudySettings, data: StudyData, run: RunFolder, watcher: StudyWatcher, tick: Callable[[], None]
) -> dict[str, Any] | None:
    """Return the ``encrypted`` part of metrics.json: held-out images scored both ways by the run's saved model.

    None when the study asks for none, or a role failed, which the watcher is told; a study is not lost by that.
    ``tick`` is called while the roles work, and may raise to end them.
    """
    if not settings.encrypted_images:
        return None
    saved = load_model(run.model)
    if saved.recipe.network.activation != "relu":
        watcher.left_out(f"encrypted inference: it computes ReLU, and this network has {settings.activation}")
        return None
    held_out = data.examples("test")
    rows = held_out.rows
    if settings.encrypted_images < len(rows):
        chosen = numpy_generator(settings.seed, "encrypted images").permutation(len(rows))
        rows = rows[np.sort(chosen[: settings.encrypted_images])]
    examples = replace(held_out, rows=rows)
    plain = predict_logits(saved.network(), examples, saved.recipe, torch.device("cpu"))
    watcher.encrypting(len(rows))
    try:
        logits, found = score_encrypted(
            run.path, data.cache, examples, plain, saved.threshold, progress=watcher.preparing, tick=tick
        )
    except UserError as error:
        watcher.left_out(f"encrypted inference: {error}")
        return None
    table = data.table.iloc[rows]
    _, patients = np.unique(patient_keys(table).to_numpy(str), return_inverse=True)
    known = HeldOut(table["target"].to_numpy(np.int64), patients.astype(np.int64))
    both = {"plain": plain, "encrypted": logits}
    scores = {way: describe_scores(values, saved.threshold, known, settings.seed) for way, values in both.items()}
    return {**found, **scores}


def score_encrypted(
    model: Path,
    cache: PixelCache,
    examples: Examples,
    plain: Floats,
    threshold: float | None,
    batch: int = BATCH,
    calibration: Path | None = None,
    progress: Told | None = None,
    tick: Callable[[], None] | None = None,
    twice: bool = False,
) -> tuple[Floats, dict[str, Any]]:
    """Score examples of a cache under encryption, three roles in three processes.

    ``plain`` are the same model's logits of the same examples in clear, float64 [n]. Returns the logits and what
    there is to say of them and of the protocol, as docs/design.md has it. Raises UserError when a role fails.
    """
    found = score_locally(model, cache, examples.rows, batch, calibration, progress, tick, twice)
    return found.logits, {**_compare(found.logits, plain, threshold), **_cost(found, batch)}


def _compare(logits: Floats, plain: Floats, threshold: float | None) -> dict[str, Any]:
    error = np.abs(logits - plain)
    at = 0.5 if threshold is None else threshold
    same = (sigmoid(logits) >= at) == (sigmoid(plain) >= at)
    return {
        "images": len(logits),
        "agreement": float(same.mean()),
        "flipped": int((~same).sum()),
        "max_abs_logit_error": float(error.max()),
        "mean_abs_logit_error": float(error.mean()),
    }


def _cost(found: LocalScores, batch: int) -> dict[str, Any]:
    images = len(found.logits)
    online = {name: count for name, count in found.layers.items() if name != SET_UP}
    seconds = sum(count["seconds"] for count in online.values())
    sent = sum(count["bytes_sent"] for count in online.values())
    received = sum(count["bytes_received"] for count in online.values())
    set_up = found.layers[SET_UP]
    return {
        "batch": batch,
        "seconds_per_image": round(seconds / images, 6),
        "rounds": round(sum(count["rounds"] for count in online.values()) / found.batches),
        "bytes_per_party": round(max(sent, received) / images),
        "stock_ratio": None,
        "set_up": {
            "seconds": round(set_up["seconds"], 3),
            "bytes": int(set_up["bytes_sent"] + set_up["bytes_received"]),
        },
        "offline": {
            "seconds_per_image": round(found.offline_seconds / images, 6),
            "bytes_per_image": round(found.offline_bytes / images),
        },
        "peak_memory": found.peak_memory,
        "by_layer": [
            {
                "layer": name,
                "rounds": round(count["rounds"] / found.batches),
                "bytes_sent_per_image": round(count["bytes_sent"] / images),
                "bytes_received_per_image": round(count["bytes_received"] / images),
                "seconds_per_image": round(count["seconds"] / images, 6),
                "waiting_per_image": round(count["waiting"] / images, 6),
            }
            for name, count in online.items()
        ],
    }
