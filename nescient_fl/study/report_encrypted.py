"""The report's section on encrypted inference: what it changed, what it cost, and who learned what."""

from collections.abc import Mapping
from typing import Any

from nescient_fl.study.report_tables import Cell, Table
from nescient_fl.study.report_values import MISSING, count, figure, fixed, number, read_interval, real, section, size

_SCORES = (
    ("half", "recall", "Recall at threshold 0.5"),
    ("half", "precision", "Precision at threshold 0.5"),
    ("operating_point", "recall", "Recall at the operating point"),
    ("operating_point", "precision", "Precision at the operating point"),
    ("half", "auroc", "AUROC"),
)
_ROLES = {"clinic": "the clinic", "owner": "the model's owner", "dealer": "the dealer"}


def encrypted_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Say in words what happened; nothing where encryption was not part of the run."""
    found = section(metrics, "encrypted")
    if not found:
        return []
    images, flipped = count(found.get("images")), real(found.get("flipped"))
    same = (
        "Every decision was the same as in clear"
        if flipped == 0
        else f"{count(flipped)} decisions were not as in clear"
    )
    return [
        f"The federated model scored {images} held-out radiographs that its owner never saw. Whoever asks (a clinic) "
        "sends its radiograph hidden under random numbers, the owner computes with weights that stay hidden too, and "
        "only the clinic learns the score. A third computer, the dealer, hands out the random numbers beforehand and "
        "sees neither.",
        f"{same}. A score before the sigmoid differed by {_small(found.get('max_abs_logit_error'))} at most: "
        "fixed-point arithmetic rounds, and that is all that encryption changed.",
        f"One radiograph took {_seconds(found.get('seconds_per_image'))} in batches of {count(found.get('batch'))}, "
        "all three computers being this machine; what must be made beforehand took "
        f"{_seconds(section(found, 'offline').get('seconds_per_image'))} more.",
    ]


def encrypted_scores(metrics: Mapping[str, Any]) -> Table | None:
    """Return the figures both ways."""
    found = section(metrics, "encrypted")
    if not found:
        return None
    rows: list[list[Cell]] = []
    for point, metric, words in _SCORES:
        both = [section(found, way, point).get(metric) for way in ("plain", "encrypted")]
        if any(both):
            rows.append([words, *(figure(read_interval(value)) for value in both)])
    return Table("The same radiographs, both ways", ["", "in clear", "encrypted"], rows)


def encrypted_cost(metrics: Mapping[str, Any]) -> Table | None:
    """Return what it took."""
    found = section(metrics, "encrypted")
    if not found:
        return None
    offline, memory = section(found, "offline"), section(found, "peak_memory")
    rows = [
        ["Radiographs", count(found.get("images"))],
        ["Decisions as in clear", _share(found.get("agreement"))],
        ["Largest difference of a logit", _small(found.get("max_abs_logit_error"))],
        ["Mean difference of a logit", _small(found.get("mean_abs_logit_error"))],
        ["Time an image", _seconds(found.get("seconds_per_image"))],
        ["Rounds of messages a batch", number(found.get("rounds"))],
        ["Sent by either side an image", size(found.get("bytes_per_party"))],
        ["Beforehand: time an image", _seconds(offline.get("seconds_per_image"))],
        ["Beforehand: bytes an image", size(offline.get("bytes_per_image"))],
        *([f"Most memory of {_ROLES.get(role, role)}", size(value)] for role, value in memory.items()),
    ]
    if real(found.get("stock_ratio")) is not None:
        rows.append(["Times quicker than CrypTen as it comes", number(found.get("stock_ratio"), 1)])
    return Table("What encryption cost", ["What", "Value"], rows)


def _seconds(value: object) -> str:
    seconds = real(value)
    return MISSING if seconds is None else f"{fixed(seconds, 2 if seconds >= 0.1 else 3)} s"


def _small(value: object) -> str:
    known = real(value)
    return MISSING if known is None else f"{known:.1e}"


def _share(value: object) -> str:
    known = real(value)
    return MISSING if known is None else f"{100 * known:.4g}%"
