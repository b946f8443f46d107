"""Where a federation stands between two rounds, and how that survives a crash."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, build_network, get_weights
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.study.checkpoint import load_checkpoint, save_checkpoint
from strategies.server_optimiser import MEMORIES

_KEPT = 2
_PATTERN = "federated-*.safetensors"


@dataclass(frozen=True)
class BestModel:
    """The global model that did best on validation so far, and its score counts there."""

    round: int
    weights: Weights
    counts: ScoreCounts


@dataclass(frozen=True)
class FederationState:
    """What the next round needs.

    Attributes:
        round: rounds finished; ``weights`` is the model after it.
        weights: the global model.
        best: the best of the models whose validation is known: up to ``round`` - 1 unless finished.
        pending: the line of rounds.jsonl for ``round``, but for its validation.
        memory: what the server's optimiser carries on, by name; empty before round 1, or when it carries nothing.
        finished: whether the last model has been validated too, or the study ended before.
        ended: why it ended before its last round, None when it did not.
    """

    round: int
    weights: Weights
    best: BestModel | None = None
    pending: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Weights] = field(default_factory=dict)
    finished: bool = False
    ended: str | None = None

    @classmethod
    def initial(cls, recipe: Recipe, seed: int) -> "FederationState":
        """Return the state before round 1: the study's initial weights, the same in every arm."""
        return cls(0, get_weights(build_network(recipe.network, seed=seed)), pending={"round": 0})

    def validated(self, counts: ScoreCounts, keep_last: bool = False) -> "FederationState":
        """Return the state with the current model's validation known: perhaps it is the best.

        With ``keep_last`` the newest model always is: noisy counts are no ground to choose by.
        """
        if counts.auroc is None:
            return self
        if not keep_last and not counts.supersedes(self.best.counts if self.best else None):
            return self
        return replace(self, best=BestModel(self.round, self.weights, counts))


def save_state(folder: Path, state: FederationState) -> None:
    """Write a checkpoint and remove all but the last two, so that a damaged newest one costs one round."""
    groups = {"model": state.weights, **state.memory}
    best: dict[str, Any] | None = None
    if state.best is not None:
        groups["best"] = state.best.weights
        groups["best_counts"] = {
            "positives": torch.from_numpy(state.best.counts.positives),
            "negatives": torch.from_numpy(state.best.counts.negatives),
        }
        best = {
            "round": state.best.round,
            "loss_sum": state.best.counts.loss_sum,
        }
    values = {
        "round": state.round,
        "best": best,
        "pending": state.pending,
        "finished": state.finished,
        "ended": state.ended,
    }
    # The finished state follows that of its last round and must not replace it before it is whole.
    serial = state.round + int(state.finished)
    save_checkpoint(folder / f"federated-{serial:05d}.safetensors", groups, values)
    for old in sorted(folder.glob(_PATTERN))[:-_KEPT]:
        old.unlink()


def load_state(folder: Path) -> FederationState | None:
    """Read the newest checkpoint, None when there is none. Raises UserError when it is damaged."""
    paths = sorted(folder.glob(_PATTERN))
    if not paths:
        return None
    groups, values = load_checkpoint(paths[-1])
    best = None
    if values["best"] is not None:
        tallies = groups["best_counts"]
        counts = ScoreCounts(tallies["positives"].numpy(), tallies["negatives"].numpy(), values["best"]["loss_sum"])
        best = BestModel(values["best"]["round"], groups["best"], counts)
    return FederationState(
        round=values["round"],
        weights=groups["model"],
        best=best,
        pending=values["pending"],
        memory={name: groups[name] for name in MEMORIES if name in groups},
        finished=values["finished"],
        ended=values["ended"],
    )
