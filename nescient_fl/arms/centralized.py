"""The write-up's own run: all data in one place, one model, a tenth of the patients for validation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from nescient_fl.arms.alone import AloneJob, AloneResult, train_alone
from nescient_fl.arms.data import StudyData, prepare_data
from nescient_fl.arms.describing import describe_machine, describe_versions
from nescient_fl.arms.scoring import describe_scores
from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.metrics import HeldOut
from nescient_fl.lesion.network import build_network, set_weights, weights_sha256
from nescient_fl.lesion.training import choose_device, predict_logits
from nescient_fl.radiographs.table import patient_keys, write_table
from nescient_fl.seeds import numpy_generator
from nescient_fl.study.model_file import save_model
from nescient_fl.study.progress import TerminalWatcher
from nescient_fl.study.run_folder import RunFolder, read_json, write_json
from nescient_fl.study.settings import StudySettings, differences, make_settings

VALIDATION_SHARE = 0.1


def run_centralized(
    options: Mapping[str, Any], *, epochs: int, out: Path | None, resume: Path | None
) -> dict[str, Any]:
    """Train, print a line an epoch, then recall and precision. Returns what metrics.json holds.

    Raises UserError for options that cannot be, and for resuming with other settings than before.
    """
    if epochs < 1:
        raise UserError(f"--epochs must be 1 or more, got {epochs}")
    settings, run = _open(options, out, resume)
    console = Console()
    device = choose_device(settings.device)
    # Printed numbers come out the same on any number of cores.
    torch.set_num_threads(1)
    with (
        run.locked(new=resume is None),
        _telling_how_to_resume(run),
        TerminalWatcher(console, epochs) as watcher,
    ):
        watcher.say(f"Run folder: {run.path}")
        data = prepare_data(settings, watcher.preparing)
        train, validation = divide(data, settings.seed)
        if not validation.labels.any():
            raise UserError("no image to validate by shows a lesion: use more images, or another --seed")
        _write_division(run, data, validation)
        job = AloneJob(
            name="centralized",
            train=train,
            validation=validation,
            # Its epochs may be extended, so no step size hangs on how many there are.
            recipe=replace(settings.resolved_recipe(), final_rate=1.0),
            rounds=epochs,
            local_epochs=1,
            seed=settings.seed,
            device=device.type,
            checkpoint=run.checkpoints / "centralized.safetensors",
        )
        watcher.say(f"{len(train):,} images to train, {len(validation):,} to validate, on {device.type}")

        def say(line: Mapping[str, Any]) -> None:
            if line["round"]:
                watcher.say(epoch_line(line, epochs))

        result = train_alone(job, say)
    metrics = _score(settings, data, job, result, device)
    write_json(run.metrics, metrics)
    threshold = metrics["operating_point"]["threshold"]
    save_model(run, settings, result.last, epochs, threshold)
    test, point = metrics["validation"], metrics["operating_point"]
    print(f"Recall: {test['recall']['value']:.3f}, precision: {_text(test['precision']['value'])}", flush=True)
    print(
        f"Operating point for a recall of {settings.target_recall:g} on the same images: threshold {threshold:.3f}, "
        f"recall {point['recall']['value']:.3f}, precision {_text(point['precision']['value'])}"
    )
    if data.synthetic:
        print("These radiographs are synthetic: the figures say nothing about patients.")
    return metrics


@contextmanager
def _telling_how_to_resume(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"Stopped. Go on with: --resume {run.path}", flush=True)
        raise


def divide(data: StudyData, seed: int) -> tuple[Examples, Examples]:
    """Divide a cohort by patient into 90% to train and 10% to validate.

    Raises UserError when there are too few patients for both.
    """
    keys = patient_keys(data.table).to_numpy(str)
    patients = np.unique(keys)
    held = round(VALIDATION_SHARE * len(patients))
    if not 0 < held < len(patients):
        raise UserError(f"{len(patients)} patients are too few to hold a tenth out: use more images")
    chosen = numpy_generator(seed, "centralized validation").permutation(patients)[:held]
    is_held = np.isin(keys, chosen)
    targets = data.table["target"].to_numpy(np.float32)

    def examples(mask: Any) -> Examples:
        return Examples(data.cache.pixels, data.cache.mean, data.cache.std, targets, np.flatnonzero(mask))

    return examples(~is_held), examples(is_held)


def _write_division(run: RunFolder, data: StudyData, validation: Examples) -> None:
    """Write which images were trained on, so that whoever uses the model can leave their patients out."""
    rows = np.arange(len(data.table))
    split = np.where(np.isin(rows, validation.rows), "validation", "train")
    table = data.table[["source", "image", "patient", "target"]].assign(split=split, row=rows)
    write_table(run.partition, table)
    cache = {"cache": str(data.cache.directory), "cache_key": data.cache.key}
    write_json(run.config, {**read_json(run.config), **cache})


def epoch_line(line: Mapping[str, Any], epochs: int) -> str:
    """Return the write-up's line of an epoch: train loss, train acc, val loss, val acc."""
    return (
        f"Epoch {line['round']}/{epochs}  train loss: {_text(line['train_loss'])}, "
        f"train acc: {_text(line['train_accuracy'])}, val loss: {_text(line['loss'])}, "
        f"val acc: {_text(line['accuracy'])}"
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _open(options: Mapping[str, Any], out: Path | None, resume: Path | None) -> tuple[StudySettings, RunFolder]:
    if resume is not None:
        if out is not None:
            raise UserError("--resume goes on in the folder of the run itself: leave --out away")
        run = RunFolder.open(resume)
        saved = read_json(run.config)
        if saved.get("kind") != "centralized":
            raise UserError(f"{resume} holds another kind of run: resume it with nescient_fl.simulate")
        settings = make_settings(saved["settings"])
        if changed := differences(settings, options):
            raise UserError(f"{resume} was begun with other settings: {', '.join(changed)}")
        return settings, run
    recipe = options.get("recipe", "paper")
    usual = {"recipe": recipe, "geometry": "paper" if recipe == "paper" else "upright"}
    # Partition and aggregation play no part here; one client never lacks anything.
    settings = make_settings(options, usual, {"clients": 1, "partition": "iid", "aggregation": "plain"})
    run = RunFolder.create(out)
    write_json(
        run.config,
        {"kind": "centralized", "settings": settings.as_dict(), "versions": describe_versions()},
    )
    return settings, run


def _score(
    settings: StudySettings, data: StudyData, job: AloneJob, result: AloneResult, device: torch.device
) -> dict[str, Any]:
    network = build_network(job.recipe.network, seed=settings.seed).to(device)
    set_weights(network, result.last)
    logits = predict_logits(network, job.validation, job.recipe, device)
    threshold = ScoreCounts.of(logits, job.validation.labels).threshold_for_recall(settings.target_recall)
    rows = data.table.iloc[job.validation.rows]
    _, patients = np.unique(patient_keys(rows).to_numpy(str), return_inverse=True)
    held_out = HeldOut(rows["target"].to_numpy(np.int64), patients.astype(np.int64))
    scores = describe_scores(logits, threshold, held_out, settings.seed)
    return {
        "format": 1,
        "kind": "centralized",
        "data": {"source": data.source, "synthetic": data.synthetic, "images": len(data.table)},
        "recipe": asdict(job.recipe),
        "validation": scores["half"],
        "operating_point": scores["operating_point"],
        "history": result.history,
        "model_sha256": weights_sha256(result.last),
        "machine": describe_machine(device),
    }
