"""What is known of many run folders, finished, unfinished and damaged ones alike."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from nescient_fl.errors import UserError
from nescient_fl.study.report_run import FORMAT, flat
from nescient_fl.study.report_values import (
    ARMS,
    MISSING,
    ArmName,
    Interval,
    Json,
    count,
    fixed,
    plain,
    printable,
    read_arm,
    real,
    score,
    section,
)
from nescient_fl.study.run_folder import RunFolder, read_lines

State = Literal["finished", "unfinished", "damaged"]

_PARTS = (
    "config.json",
    "metrics.json",
    "rounds.jsonl",
    "cohort.csv",
    "partition.csv",
    "model.safetensors",
    "checkpoint",
)
"""A folder with any of these is, or was, a run."""
_ENGINES = {"deploy": "deployment", "coordinator": "deployment", "simulate": "ray"}
"""The engine of a run that is not finished, by the last word of its command."""
_CENTRALIZED = "training in one place, scored on its validation patients"
_AT_COORDINATOR = "the coordinator has no radiographs to score it on"
HASH_LETTERS = 12


class _Damaged(Exception):
    """Why a file cannot be used, in words."""


@dataclass(frozen=True)
class Figures:
    """An arm's figures on the held-out patients, as listed."""

    recall_half: Interval
    recall_point: Interval
    auroc: Interval


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name, path: the folder's name, and where it is.
        begun: by the folder's name, else when config.json was written; None when neither can be read.
        state: finished, unfinished, or damaged; ``note`` says how far an unfinished one is, and what is damaged.
        synthetic: whether the data is known to be synthetic; None when it is not known.
        source, partition, clients, rounds, engine, privacy: what was run, in words, ``MISSING`` where not known.
        figures: of each arm that ran.
        model_sha256: hash of the federated model; empty for a run that has none yet.
    """

    name: str
    path: Path
    state: State
    note: str = ""
    begun: datetime | None = None
    synthetic: bool | None = None
    source: str = MISSING
    partition: str = MISSING
    clients: str = MISSING
    rounds: str = MISSING
    engine: str = MISSING
    privacy: str = MISSING
    figures: dict[ArmName, Figures] = field(default_factory=dict)
    model_sha256: str = ""


@dataclass(frozen=True)
class RunList:
    """Runs in order, and the names of folders that hold nothing of a run."""

    runs: Sequence[Run]
    others: Sequence[str] = ()

    def same_model(self, run: Run) -> list[str]:
        """Return the names of the other runs that have the same federated model."""
        if not run.model_sha256:
            return []
        return [one.name for one in self.runs if one is not run and one.model_sha256 == run.model_sha256]

    def models(self) -> dict[str, list[str]]:
        """Return the runs of every model that more than one run has, by its hash."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            if run.model_sha256:
                found.setdefault(run.model_sha256, []).append(run.name)
        return {sha256: names for sha256, names in found.items() if len(names) > 1}


def list_runs(paths: Iterable[Path]) -> RunList:
    """Read every path that is a run folder, and of any other folder all runs in it, by name.

    Raises UserError for a path that is no folder, or when there is no run at all.
    """
    runs, others, seen = [], [], set()
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder: name a run folder, or a folder of them")
        folders = [path] if is_run(path) else sorted(one for one in path.iterdir() if _is_listed(one))
        for folder in folders:
            if (place := folder.resolve()) in seen:
                continue
            seen.add(place)
            if is_run(folder):
                runs.append(read_entry(folder))
            else:
                others.append(printable(folder.name))
    if not runs:
        raise UserError(f"no run in {', '.join(map(str, paths))}: start one with nescient simulate")
    return RunList(runs, others)


def read_entry(path: Path) -> Run:
    """Read one run folder, whatever state it is in."""
    run, name = RunFolder(path), printable(path.resolve().name)
    begun = _begun(run, name)
    try:
        config = _read_object(run.config)
    except _Damaged as error:
        return Run(name, path, "damaged", str(error), begun)
    known = _printable_all(_from_config(config))
    try:
        if not run.metrics.exists():
            state, note, sha256 = _without_metrics(run, config)
            return Run(name, path, state, note, begun, model_sha256=sha256, **known)
        metrics = _read_object(run.metrics)
        if metrics.get("format") != FORMAT:
            raise _Damaged(f"metrics.json has format {plain(metrics.get('format'))}, this version reads {FORMAT}")
        if metrics.get("kind") == "centralized":
            return Run(
                name, path, "finished", _CENTRALIZED, begun, **{**known, **_printable_all(_from_centralized(metrics))}
            )
        if not section(metrics, "arms"):
            raise _Damaged("metrics.json holds no arms")
    except _Damaged as error:
        return Run(name, path, "damaged", str(error), begun, **known)
    return Run(name, path, "finished", "", begun, **{**known, **_printable_all(_from_metrics(metrics))})


def rounds_done(run: RunFolder) -> int:
    """Return the last round whose model was validated, 0 before there is one."""
    numbers = [line.get("round") for line in read_lines(run.rounds) if isinstance(line, dict)]
    return max((int(number) for number in map(real, numbers) if number is not None), default=0)


def is_run(path: Path) -> bool:
    """Say whether a folder is a run, or was one."""
    return any((path / part).exists() for part in _PARTS)


