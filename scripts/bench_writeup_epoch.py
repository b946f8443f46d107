"""How much quicker an epoch of the paper's recipe is than the way the study's write-up reads its images.

    OMP_NUM_THREADS=1 python scripts/bench_writeup_epoch.py [--images 160] [--repeats 5]

The write-up's way, every epoch: each JPEG opened with PIL, its pixels listed one by one, made an array,
turned to 320 rows, widened to 390 columns and divided by 255; batches of 8; torch's own layers with a sigmoid
at the end and binary cross-entropy. Ours: the same recipe from the pixel cache. Prints JSON: seconds.
"""

import argparse
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bench_common import BenchData, bench_data, plain_network
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from nescient_fl.lesion.batches import make_batcher
from nescient_fl.lesion.network import build_network
from nescient_fl.lesion.recipe import Recipe, choose_recipe
from nescient_fl.lesion.training import make_optimiser, train_epoch
from nescient_fl.radiographs.cache import build_cache
from sites.chexpert import SOURCE

ROWS, COLUMNS = 320, 390
_CPU = torch.device("cpu")


def read_as_the_writeup(path: Path) -> NDArray[np.float32]:
    """Read one JPEG pixel by pixel. Returns float32 [320, 390] of 0 to 1; rows stay rows."""
    with Image.open(path) as image:
        pixels = np.array(list(image.getdata())).reshape(image.height, image.width)
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.transpose()
    pixels = pixels[:ROWS, :COLUMNS]
    missing = ((0, ROWS - pixels.shape[0]), (0, COLUMNS - pixels.shape[1]))
    return (np.pad(pixels, missing, mode="edge") / 255).astype(np.float32)


def writeup_epoch(
    network: nn.Module, optimiser: torch.optim.Optimizer, paths: Sequence[Path], targets: NDArray[np.float32]
) -> None:
    """Train one epoch over the JPEGs in order, 8 at a time."""
    criterion = nn.BCELoss()
    for start in range(0, len(paths), 8):
        batch = paths[start : start + 8]
        inputs = torch.from_numpy(np.stack([read_as_the_writeup(path) for path in batch])).unsqueeze(1)
        loss = criterion(network(inputs), torch.from_numpy(targets[start : start + 8]).unsqueeze(1))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()


def measure(data: BenchData, recipe: Recipe, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of epochs done the write-up's way and ours, in turn, and of making a cache."""
    warnings.simplefilter("ignore", DeprecationWarning)
    examples = data.examples()
    theirs, ours = plain_network(seed=0, sigmoid=True), build_network(seed=0)
    their_optimiser, our_optimiser = make_optimiser(theirs, recipe), make_optimiser(ours, recipe)
    batcher = make_batcher(examples, recipe, _CPU, recipe.batch_size)
    writeup_epoch(theirs, their_optimiser, data.paths[:16], examples.targets[:16])
    train_epoch(ours, our_optimiser, batcher, examples.rows, recipe, 0)
    seconds: dict[str, list[float]] = {"writeup": [], "ours": [], "decoding": []}
    for repeat in range(1, repeats + 1):
        started = time.perf_counter()
        writeup_epoch(theirs, their_optimiser, data.paths, examples.targets)
        between = time.perf_counter()
        train_epoch(ours, our_optimiser, batcher, examples.rows, recipe, repeat)
        after = time.perf_counter()
        seconds["writeup"].append(between - started)
        seconds["ours"].append(after - between)
        seconds["decoding"].append(_seconds_to_decode(data))
    return seconds


def _seconds_to_decode(data: BenchData) -> float:
    """Make the pixel cache anew, which a study does once; one thread, as the epochs have."""
    folder = Path(tempfile.mkdtemp(prefix="nescient-bench-"))
    try:
        started = time.perf_counter()
        build_cache({SOURCE: data.folder}, data.table, "paper", folder, workers=1)
        return time.perf_counter() - started
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantom-images", type=int, default=2400, help="size of the phantom to take them of")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = bench_data(arguments.phantom_images, arguments.images, "paper")
    seconds = measure(data, choose_recipe("paper"), arguments.repeats)
    print(json.dumps({"images": len(data.table), "seconds": seconds}))


if __name__ == "__main__":
    main()
