"""Build a fabricated run folder: invented scores, every figure then computed from them, so all agree."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Json = dict[str, Any]
TARGET_RECALL = 0.9
SKILL = {"federated": 1.55, "pooled": 1.7, "local": 0.9}


@dataclass(frozen=True)
class SampleRun:
    """What to fabricate. ``skill`` is the distance between the two classes' mean logits, by arm."""

    sites: int = 5
    images: int = 1200
    rounds: int = 12
    seed: int = 7
    names: Sequence[str] = ()
    arms: Sequence[str] = ("federated", "pooled", "local")
    synthetic: bool = True
    intervals: bool = True
    test_positives: bool = True
    encrypted: bool = False
    skill: dict[str, float] = field(default_factory=lambda: dict(SKILL))


def write_sample_run(run: Path, sample: SampleRun | None = None) -> Path:
    """Write a whole run folder and return it."""
    sample = sample or SampleRun()
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sample.seed)
    names = list(sample.names) or [f"site-{index + 1}" for index in range(sample.sites)]
    cohort, partition = _tables(sample, names, rng)
    metrics = _metrics(sample, names, cohort, partition, rng)
    cohort.to_csv(run / "cohort.csv", index=False)
    partition.to_csv(run / "partition.csv", index=False)
    (run / "metrics.json").write_text(json.dumps(metrics, indent=1))
    (run / "config.json").write_text(json.dumps(_config(sample, names), indent=1))
    lines = _round_lines(names, metrics, rng)
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def edit_metrics(run: Path, **sections: Any) -> None:
    """Replace whole sections of a run's metrics."""
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | sections))


