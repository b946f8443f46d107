"""How near a site's training loop comes to a bare loop over tensors that lie ready in memory.

    OMP_NUM_THREADS=1 python scripts/bench_site_loop.py [--images 192] [--repeats 15]

Three loops train one epoch in turn, again and again: the product's (``train_epoch`` from the memory-mapped
cache, standardised, mirrored and shifted, as ``Site.answer`` calls it); a bare one over float32 batches made
beforehand, with the product's network; the same with torch's own layers. Prints JSON: seconds of each epoch.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from bench_common import bench_data, plain_network
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nescient_fl.lesion.batches import STILL, Examples, make_batcher
from nescient_fl.lesion.network import build_network
from nescient_fl.lesion.recipe import Recipe, choose_recipe
from nescient_fl.lesion.training import make_optimiser, train_epoch

Batches = list[tuple[Tensor, Tensor]]
_CPU = torch.device("cpu")


def bare_batches(examples: Examples, recipe: Recipe) -> Batches:
    """Make every batch of an epoch in memory: inputs float32 [B, 1, 320, 390], targets float32 [B, 1]."""
    batcher = make_batcher(examples, recipe, _CPU, recipe.batch_size)
    parts = [examples.rows[start : start + recipe.batch_size] for start in range(0, len(examples), recipe.batch_size)]
    return [(batcher.inputs(rows, [STILL] * len(rows)).clone(), batcher.targets(rows)) for rows in parts]


def bare_epoch(network: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches) -> None:
    """Train one epoch and do nothing else: no order, no augmentation, no figures."""
    for inputs, targets in batches:
        loss = binary_cross_entropy_with_logits(network(inputs), targets)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()


def measure(examples: Examples, recipe: Recipe, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each epoch of the three loops, taken in turn after one epoch of warming up."""
    batches = bare_batches(examples, recipe)
    ours, bare, plain = build_network(seed=0), build_network(seed=0), plain_network(seed=0)
    optimisers = [make_optimiser(network, recipe) for network in (ours, bare, plain)]
    epochs = iter(range(repeats + 1))

    def site_epoch() -> None:
        batcher = make_batcher(examples, recipe, _CPU, recipe.batch_size)
        train_epoch(ours, optimisers[0], batcher, examples.rows, recipe, next(epochs))

    loops: dict[str, Callable[[], None]] = {
        "site": site_epoch,
        "bare": lambda: bare_epoch(bare, optimisers[1], batches),
        "plain": lambda: bare_epoch(plain, optimisers[2], batches),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(repeats + 1):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantom-images", type=int, default=2400, help="size of the phantom to take them of")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    examples = bench_data(arguments.phantom_images, arguments.images).examples()
    seconds = measure(examples, choose_recipe("default"), arguments.repeats)
    print(json.dumps({"images": len(examples), "seconds": seconds}))


if __name__ == "__main__":
    main()
