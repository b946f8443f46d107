"""One study from its settings to its metrics: data, federated arm, baselines, scores, report."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nescient_fl.arms.alone import AloneJob, AloneResult
from nescient_fl.arms.baselines import train_baselines
from nescient_fl.arms.data import Progress, StudyData, decode_radiographs, prepare_data, select_radiographs
from nescient_fl.arms.describing import (
    describe_data,
    describe_federation,
    describe_machine,
    describe_versions,
)
from nescient_fl.arms.encryption import describe_encrypted
from nescient_fl.arms.engines import RAY, EngineKind
from nescient_fl.arms.gallery import choose_gallery
from nescient_fl.arms.histories import alone_history, federated_history
from nescient_fl.arms.scoring import ArmModel, ArmRun, Scorer
from nescient_fl.arms.secrecy import describe_secure, forget_keys, helper_nodes, secure_part
from nescient_fl.arms.watching import StudyWatcher
from nescient_fl.errors import UserError
from nescient_fl.lesion.training import choose_device
from nescient_fl.radiographs.table import write_table
from nescient_fl.study.model_file import save_model
from nescient_fl.study.report import write_report
from nescient_fl.study.run_folder import RunFolder, read_json, read_lines, write_json
from nescient_fl.study.settings import StudySettings, make_settings
from strategies.exchange import Stopped
from strategies.state import FederationState, load_state


@dataclass
class _Clock:
    """Seconds by part of the study, null for a part that did not run."""

    started: float
    parts: dict[str, float | None]

    def lap(self, part: str, since: float) -> None:
        self.parts[part] = round(time.monotonic() - since, 3)


def conduct(
    settings: StudySettings,
    run: RunFolder,
    watcher: StudyWatcher,
    stop: threading.Event,
    engine_kind: EngineKind = RAY,
) -> dict[str, Any]:
    """Conduct a study in a run folder, from wherever an earlier attempt left off.

    Returns what was written to metrics.json. Raises UserError for data or settings that cannot be, or too few
    sites in a round, and Stopped when ``stop`` was set; both leave a run that can be resumed.
    """
    clock = _Clock(
        time.monotonic(),
        dict.fromkeys(("data", "federated", "pooled", "local", "scoring", "encrypted", "total", "first_round")),
    )
    device = choose_device(settings.device)
    state = load_state(run.checkpoints)
    since = time.monotonic()
    # What the user may have to mend is found out before anything slow begins.
    progress = _stoppable(watcher.preparing, stop)
    selected = select_radiographs(settings, progress)
    if engine_kind.members is not None:
        names = sorted(set(selected.assignment["site"]))
        engine_kind.members.check(names, settings.needed_sites(len(names)))
    engine = None if state is not None and state.finished else engine_kind.make(device, watcher)
    try:
        data = decode_radiographs(settings, selected, progress)
        _write_begin(run, settings, data, device, engine_kind)
        clock.lap("data", since)
        if engine is not None:
            since = time.monotonic()
            engine.run(run.path, len(data.sites), _FirstRound(watcher, clock), stop, helper_nodes(settings))
            clock.lap("federated", since)
    finally:
        if engine is not None:
            engine.close()
    results: dict[str, AloneResult] = {}
    if settings.baselines:
        results = _train_baselines(settings, data, run, device, watcher, stop)
    since = time.monotonic()
    watcher.scoring()
    scorer = Scorer(data, settings.resolved_recipe(), device, settings.seed, settings.target_recall)
    federated, state = _federated_model(run, data)
    metrics = _score(settings, data, run, scorer, federated, state, results, clock)
    metrics["federation"]["engine"] = engine_kind.name
    metrics["secure"] = describe_secure(settings, data, run, device if engine_kind.audited else None)
    clock.lap("scoring", since)
    since = time.monotonic()
    metrics["encrypted"] = describe_encrypted(settings, data, run, watcher, partial(_check_stop, stop))
    if metrics["encrypted"] is not None:
        clock.lap("encrypted", since)
    clock.lap("total", clock.started)
    metrics["timing"] = clock.parts
    write_json(run.metrics, metrics)
    write_report(run.path, choose_gallery(data, scorer, federated))
    forget_keys(run)
    return metrics


def prepare_run(settings: StudySettings, run: RunFolder, watcher: StudyWatcher) -> int:
    """Make a run's data ready and write what the run is made of, for ``flwr run`` to go on with.

    Returns how many nodes the federation has: sites, compute parties and dealer.
    """
    device = choose_device(settings.device)
    data = prepare_data(settings, watcher.preparing)
    _write_begin(run, settings, data, device)
    return len(data.sites) + helper_nodes(settings)


def _stoppable(progress: Progress, stop: threading.Event) -> Progress:
    """Hear Ctrl-C between two radiographs too: drawing and decoding them may take minutes."""

    def tell(what: str, done: int, total: int) -> None:
        _check_stop(stop)
        progress(what, done, total)

    return tell


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


@dataclass
class _FirstRound:
    """Passes everything on, and notes when the first round was through: the wait a user feels."""

    watcher: StudyWatcher
    clock: _Clock

    def sites_joined(self, names: Any) -> None:
        self.watcher.sites_joined(names)

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None:
        self.watcher.site_answered(round_number, site, problem)

    def round_aborted(self, round_number: int, reason: str) -> None:
        self.watcher.round_aborted(round_number, reason)

    def study_ended(self, reason: str) -> None:
        self.watcher.study_ended(reason)

    def round_validated(self, line: dict[str, Any]) -> None:
        if self.clock.parts["first_round"] is None and line["round"] == 0:
            self.clock.lap("first_round", self.clock.started)
        self.watcher.round_validated(line)


def _write_begin(
    run: RunFolder, settings: StudySettings, data: StudyData, device: torch.device, engine_kind: EngineKind = RAY
) -> None:
    """Write what the run is made of; a resumed run must be made of the same."""
    if run.partition.exists():
        saved = read_json(run.config)
        if saved.get("cache_key") != data.cache.key:
            raise UserError(f"the radiographs are no longer those that {run.path} was begun with: start a new run")
    cohort = data.table.drop(columns=["site", "split"])
    write_table(run.cohort, cohort)
    partition = data.table[["source", "image", "patient", "site", "split", "target"]]
    write_table(run.partition, partition.assign(row=np.arange(len(partition))))
    write_json(
        run.config,
        {
            **settings.as_dict(),
            "partition": data.partition,
            "settings": settings.as_dict(),
            "sites": data.sites,
            "secure": secure_part(settings, data, run, engine_kind.members),
            "cache": str(data.cache.directory),
            "cache_key": data.cache.key,
            "device_used": device.type,
            "data_notes": {
                "rows_read": data.rows_read,
                "dropped": data.dropped,
                "rejected": list(data.rejected),
                "notes": list(data.notes),
            },
            "versions": describe_versions(),
            "command": f"python -m nescient_fl.{engine_kind.command}",
        },
    )


def _train_baselines(
    settings: StudySettings,
    data: StudyData,
    run: RunFolder,
    device: torch.device,
    watcher: StudyWatcher,
    stop: threading.Event,
) -> dict[str, AloneResult]:
    recipe = settings.resolved_recipe()

    def job(name: str, train: Any, validation: Any) -> AloneJob:
        return AloneJob(
            name=name,
            train=train,
            validation=validation,
            recipe=recipe,
            rounds=settings.rounds,
            local_epochs=settings.local_epochs,
            seed=settings.seed,
            device=device.type,
            checkpoint=run.checkpoints / f"alone-{name}.safetensors",
        )

    jobs = [job("pooled", data.examples("train"), data.examples("validation"))]
    for name in data.sites:
        site = data.site(name)
        jobs.append(job(f"local-{name}", site.train, site.validation))
    results = train_baselines(jobs, os.cpu_count() or 1, watcher.alone_validated, stop)
    if results is None:
        raise Stopped
    return results


def _score(
    settings: StudySettings,
    data: StudyData,
    run: RunFolder,
    scorer: Scorer,
    federated: ArmModel,
    state: FederationState,
    results: Mapping[str, AloneResult],
    clock: _Clock,
) -> dict[str, Any]:
    lines = read_lines(run.rounds)
    arms: dict[str, Any] = {"federated": None, "pooled": None, "local": None}
    seconds = sum(line.get("seconds", 0.0) for line in lines)
    history = federated_history(lines, {name: len(data.site(name).train) for name in data.sites})
    arms["federated"] = scorer.score_arm([federated], ArmRun(history, history[-1]["image_passes"], seconds))
    if results:
        names = {"pooled": ["pooled"], "local": [f"local-{name}" for name in data.sites]}
        for arm, jobs in names.items():
            models = [
                ArmModel(
                    label=job.removeprefix("local-"),
                    weights=results[job].weights,
                    counts=results[job].counts,
                    sites=tuple(data.sites) if arm == "pooled" else (job.removeprefix("local-"),),
                )
                for job in jobs
            ]
            history = alone_history([results[job] for job in jobs])
            busy = sum(line["seconds"] for job in jobs for line in results[job].history)
            arms[arm] = scorer.score_arm(models, ArmRun(history, history[-1]["image_passes"], busy))
            clock.parts[arm] = round(busy, 3)
    assert state.best is not None
    save_model(run, settings, federated.weights, state.best.round, scorer.threshold(federated.counts))
    return {
        "format": 1,
        "data": describe_data(settings, data),
        "seed": settings.seed,
        "target_recall": settings.target_recall,
        "arms": arms,
        "federation": describe_federation(settings, data, state, lines, seconds),
        "secure": None,
        "encrypted": None,
        "timing": None,
        "machine": describe_machine(scorer.device),
    }


def _federated_model(run: RunFolder, data: StudyData) -> tuple[ArmModel, FederationState]:
    state = load_state(run.checkpoints)
    if state is None or state.best is None:
        raise UserError("no round's validation had both classes: use fewer --clients or more images")
    return ArmModel("federated", state.best.weights, state.best.counts, tuple(data.sites)), state


def resume_settings(path: Path) -> dict[str, Any]:
    """Return the settings a run was begun with. Raises UserError when there is no run, or a damaged one."""
    config = RunFolder.open(path).config
    saved = read_json(config)
    settings = saved.get("settings") if isinstance(saved, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"{config} is damaged (it holds no settings): start a new run")
    try:
        make_settings(settings)
    except UserError as error:
        raise UserError(f"{config} is damaged ({error}): start a new run") from None
    return settings