def _tables(sample: SampleRun, names: list[str], rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    count = sample.images
    patient = np.sort(rng.integers(0, max(2, count // 3), count))
    patients = int(patient.max()) + 1
    weights = rng.dirichlet(np.full(len(names), 2.0)) * 0.7 + 0.3 / len(names)
    site_of = rng.choice(len(names), patients, p=weights / weights.sum())
    split_of = rng.choice(["train", "validation", "test"], patients, p=[0.7, 0.1, 0.2])
    sick = rng.random(patients) < 0.5
    if not sample.test_positives:
        sick[split_of == "test"] = False
    target = (sick[patient] & (rng.random(count) < 0.95)).astype(int)
    view = np.where(rng.random(count) < np.where(target == 1, 0.6, 0.8), "AP", "PA")
    cohort = pd.DataFrame(
        {
            "image": [f"train/patient{p:05d}/study1/view{row}_frontal.jpg" for row, p in enumerate(patient)],
            "patient": [f"patient{p:05d}" for p in patient],
            "study": "study1",
            "view": view,
            "sex": rng.choice(["F", "M"], count),
            "age": rng.integers(18, 90, count),
            "devices": rng.random(count) < 0.4,
            "label": np.where(target == 1, "positive", "unmentioned"),
            "source": "phantom" if sample.synthetic else "chexpert",
            "target": target,
        }
    )
    partition = pd.DataFrame(
        {
            "image": cohort["image"],
            "patient": cohort["patient"],
            "site": np.asarray(names, dtype=object)[site_of[patient]],
            "split": split_of[patient],
            "row": np.arange(count),
        }
    )
    return cohort, partition


def _scores(target: np.ndarray, skill: float, rng: np.random.Generator) -> np.ndarray:
    logits = rng.normal(0, 1, len(target)) + skill * (target - 0.5)
    return np.asarray(1 / (1 + np.exp(-1.3 * logits)))


def _auroc(target: np.ndarray, scores: np.ndarray) -> float | None:
    positives, negatives = int(target.sum()), int((1 - target).sum())
    if positives == 0 or negatives == 0:
        return None
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    return float((ranks[target == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _counts(target: np.ndarray, scores: np.ndarray, threshold: float) -> Json:
    alarm = scores >= threshold
    return {
        "tp": int((alarm & (target == 1)).sum()),
        "fp": int((alarm & (target == 0)).sum()),
        "tn": int((~alarm & (target == 0)).sum()),
        "fn": int((~alarm & (target == 1)).sum()),
    }


def _ratio(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def _point(target: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float | None]:
    counts = _counts(target, scores, threshold)
    tp, fp, tn, fn = (counts[key] for key in ("tp", "fp", "tn", "fn"))
    return {
        "recall": _ratio(tp, tp + fn),
        "precision": _ratio(tp, tp + fp),
        "specificity": _ratio(tn, tn + fp),
        "accuracy": _ratio(tp + tn, len(target)),
    }


def _all(target: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float | None]:
    recall, precision = _pr(target, scores)
    auprc = float(np.sum(np.diff(recall, prepend=0.0) * precision)) if target.sum() else None
    error = abs(float(scores.mean() - target.mean())) if len(target) else None
    return _point(target, scores, threshold) | {
        "auroc": _auroc(target, scores),
        "auprc": auprc,
        "brier": float(np.mean((scores - target) ** 2)) if len(target) else None,
        "calibration_error": error,
    }


def _roc(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores)
    hits = np.concatenate([[0], np.cumsum(target[order])])
    misses = np.concatenate([[0], np.cumsum(1 - target[order])])
    return misses / max(1, misses[-1]), hits / max(1, hits[-1])


def _pr(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores)
    hits = np.cumsum(target[order])
    return hits / max(1, int(target.sum())), hits / np.arange(1, len(target) + 1)


def _intervals(
    target: np.ndarray, scores: np.ndarray, threshold: float, keys: Sequence[str], sample: SampleRun
) -> Json:
    """Score once, then over 30 resamples of the images for the interval."""
    values = _all(target, scores, threshold)
    rng = np.random.default_rng(sample.seed)
    draws: list[dict[str, float | None]] = []
    if sample.intervals and len(target) > 3:
        for _ in range(30):
            pick = rng.integers(0, len(target), len(target))
            draws.append(_all(target[pick], scores[pick], threshold))
    found: Json = {}
    for key in keys:
        known = [draw[key] for draw in draws if draw[key] is not None]
        ends = np.quantile(np.array(known, dtype=float), [0.025, 0.975]) if known else (None, None)
        undefined = values[key] is None or ends[0] is None
        found[key] = {
            "value": values[key],
            "low": None if undefined else float(ends[0] or 0.0),
            "high": None if undefined else float(ends[1] or 0.0),
        }
    return found


POINT_KEYS = ("recall", "precision", "specificity", "accuracy")
ALL_KEYS = (*POINT_KEYS, "auroc", "auprc", "brier", "calibration_error")


def _operating(target: np.ndarray, scores: np.ndarray, threshold: float | None, sample: SampleRun) -> Json:
    if threshold is None:
        none = {"value": None, "low": None, "high": None}
        return {"threshold": None, "validation_recall": None} | dict.fromkeys(POINT_KEYS, none)
    return {
        "threshold": threshold,
        "validation_recall": 0.91,
        **_intervals(target, scores, threshold, POINT_KEYS, sample),
    }


def _threshold(target: np.ndarray, scores: np.ndarray) -> float | None:
    return float(np.quantile(scores[target == 1], 1 - TARGET_RECALL)) if target.sum() else None


def _arm(
    name: str,
    sample: SampleRun,
    names: list[str],
    target: np.ndarray,
    site: np.ndarray,
    test: np.ndarray,
    validation: np.ndarray,
    rng: np.random.Generator,
) -> Json:
    """Fabricate one arm: one model, or one a site for the local arm."""
    models = names if name == "local" else [name]
    scores = [_scores(target, sample.skill[name] * rng.uniform(0.9, 1.1), rng) for _ in models]
    thresholds = [_threshold(target[validation], each[validation]) for each in scores]
    tests = [_intervals(target[test], each[test], 0.5, ALL_KEYS, sample) for each in scores]
    points = [_operating(target[test], each[test], t, sample) for each, t in zip(scores, thresholds, strict=True)]
    halves = [_counts(target[test], each[test], 0.5) for each in scores]
    opened = [_counts(target[test], each[test], t) for each, t in zip(scores, thresholds, strict=True) if t is not None]
    rocs = [_roc(target[test], each[test]) for each in scores]
    prs = [_pr(target[test], each[test]) for each in scores]
    rows = []
    for index, owner in enumerate(names):
        which = index if name == "local" else 0
        mine = test & (site == owner)
        rows.append(
            {
                "site": owner,
                "images": int(mine.sum()),
                "positives": int(target[mine].sum()),
                "test": _intervals(target[mine], scores[which][mine], 0.5, ALL_KEYS, sample),
                "operating_point": _operating(target[mine], scores[which][mine], thresholds[which], sample),
            }
        )
    half, point = _mean(tests), _mean(points)
    if name == "local" and len(models) > 1:
        point["threshold"] = None
    return {
        "test": half,
        "operating_point": point,
        "confusion": {"half": _mean(halves), "operating_point": _mean(opened) if opened else None},
        "curves": {
            "roc": [
                {"label": label, "x": x.tolist(), "y": y.tolist()} for label, (x, y) in zip(models, rocs, strict=True)
            ],
            "pr": [
                {"label": label, "x": x.tolist(), "y": y.tolist()} for label, (x, y) in zip(models, prs, strict=True)
            ],
            "calibration": _calibration(target[test], scores[0][test]),
        },
        "history": _history(sample, half, rng),
        "image_passes": 672 * sample.rounds,
        "seconds": 61.5,
        "sites": rows,
    }


def _mean(items: list[Json]) -> Json:
    """Average nested figures; what any of them lacks is null."""
    merged: Json = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, dict):
            merged[key] = _mean(values)
        else:
            merged[key] = None if any(value is None for value in values) else sum(values) / len(values)
    return merged


def _calibration(target: np.ndarray, scores: np.ndarray) -> list[Json]:
    rows = []
    for low in np.arange(0, 1, 0.1):
        inside = (scores >= low) & (scores < low + 0.1)
        if inside.any():
            rows.append(
                {
                    "mean_score": float(scores[inside].mean()),
                    "observed": float(target[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return rows


def _history(sample: SampleRun, final: Json, rng: np.random.Generator) -> list[Json]:
    rows = []
    for step in range(1, sample.rounds + 1):
        progress = 1 - np.exp(-3.0 * step / sample.rounds)
        recall, auroc = final["recall"]["value"], final["auroc"]["value"]
        wobble = float(rng.normal(0, 0.015))
        rows.append(
            {
                "round": step,
                "image_passes": 672 * step,
                "loss": 0.7 - 0.25 * progress,
                "auroc": None if auroc is None else min(1.0, 0.5 + (auroc - 0.5) * progress + wobble),
                "recall": None if recall is None else min(1.0, max(0.0, recall * progress + wobble)),
            }
        )
    return rows


def encrypted_part() -> Json:
    """Return what a study says of encrypted inference."""
    value = {"value": 0.9, "low": 0.84, "high": 0.95}
    rates = dict.fromkeys(("recall", "precision", "specificity", "accuracy"), value)
    half = rates | dict.fromkeys(("auroc", "auprc", "brier", "calibration_error"), value)
    both = {"half": half, "operating_point": {"threshold": 0.36, **rates}}
    layers = (
        ("convolution (Conv2d)", 1, 585_000, 0, 0.02, 0.003),
        ("pool (MaxPool2d)", 24, 737_000, 737_000, 0.025, 0.013),
        ("activation (ReLU)", 4, 14_000, 14_000, 0.001, 0.0008),
        ("dense1 (Linear)", 1, 7_800, 0, 0.0004, 0.0003),
        ("logits", 1, 0, 8, 0.0001, 0.0001),
    )
    return {
        **{"images": 128, "batch": 8, "agreement": 1.0, "flipped": 0},
        **{"max_abs_logit_error": 2.4e-4, "mean_abs_logit_error": 6.1e-5},
        **{"plain": both, "encrypted": both},
        **{"seconds_per_image": 0.047, "rounds": 41, "bytes_per_party": 1_346_448, "stock_ratio": None},
        "set_up": {"seconds": 0.3, "bytes": 516_332},
        "offline": {"seconds_per_image": 0.04, "bytes_per_image": 2_775_000},
        "peak_memory": {"clinic": 784_000_000, "owner": 805_000_000, "dealer": 784_000_000},
        "by_layer": [
            {
                "layer": name,
                "rounds": rounds,
                "bytes_sent_per_image": sent,
                "bytes_received_per_image": received,
                "seconds_per_image": seconds,
                "waiting_per_image": waiting,
            }
            for name, rounds, sent, received, seconds, waiting in layers
        ],
    }


def _metrics(
    sample: SampleRun,
    names: list[str],
    cohort: pd.DataFrame,
    partition: pd.DataFrame,
    rng: np.random.Generator,
) -> Json:
    target = cohort["target"].to_numpy()
    site, split = partition["site"].to_numpy(), partition["split"].to_numpy()
    test, validation = split == "test", split == "validation"
    arms: Json = {"federated": None, "pooled": None, "local": None}
    for name in sample.arms:
        arms[name] = _arm(name, sample, names, target, site, test, validation, rng)
    return {
        "format": 1,
        "data": {
            "source": "phantom" if sample.synthetic else "chexpert",
            "synthetic": sample.synthetic,
            "images": len(cohort),
            "patients": int(cohort["patient"].nunique()),
            "positives": int(target.sum()),
            "test_images": int(test.sum()),
            "test_patients": int(cohort.loc[test, "patient"].nunique()),
            "test_positives": int(target[test].sum()),
            "cohort": "corrected",
            "uncertain": "exclude",
            "partition": "dirichlet",
            "geometry": "upright",
            "rejected": 0 if sample.synthetic else 1,
        },
        "seed": sample.seed,
        "target_recall": TARGET_RECALL,
        "arms": arms,
        "federation": _federation(sample, names, partition) if arms["federated"] else None,
        "secure": None,
        "encrypted": encrypted_part() if sample.encrypted else None,
        "timing": {
            "data": 41.2,
            "federated": 61.5 if arms["federated"] else None,
            "pooled": 55.0 if arms["pooled"] else None,
            "local": 58.3 if arms["local"] else None,
            "scoring": 3.4,
            "total": 222.0,
            "first_round": 9.7,
        },
        "machine": {
            "platform": "Linux x86_64",
            "cpus": 2,
            "device": "cpu",
            "python": "3.11.9",
            "torch": "2.14.1",
        },
    }


def _federation(sample: SampleRun, names: list[str], partition: pd.DataFrame) -> Json:
    sites = [
        {
            "name": name,
            "images": int((partition["site"] == name).sum()),
            "patients": int(partition.loc[partition["site"] == name, "patient"].nunique()),
            "rounds_answered": sample.rounds - (index == 1),
            "failures": [{"round": 4, "reason": "no answer within 60 s"}] if index == 1 else [],
        }
        for index, name in enumerate(names)
    ]
    return {
        "clients": len(names),
        "rounds": sample.rounds,
        "local_epochs": 1,
        "engine": "ray",
        "aggregation": "plain",
        "model_sha256": "3f" * 32,
        "best_round": sample.rounds - 1,
        "best_model_sha256": "a7" * 32,
        "seconds": 61.5,
        "seconds_per_round": 5.1,
        "bytes_down_per_site_round": 412_345,
        "bytes_up_per_site_round": 415_020,
        "sites": sites,
    }


def _config(sample: SampleRun, names: list[str]) -> Json:
    settings: Json = {
        "clients": len(names),
        "rounds": sample.rounds,
        "local_epochs": 1,
        "partition": "dirichlet",
        "alpha": 0.5,
        "recipe": "default",
        "seed": sample.seed,
        "data": [] if sample.synthetic else ["/data/CheXpert-v1.0-small"],
        "device": "auto",
        "baselines": "pooled" in sample.arms,
    }
    rejected = [] if sample.synthetic else [{"image": "train/p1.jpg", "reason": "truncated"}]
    return {
        **settings,
        "settings": settings,
        "sites": names,
        "data_notes": {
            "rows_read": 2400,
            "dropped": {"lateral view": 120, "uncertain": 14},
            "rejected": rejected,
            "notes": ["Fewer negated images than asked for."],
        },
        "versions": {"nescient_fl": "0.1.0", "torch": "2.14.1", "flwr": "1.41.0"},
        "command": "python -m nescient_fl.simulate",
    }


def _round_lines(names: list[str], metrics: Json, rng: np.random.Generator) -> list[Json]:
    arm = metrics["arms"]["federated"]
    if arm is None:
        return []
    lines = []
    for row in arm["history"]:
        missing = row["round"] == 4 and len(names) > 1
        lines.append(
            {
                "round": row["round"],
                "sites": [name for index, name in enumerate(names) if not (missing and index == 1)],
                "failures": [{"site": names[1], "reason": "no answer within 60 s"}] if missing else [],
                "train_loss": row["loss"] + 0.02,
                "validation": {"loss": row["loss"], "auroc": row["auroc"], "recall": row["recall"]},
                "seconds": 5.0 + float(rng.random()),
            }
        )
    return lines
