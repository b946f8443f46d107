"""Studies run as a user runs them: as processes, watched, interrupted and killed from outside."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nescient_fl.lesion.network import weights_sha256
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.study.run_folder import read_json

_MARK = "NESCIENT_TEST_MARK"

SMOKE = [
    *("--phantom-images", "200", "--clients", "3", "--partition", "iid", "--min-images", "20"),
    *("--min-positives", "4", "--rounds", "2", "--local-epochs", "1", "--device", "cpu", "--encrypted-images", "0"),
]
"""The smallest study with three sites of drawn radiographs."""


class StudyProcess:
    """``python -m nescient_fl.simulate``, or another command, in its own session, and every process that came of it."""

    def __init__(self, *arguments: str | Path, folder: Path, command: str = "simulate") -> None:
        self._mark = uuid.uuid4().hex
        self._log = folder / f"log-{self._mark}.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"nescient_fl.{command}", *map(str, arguments)],
                cwd=folder,
                env={**os.environ, _MARK: self._mark, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until something happened; fail when the process ends or the time is up before."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"it ended before that:\n{self.output}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.output}"
            time.sleep(0.01)

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the whole process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the study's own process at once; nothing of it can clean up."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def processes(self) -> list[int]:
        """Return every living process that this one started, whoever its parent is by now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                marked = f"{_MARK}={self._mark}".encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if marked and state != "Z":
                found.append(int(folder.name))
        return found

    def left_after(self, seconds: float) -> list[int]:
        """Return the processes still alive when the time is up; none as soon as there is none."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def sweep(self) -> None:
        """End whatever is left."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)


def run_study(*arguments: str | Path, folder: Path, command: str = "simulate") -> StudyProcess:
    """Run a study to its end and return it; its exit status must be 0."""
    study = StudyProcess(*arguments, folder=folder, command=command)
    try:
        assert study.wait() == 0, study.output
    finally:
        study.sweep()
    return study


def model_sha256(run: Path) -> str:
    """Return the hash of the weights in a run's model file, and see that its metrics say the same."""
    weights, _ = load_checkpoint(run / "model.safetensors")
    found = weights_sha256(weights["model"])
    assert found == read_json(run / "metrics.json")["federation"]["model_sha256"]
    return found


def last_model_sha256(run: Path) -> str:
    value: str = read_json(run / "metrics.json")["federation"]["last_model_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", value)
    return value


class Missing(AssertionError):
    """Metrics that are not as docs/design.md says."""


def check_shape(value: Any, shape: Any, where: str = "metrics") -> None:
    """Hold a JSON value against a shape.

    A dict wants exactly its keys; a list of one shape wants a list of such; a tuple is a choice; a type or
    None wants that; a callable decides.
    """
    if isinstance(shape, tuple):
        for choice in shape:
            try:
                return check_shape(value, choice, where)
            except Missing as error:
                problem = error
        raise problem
    if isinstance(shape, dict):
        if not isinstance(value, dict) or set(value) != set(shape):
            keys = sorted(set(value) ^ set(shape)) if isinstance(value, dict) else value
            raise Missing(f"{where}: differs in {keys}")
        for key, inner in shape.items():
            check_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise Missing(f"{where}: no list")
        for index, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{index}]")
    elif shape is None or isinstance(shape, type):
        wanted = type(None) if shape is None else (int, float) if shape is float else shape
        if not isinstance(value, wanted) or (isinstance(value, bool) and shape is not bool):
            raise Missing(f"{where}: {value!r} is no {shape}")
    return None


