"""What encryption costs: held-out radiographs scored under it, beside the same model in clear."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.curves import sigmoid
from nescient_fl.lesion.metrics import Floats
from nescient_fl.mpc.inference.owners import SET_UP
from nescient_fl.radiographs.cache import PixelCache
from nescient_fl.serving.local import LocalScores, score_locally

BATCH = 8


def score_encrypted(
    model: Path,
    cache: PixelCache,
    examples: Examples,
    plain: Floats,
    threshold: float | None,
    batch: int = BATCH,
    calibration: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Floats, dict[str, Any]]:
    """Score examples of a cache under encryption, three roles in three processes.

    ``plain`` are the same model's logits of the same examples in clear, float64 [n]. Returns the logits and what
    there is to say of them and of the protocol, as docs/design.md has it. Raises UserError when a role fails.
    """
    found = score_locally(model, cache, examples.rows, batch, calibration, say)
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
                "bytes_per_image": round((count["bytes_sent"] + count["bytes_received"]) / images),
                "seconds_per_image": round(count["seconds"] / images, 6),
                "waiting_per_image": round(count["waiting"] / images, 6),
            }
            for name, count in online.items()
        ],
    }
