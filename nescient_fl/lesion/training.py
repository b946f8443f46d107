"""Training and scoring of the lesion network on one device, deterministic under its generators."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nescient_fl.errors import UserError
from nescient_fl.lesion.batches import STILL, Batcher, Examples, make_batcher, shuffled_batches
from nescient_fl.lesion.optimiser import LeanAdam
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.seeds import derive_seed

_SCORING_BATCH = 32


@dataclass(frozen=True)
class EpochResult:
    """Means over one epoch's images, taken while the network trained: loss in nats, accuracy at 0.5."""

    loss: float
    accuracy: float
    images: int


def choose_device(wanted: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

    Raises UserError when cuda is asked for and there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {wanted!r}: use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device cuda: torch sees no GPU here; use --device auto or --device cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def make_optimiser(network: nn.Module, recipe: Recipe, rate: float | None = None) -> torch.optim.Adam:
    """Return Adam (Kingma and Ba, 2015) with the recipe's weight decay and step size, or another step size."""
    step = recipe.learning_rate if rate is None else rate
    return LeanAdam(network.parameters(), lr=step, weight_decay=recipe.weight_decay)


def train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batcher: Batcher,
    rows: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    anchor: Mapping[str, Tensor] | None = None,
) -> EpochResult:
    """Train one epoch in place: every row once, in an order and with placements that ``seed`` decides.

    ``anchor`` holds the global weights of FedProx's proximal term; it is needed when the recipe has one.
    """
    generator = np.random.default_rng(derive_seed(seed, "order and placement"))
    _seed_dropout(network, derive_seed(seed, "dropout"))
    network.train()
    loss_sum: Tensor | float = 0.0
    correct: Tensor | int = 0
    for batch, placements in shuffled_batches(rows, recipe, generator):
        inputs, targets = batcher.inputs(batch, placements), batcher.targets(batch)
        logits = network(inputs)
        loss = binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss + _proximal_term(network, recipe, anchor) if recipe.proximal else loss)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimiser.step()
        # Kept on the device: reading a number back after every step would make a GPU wait for it.
        loss_sum = loss_sum + loss.detach() * len(batch)
        correct = correct + ((logits.detach() > 0) == (targets > 0.5)).sum()
    images = max(len(rows), 1)
    return EpochResult(float(loss_sum) / images, float(correct) / images, len(rows))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside: sites work side by side, and sums are the same on any number of processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_logits(network: nn.Module, examples: Examples, recipe: Recipe, device: torch.device) -> NDArray[np.float64]:
    """Score every example once, in row order, without augmentation. Returns float64 [n] logits."""
    batcher = make_batcher(examples, recipe, device, _SCORING_BATCH)
    return predict_rows(network, batcher, examples.rows)


def predict_rows(network: nn.Module, batcher: Batcher, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score cache rows through a batcher that is already there. Returns float64 [n] logits."""
    network.eval()
    logits = np.empty(len(rows), np.float64)
    with torch.inference_mode():
        for start in range(0, len(rows), _SCORING_BATCH):
            batch = rows[start : start + _SCORING_BATCH]
            out = network(batcher.inputs(batch, [STILL] * len(batch)))
            logits[start : start + len(batch)] = out.squeeze(1).double().cpu().numpy()
    return logits


def _proximal_term(network: nn.Module, recipe: Recipe, anchor: Mapping[str, Tensor] | None) -> Tensor:
    if anchor is None:
        raise ValueError("a recipe with a proximal term needs the global weights as anchor")
    distances = [(value - anchor[name].to(value.device)).square().sum() for name, value in network.named_parameters()]
    return recipe.proximal / 2 * torch.stack(distances).sum()


def _seed_dropout(network: nn.Module, seed: int) -> None:
    # torch's dropout takes no generator; this is the one place where its global one is set, and only for a
    # network that has dropout.
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in network.modules()):
        torch.random.manual_seed(seed)
