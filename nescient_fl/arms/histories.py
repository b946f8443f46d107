"""The arms' histories on validation patients, one line a round, in the form that metrics.json has."""

from collections.abc import Mapping, Sequence
from typing import Any

from nescient_fl.arms.alone import AloneResult

History = list[dict[str, Any]]


def federated_history(lines: Sequence[Mapping[str, Any]], images: Mapping[str, int]) -> History:
    """Turn rounds.jsonl into a history; image passes add up what the sites that answered trained on.

    ``images`` are the training images of each site: a round's own count is of weights, which noise makes one each.
    """
    passes, history = 0, []
    for line in lines:
        passes += sum(images[name] for name in line.get("sites", ())) * line.get("local_epochs", 1)
        history.append(
            {
                "round": line["round"],
                "image_passes": passes,
                "loss": line["validation"]["loss"],
                "auroc": line["validation"]["auroc"],
                "recall": line["validation"]["recall"],
            }
        )
    return history


def alone_history(results: Sequence[AloneResult]) -> History:
    """Join the histories of one arm's models, each on its own validation patients.

    Loss is the mean over images and recall over positives; AUROC, which does not add up across models, the
    mean over models weighted by images. Image passes add up.
    """
    return [_joined(lines) for lines in zip(*(result.history for result in results), strict=True)]


def _joined(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "round": lines[0]["round"],
        "image_passes": sum(line["image_passes"] for line in lines),
        "loss": _mean(lines, "loss", "images"),
        "auroc": _mean(lines, "auroc", "images"),
        "recall": _mean(lines, "recall", "positives"),
    }


def _mean(lines: Sequence[Mapping[str, Any]], name: str, weight: str) -> float | None:
    known = [line for line in lines if line[name] is not None]
    total = sum(line[weight] for line in known)
    return float(sum(line[name] * line[weight] for line in known) / total) if total else None