NUMBER = (float, None)
INTERVAL = {"value": NUMBER, "low": NUMBER, "high": NUMBER}
RATES = dict.fromkeys(("recall", "precision", "specificity", "accuracy"), INTERVAL)
SCORES = RATES | dict.fromkeys(("auroc", "auprc", "brier", "calibration_error"), INTERVAL)
COUNTS = dict.fromkeys(("tp", "fp", "tn", "fn"), float)
OPERATING_POINT = {"threshold": NUMBER, "validation_recall": NUMBER, **RATES}
CURVE = {"label": str, "x": [float], "y": [float]}
ARM = {
    "test": SCORES,
    "operating_point": OPERATING_POINT,
    "confusion": {"half": COUNTS, "operating_point": COUNTS},
    "curves": {
        "roc": [CURVE],
        "pr": [CURVE],
        "calibration": [{"mean_score": float, "observed": float, "count": int}],
    },
    "history": [{"round": int, "image_passes": int, "loss": NUMBER, "auroc": NUMBER, "recall": NUMBER}],
    "image_passes": int,
    "seconds": float,
    "sites": [{"site": str, "images": int, "positives": int, "test": SCORES, "operating_point": OPERATING_POINT}],
}
SECURE = {
    "enabled": bool,
    **dict.fromkeys(("parties", "minimum_sites", "bytes_per_site_round", "excluded", "aborted"), int),
    **dict.fromkeys(("clip", "site_seconds", "party_seconds"), float),
    **dict.fromkeys(("max_abs_error", "epsilon", "delta", "noise_multiplier"), NUMBER),
    "shared_metrics": [str],
}
BOTH = {"half": SCORES, "operating_point": ({"threshold": float, **RATES}, None)}
ENCRYPTED = {
    **dict.fromkeys(("images", "batch", "flipped", "rounds", "bytes_per_party"), int),
    **dict.fromkeys(("agreement", "max_abs_logit_error", "mean_abs_logit_error", "seconds_per_image"), float),
    "stock_ratio": None,
    "set_up": {"seconds": float, "bytes": int},
    "offline": {"seconds_per_image": float, "bytes_per_image": int},
    "peak_memory": dict.fromkeys(("clinic", "owner", "dealer"), int),
    "by_layer": [
        {
            "layer": str,
            **dict.fromkeys(("rounds", "bytes_sent_per_image", "bytes_received_per_image"), int),
            **dict.fromkeys(("seconds_per_image", "waiting_per_image"), float),
        }
    ],
    "plain": BOTH,
    "encrypted": BOTH,
}
METRICS = {
    "format": int,
    "data": {
        **dict.fromkeys(("source", "cohort", "uncertain", "partition", "geometry"), str),
        **dict.fromkeys(("images", "patients", "positives"), int),
        **dict.fromkeys(("test_images", "test_patients", "test_positives", "rejected"), int),
        "synthetic": bool,
    },
    "seed": int,
    "target_recall": float,
    "arms": {"federated": ARM, "pooled": (ARM, None), "local": (ARM, None)},
    "federation": {
        **dict.fromkeys(("clients", "rounds", "local_epochs", "best_round"), int),
        **dict.fromkeys(("engine", "aggregation", "model_sha256", "last_model_sha256"), str),
        **dict.fromkeys(("server_optimiser", "local_objective"), str),
        "ended": (str, None),
        **dict.fromkeys(("server_momentum", "server_learning_rate", "proximal_mu"), NUMBER),
        **dict.fromkeys(("participation", "seconds", "seconds_per_round"), float),
        **dict.fromkeys(("bytes_down_per_site_round", "bytes_up_per_site_round"), int),
        "sites": [
            {
                "name": str,
                "images": int,
                "patients": int,
                "rounds_asked": int,
                "rounds_answered": int,
                "failures": [{"round": int, "reason": str}],
            }
        ],
    },
    "secure": (SECURE, None),
    "encrypted": (ENCRYPTED, None),
    "timing": dict.fromkeys(
        ("data", "federated", "pooled", "local", "scoring", "encrypted", "total", "first_round"), NUMBER
    ),
    "machine": {"platform": str, "cpus": int, "device": str, "python": str, "torch": str},
}
"""metrics.json as docs/design.md has it."""
