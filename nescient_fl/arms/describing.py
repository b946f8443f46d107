"""What a study was made of, as metrics.json and config.json tell it."""

import os
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from nescient_fl.arms.data import StudyData
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.study.settings import StudySettings
from strategies.state import FederationState

_PACKAGES = ("flwr", "ray", "torch", "torchvision", "torchmetrics", "crypten", "numpy", "pandas", "pillow")


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results may depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the ``machine`` part of metrics.json."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def describe_data(settings: StudySettings, data: StudyData) -> dict[str, Any]:
    """Return the ``data`` part of metrics.json."""
    table = data.table
    test = table[table["split"] == "test"]

    def patients(rows: Any) -> int:
        return int(patient_keys(rows).nunique())

    return {
        "source": data.source,
        "synthetic": data.synthetic,
        "images": len(table),
        "patients": patients(table),
        "positives": int(table["target"].sum()),
        "test_images": len(test),
        "test_patients": patients(test),
        "test_positives": int(test["target"].sum()),
        "cohort": settings.cohort,
        "uncertain": settings.uncertain,
        "partition": data.partition,
        "geometry": settings.geometry,
        "rejected": len(data.rejected),
    }


def describe_federation(
    settings: StudySettings,
    data: StudyData,
    state: FederationState,
    lines: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the ``federation`` part of metrics.json, but for its engine, from the finished rounds' lines."""
    assert state.best is not None
    trained = [line for line in lines if line["round"] > 0]
    uploads = [site["bytes_up"] for line in trained for site in line["by_site"] if site["bytes_up"] is not None]
    patients = data.table.groupby("site")["patient"].nunique()
    images = data.table.groupby("site").size()
    step, mu = settings.server_step(), settings.federated_recipe().proximal
    return {
        "clients": len(data.sites),
        "rounds": settings.rounds,
        "local_epochs": settings.local_epochs,
        "aggregation": settings.aggregation,
        "server_optimiser": step.optimiser,
        "server_momentum": step.momentum,
        "server_learning_rate": step.learning_rate,
        "local_objective": settings.local_objective,
        "proximal_mu": mu or None,
        "participation": settings.participation,
        "model_sha256": weights_sha256(state.best.weights),
        "best_round": state.best.round,
        "ended": state.ended,
        "last_model_sha256": weights_sha256(state.weights),
        "seconds": round(seconds, 3),
        "seconds_per_round": round(seconds / max(len(trained), 1), 3),
        "bytes_down_per_site_round": trained[-1]["bytes_down_per_site"] if trained else None,
        "bytes_up_per_site_round": round(float(np.mean(uploads))) if uploads else None,
        "sites": [
            {
                "name": name,
                "images": int(images[name]),
                "patients": int(patients[name]),
                "rounds_asked": sum(name in line["asked"] for line in trained),
                "rounds_answered": sum(name in line["sites"] for line in trained),
                "failures": [
                    {"round": line["round"], "reason": failure["reason"]}
                    for line in trained
                    for failure in line["failures"]
                    if failure["site"] == name
                ],
            }
            for name in data.sites
        ],
    }
