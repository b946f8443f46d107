"""A hospital at work: its own images, and its answer to one round.

Nothing here knows how messages travel. In a simulation a Flower app calls ``Site.answer`` directly.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import Examples, make_batcher
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, build_network, get_weights, set_weights
from nescient_fl.lesion.recipe import Recipe, recipe_from_json
from nescient_fl.lesion.training import choose_device, make_optimiser, one_thread, predict_rows, train_epoch
from nescient_fl.messages import RoundOrder, SiteReport
from nescient_fl.radiographs.cache import PixelCache, open_cache
from nescient_fl.seeds import derive_seed
from nescient_fl.study.run_folder import RunFolder, read_json


@dataclass(frozen=True)
class SiteData:
    """One site's images: rows of a pixel cache, divided by patient."""

    name: str
    train: Examples
    validation: Examples
    test: Examples


class Site:
    """Trains and scores models on one site's data and one device, the same way every time."""

    def __init__(self, data: SiteData, device: torch.device) -> None:
        self.data = data
        self.device = device

    @one_thread()
    def answer(self, order: RoundOrder, weights: Weights) -> tuple[SiteReport, ScoreCounts, Weights | None]:
        """Score the global model on the site's validation patients, then train it on its training patients.

        Returns the report, the validation score counts of the model as it came, and the update: the trained
        minus the global weights, float32, or None when the order is only to score. Every draw depends on the
        study's seed, the site's name and the epoch, so the same order and weights give the same answer.

        Raises FloatingPointError when training left a weight that is not finite.
        """
        started = time.perf_counter()
        recipe = recipe_from_json(order.recipe)
        network = build_network(recipe.network, seed=order.seed).to(self.device)
        set_weights(network, weights)
        counts = self._score(network, recipe)
        if not order.train:
            return self._report(0.0, 0.0, started), counts, None
        optimiser = make_optimiser(network, recipe, recipe.rate_in(order.round, order.rounds))
        batcher = make_batcher(self.data.train, recipe, self.device, recipe.batch_size)
        anchor = {name: value.to(self.device) for name, value in weights.items()}
        first = (order.round - 1) * order.local_epochs
        for epoch in range(first, first + order.local_epochs):
            seed = derive_seed(order.seed, "training", self.data.name, epoch)
            result = train_epoch(network, optimiser, batcher, self.data.train.rows, recipe, seed, anchor)
        trained = get_weights(network)
        update = {name: trained[name] - weights[name] for name in weights}
        if not all(bool(torch.isfinite(value).all()) for value in update.values()):
            raise FloatingPointError("training diverged: a weight is not finite")
        return self._report(result.loss, result.accuracy, started), counts, update

    def _score(self, network: torch.nn.Module, recipe: Recipe) -> ScoreCounts:
        validation = self.data.validation
        batcher = make_batcher(validation, recipe, self.device, 32)
        return ScoreCounts.of(predict_rows(network, batcher, validation.rows), validation.labels)

    def _report(self, loss: float, accuracy: float, started: float) -> SiteReport:
        images = len(self.data.train)
        return SiteReport(self.data.name, images, loss, accuracy, time.perf_counter() - started)


def site_names(partition: pd.DataFrame) -> list[str]:
    """Return the sites of a partition in the order that every sum follows: that of their names."""
    return sorted(partition["site"].unique())


def load_site_data(cache: PixelCache, partition: pd.DataFrame, name: str) -> SiteData:
    """Pick one site's rows out of a cache.

    partition has one row an image, in the order of the cache, with ``site``, ``split`` and ``target``.
    """
    targets = partition["target"].to_numpy(np.float32)
    mine = (partition["site"] == name).to_numpy()

    def examples(split: str) -> Examples:
        rows = np.flatnonzero(mine & (partition["split"] == split).to_numpy())
        return Examples(cache.pixels, cache.mean, cache.std, targets, rows)

    return SiteData(name, examples("train"), examples("validation"), examples("test"))


@lru_cache(maxsize=1)
def open_run_data(run: Path) -> tuple[PixelCache, pd.DataFrame]:
    """Open the cache and the partition that a run's settings name, once a process.

    Raises UserError when the cache is gone or is not the one the partition was made for.
    """
    folder = RunFolder(run)
    partition = pd.read_csv(folder.partition, dtype={"image": str, "patient": str, "site": str})
    location = Path(read_json(folder.config)["cache"])
    if not location.is_dir():
        raise UserError(f"the pixel cache {location} is gone: start a new run to make it again")
    cache = open_cache(location)
    if len(cache.pixels) != len(partition):
        raise UserError(f"the pixel cache {location} does not fit this run: start a new run")
    return cache, partition


@lru_cache(maxsize=8)
def open_site(run: Path, index: int) -> Site:
    """Open the index-th site of a simulated study, on the device its settings ask for."""
    cache, partition = open_run_data(run)
    device = choose_device(read_json(RunFolder(run).config)["settings"]["device"])
    return Site(load_site_data(cache, partition, site_names(partition)[index]), device)
