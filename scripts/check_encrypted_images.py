"""Do scores under encryption decide as the network does? Thousands of images through the protocol's plain twin.

    python scripts/check_encrypted_images.py RUN [--images 10000] [--out FILE.json]

Takes the model of a finished run and all radiographs of its pixel cache, first as they are, then mirrored and shifted
at random until there are enough. The model is compiled as it is for serving. Prints the largest and mean error of a
logit, decisions at the model's operating point that differ, and images of which a value wrapped around. The protocol
equals the twin number by number (tests/mpc/inference/test_protocol.py), and takes about as long; the images that a
study scores under encryption itself are in its metrics.json.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.lesion.batches import STILL, CpuBatcher, Examples, Placement
from nescient_fl.mpc.inference.compile import ModelWeights
from nescient_fl.mpc.inference.fidelity import Scorer, compare
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.inference.twin import simulate
from nescient_fl.radiographs.cache import PixelCache, open_cache
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.plans import calibration_of_run, compile_model
from nescient_fl.study.run_folder import read_json

_BATCH = 50


def batches(saved: SavedModel, cache: PixelCache, images: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield inputs float32 [n, 1, 320, 390] until there were so many images."""
    nothing = np.zeros(len(cache.pixels), np.float32)
    examples = Examples(cache.pixels, cache.mean, cache.std, nothing, np.arange(len(nothing)))
    batcher = CpuBatcher(examples, saved.recipe, _BATCH)
    generator = np.random.default_rng(seed)
    for start in range(0, images, _BATCH):
        numbers = np.arange(start, min(start + _BATCH, images))
        shift = saved.recipe.shift
        places = [
            STILL
            if number < len(nothing)
            else Placement(bool(generator.random() < 0.5), *map(int, generator.integers(-shift, shift + 1, 2)))
            for number in numbers
        ]
        yield batcher.inputs(numbers % len(nothing), places).numpy().copy()


def twin(plan: Plan, weights: ModelWeights) -> Scorer:
    """Return the plain twin of a plan."""
    return lambda inputs: simulate(plan, weights.layers, inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    saved = load_model(options.run)
    calibration = calibration_of_run(saved, options.run)
    if calibration is None:
        raise SystemExit(f"error: {options.run} has no pixel cache any more")
    served = compile_model(saved, calibration)
    network = saved.network()

    def plain(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits: NDArray[np.float64] = network(torch.from_numpy(inputs)).double().numpy()
        return logits

    scorers = [(plan, twin(plan, weights)) for plan, weights in zip(served.plans, served.weights, strict=True)]
    score = 0.5 if saved.threshold is None else saved.threshold
    threshold = math.log(score / (1 - score)) if 0 < score < 1 else math.copysign(math.inf, score - 0.5)
    cache = open_cache(Path(read_json(options.run / "config.json")["cache"]))
    started = time.perf_counter()
    found = compare(scorers, plain, batches(saved, cache, options.images, options.seed), threshold)
    seconds = time.perf_counter() - started
    print(f"{found.images} images of {options.run}, threshold {score:g}, {seconds:.0f} s")
    print(f"  logit error     largest {found.largest_error:.1e}, mean {found.mean_error:.1e}")
    print(f"  decisions       {found.flipped} differ")
    print(f"  wrapped around  {found.wrapped}; out of every plan's bounds {found.refused}")
    print(f"  scored by plan  {', '.join(map(str, found.by_plan))} (the narrowest first)")
    if options.out:
        options.out.write_text(json.dumps({**asdict(found), "threshold": score, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