def _is_listed(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _begun(run: RunFolder, name: str) -> datetime | None:
    try:
        return datetime.strptime(name, "%Y%m%d-%H%M%S")
    except ValueError:
        pass
    try:
        return datetime.fromtimestamp(run.config.stat().st_mtime)
    except OSError:
        return None


def _printable_all(values: dict[str, Any]) -> dict[str, Any]:
    return {key: printable(value) if isinstance(value, str) else value for key, value in values.items()}


def _read_object(path: Path) -> Json:
    """Read a JSON object; what is wrong is said without the path, for a page that others may see."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise _Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise _Damaged(f"{path.name} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise _Damaged(f"{path.name} is not readable JSON") from None
    if not isinstance(found, dict):
        raise _Damaged(f"{path.name} does not hold a JSON object")
    return found


def _from_config(config: Json) -> dict[str, Any]:
    options, secure = flat(config), section(config, "secure")
    data, sources = options.get("data"), options.get("source")
    # Folders of data are local paths, which no page shows.
    synthetic = not data if isinstance(data, list) else None
    source = "phantom" if synthetic else plain(sources)
    # The outer partition is the one in effect; that of the settings may be left to the data.
    partition = config.get("partition") or options.get("partition")
    words = str(config.get("command") or "").replace(".", " ").split()
    aggregation = options.get("aggregation")
    budget = real(options.get("dp_epsilon"))
    return {
        "synthetic": synthetic,
        "source": source,
        "partition": plain(partition),
        "clients": count(options.get("clients")),
        "rounds": count(options.get("rounds")),
        "engine": _ENGINES.get(words[-1], MISSING) if words else MISSING,
        "privacy": _privacy(aggregation, options.get("parties") if secure else None, budget, "at most"),
    }


def _from_metrics(metrics: Json) -> dict[str, Any]:
    data, federation = section(metrics, "data"), section(metrics, "federation")
    secure = section(metrics, "secure")
    synthetic = data.get("synthetic")
    aggregation = federation.get("aggregation") or ("secure" if secure else None)
    found = {
        "synthetic": synthetic if isinstance(synthetic, bool) else None,
        "source": plain(data.get("source")),
        "partition": plain(data.get("partition")),
        "clients": count(federation.get("clients")),
        "rounds": count(federation.get("rounds")),
        "engine": plain(federation.get("engine")),
        "privacy": _privacy(aggregation, secure.get("parties"), real(secure.get("epsilon")), "spent"),
        "figures": {name: _figures(arm) for name in ARMS if (arm := read_arm(metrics, name)) is not None},
        "model_sha256": str(federation.get("model_sha256") or ""),
    }
    return {key: value for key, value in found.items() if value != MISSING}


def _figures(arm: Json) -> Figures:
    return Figures(score(arm, "half", "recall"), score(arm, "operating_point", "recall"), score(arm, "half", "auroc"))


def _privacy(aggregation: object, parties: object, epsilon: float | None, kind: str) -> str:
    """Say who could see an update, and what noise bounds: ``secure, 2 parties, epsilon 4.00 spent``."""
    if not aggregation:
        return MISSING
    said = [plain(aggregation)]
    if real(parties) is not None:
        said.append(f"{count(parties)} parties")
    if epsilon is not None:
        said.append(f"epsilon {fixed(epsilon, 2)} spent" if kind == "spent" else f"epsilon {kind} {fixed(epsilon, 2)}")
    elif aggregation == "secure":
        said.append("no noise")
    return ", ".join(said)


def _from_centralized(metrics: Json) -> dict[str, Any]:
    nothing = dict.fromkeys(("partition", "clients", "engine", "privacy"), MISSING)
    synthetic = section(metrics, "data").get("synthetic")
    return {
        **nothing,
        "synthetic": synthetic if isinstance(synthetic, bool) else None,
        "source": plain(section(metrics, "data").get("source")),
        "model_sha256": str(metrics.get("model_sha256") or ""),
    }


def _without_metrics(run: RunFolder, config: Json) -> tuple[State, str, str]:
    """Say how far a run without figures is, and its model's hash. Raises _Damaged when a file cannot be read."""
    planned = real(flat(config).get("rounds"))
    if planned is None:
        raise _Damaged("config.json holds no settings")
    if config.get("founded") is True and run.model.exists():
        return "finished", _AT_COORDINATOR, _saved_hash(run.model)
    try:
        done = rounds_done(run)
    except OSError as error:
        raise _Damaged(f"rounds.jsonl cannot be read ({error.strerror})") from None
    except RecursionError:
        raise _Damaged("rounds.jsonl is not readable JSON") from None
    if run.in_use():
        return "unfinished", f"running, after round {done} of {count(planned)}", ""
    if not run.rounds.exists():
        return "unfinished", "no round yet", ""
    if done >= planned:
        return "unfinished", f"all {count(planned)} rounds done, not scored yet", ""
    return "unfinished", f"stopped after round {done} of {count(planned)}", ""


def _saved_hash(path: Path) -> str:
    """Return what a model's file says of its weights' hash; its tensors are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return str(json.loads(file.metadata()["state"])["state"]["sha256"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise _Damaged(f"{path.name} is not a model of this version") from None
