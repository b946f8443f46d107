"""Training without federation, resumable: the pooled arm, the local arms, and the write-up's own run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nescient_fl.lesion.batches import Examples, make_batcher
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, build_network, get_weights, set_weights
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.lesion.training import make_optimiser, predict_rows, train_epoch
from nescient_fl.seeds import derive_seed
from nescient_fl.study.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class AloneJob:
    """One model trained on one set of images.

    Attributes:
        name: ``pooled``, or a site's name; it separates random draws and names the checkpoint.
        rounds, local_epochs: validated ``rounds`` times, each after ``local_epochs`` epochs, so that a
            history lines up with the federated arm's rounds and the image passes are the same.
        checkpoint: the file that makes the job resumable.
    """

    name: str
    train: Examples
    validation: Examples
    recipe: Recipe
    rounds: int
    local_epochs: int
    seed: int
    device: str
    checkpoint: Path


@dataclass(frozen=True)
class AloneResult:
    """A finished job: the best model by validation, its score counts there, and the history.

    ``last`` is the model after the last round; ``history`` has a line a round, from 0 (initial weights).
    """

    weights: Weights
    last: Weights
    round: int
    counts: ScoreCounts
    history: list[dict[str, Any]]


Report = Callable[[dict[str, Any]], None]


def train_alone(job: AloneJob, report: Report) -> AloneResult:
    """Train one model, with one optimiser from first to last; go on from the checkpoint when there is one.

    ``report`` is told each line of the history as it is made. The same job gives the same weights, also when
    it was interrupted and resumed at any round.
    """
    device = torch.device(job.device)
    network = build_network(job.recipe.network, seed=job.seed).to(device)
    optimiser = make_optimiser(network, job.recipe)
    train_batcher = make_batcher(job.train, job.recipe, device, job.recipe.batch_size)
    validation_batcher = make_batcher(job.validation, job.recipe, device, 32)
    state = _load(job, network, optimiser)
    for number in range(0 if state is None else state.history[-1]["round"] + 1, job.rounds + 1):
        started = time.perf_counter()
        loss = accuracy = None
        if number:
            for group in optimiser.param_groups:
                group["lr"] = job.recipe.rate_in(number, job.rounds)
            for epoch in range((number - 1) * job.local_epochs, number * job.local_epochs):
                seed = derive_seed(job.seed, "training", job.name, epoch)
                result = train_epoch(network, optimiser, train_batcher, job.train.rows, job.recipe, seed)
                loss, accuracy = result.loss, result.accuracy
        logits = predict_rows(network, validation_batcher, job.validation.rows)
        counts = ScoreCounts.of(logits, job.validation.labels)
        line = {
            "round": number,
            "image_passes": number * job.local_epochs * len(job.train),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "loss": counts.loss,
            "accuracy": float(((logits > 0) == (job.validation.labels > 0.5)).mean()),
            "auroc": counts.auroc,
            "recall": counts.recall(0.5),
            "images": counts.images,
            "positives": int(counts.positives.sum()),
            "seconds": round(time.perf_counter() - started, 3),
        }
        state = _advance(state, line, counts, get_weights(network))
        _save(job, state, optimiser)
        report(line)
    assert state is not None
    return state


def _advance(state: AloneResult | None, line: dict[str, Any], counts: ScoreCounts, weights: Weights) -> AloneResult:
    history = [*(state.history if state else []), line]
    if state is None or counts.supersedes(state.counts):
        return AloneResult(weights, weights, line["round"], counts, history)
    return AloneResult(state.weights, weights, state.round, state.counts, history)


def _save(job: AloneJob, state: AloneResult, optimiser: torch.optim.Optimizer) -> None:
    moments = {
        f"{index}.{name}": value
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }
    tallies = {
        "positives": torch.from_numpy(state.counts.positives),
        "negatives": torch.from_numpy(state.counts.negatives),
    }
    groups = {"best": state.weights, "last": state.last, "counts": tallies, "optimiser": moments}
    values = {"round": state.round, "loss_sum": state.counts.loss_sum, "history": state.history}
    save_checkpoint(job.checkpoint, groups, values)


def _load(job: AloneJob, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> AloneResult | None:
    if not job.checkpoint.exists():
        return None
    groups, values = load_checkpoint(job.checkpoint)
    set_weights(network, groups["last"])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in groups.get("optimiser", {}).items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    counts = ScoreCounts(
        groups["counts"]["positives"].numpy(), groups["counts"]["negatives"].numpy(), values["loss_sum"]
    )
    return AloneResult(groups["best"], groups["last"], values["round"], counts, values["history"])
