"""A finished run without its training: a model with its operating point, and which images it was trained on."""

from pathlib import Path
from typing import Any

import numpy as np

from nescient_fl.lesion.network import Weights, build_network, get_weights, weights_sha256
from nescient_fl.radiographs.cache import CacheResult, build_cache
from nescient_fl.radiographs.cohort import CohortRule
from nescient_fl.radiographs.table import write_table
from nescient_fl.study.checkpoint import save_checkpoint
from nescient_fl.study.run_folder import write_json
from sites.datasets import load_cohort


def write_model(path: Path, seed: int = 0, **about: Any) -> Weights:
    """Write a model of the lesion network with random weights; ``about`` changes what its file says."""
    weights = get_weights(build_network(seed=seed))
    said = {
        "geometry": "upright",
        "standardise": True,
        "activation": "relu",
        "threshold": 0.5,
        "sha256": weights_sha256(weights),
    }
    save_checkpoint(path, {"model": weights}, {**said, **about})
    return weights


def write_run(folder: Path, dataset: Path, threshold: float = 0.5) -> CacheResult:
    """Write a run on a dataset: of its patients every third is held out, the others were trained on."""
    folder.mkdir()
    loaded = load_cohort([(dataset, None)], CohortRule())
    result = build_cache(loaded.roots, loaded.cohort.table, "upright", folder.parent / "pixels")
    numbers = np.arange(len(result.table))
    split = np.where(numbers % 3 == 0, "test", np.where(numbers % 3 == 1, "train", "validation"))
    partition = result.table[["source", "image", "patient", "target"]].assign(site="site-1", split=split, row=numbers)
    write_table(folder / "partition.csv", partition)
    settings = {"data": [str(dataset)], "source": [], "phantom_images": 0, "cohort": "corrected", "seed": 0}
    write_json(
        folder / "config.json",
        {"settings": settings, "cache": str(result.cache.directory), "cache_key": result.cache.key},
    )
    write_model(folder / "model.safetensors", threshold=threshold)
    return result
