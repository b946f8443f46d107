"""What tuning the last layers gains at a shifted site, and how close encrypted tuning comes to the same in clear.

    python scripts/bench_tuning.py [--quick] [--out FILE.json]

A model is trained on synthetic radiographs. The site's are others, darkened by a gamma of 1.8 and blurred, as another
machine's may be. Three tenths of the site's patients are held out; the rest tune the last two dense layers, in clear
(with the sigmoid itself) and under encryption (with its pieces), three roles in three processes; and the last layer
alone, in clear. Rates are those that the owner's own radiographs say are safe.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bench_common import Figures, Line, bench_data
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nescient_fl.arms.evaluation import EvaluationOptions
from nescient_fl.arms.tuning import TuningOptions, tune_model
from nescient_fl.lesion.batches import make_batcher
from nescient_fl.lesion.network import build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import choose_recipe
from nescient_fl.lesion.training import make_optimiser, train_epoch
from nescient_fl.radiographs.phantom import write_phantom
from nescient_fl.serving.layers import embeddings, tuned_layers
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.offer import DEFAULT_DECAY
from nescient_fl.serving.plans import CALIBRATION_IMAGES
from nescient_fl.serving.rate import safe_rate

_GAMMA = 1.8
_BLUR = 1.2
_SITE_SEED = 4242


def write_shifted(folder: Path, images: int) -> None:
    """Write a phantom of its own seed, every picture shifted."""
    write_phantom(folder, images, _SITE_SEED)
    grey = (255 * (np.arange(256) / 255) ** _GAMMA).round().astype(np.uint8)
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as picture:
            shifted = Image.fromarray(grey[np.asarray(picture.convert("L"))]).filter(ImageFilter.GaussianBlur(_BLUR))
        shifted.save(path, quality=95)


def write_trained(path: Path, images: int, epochs: int, steps: int) -> dict[int, float]:
    """Write a model trained on the default phantom. Returns safe rates, by how many layers are tuned."""
    recipe, data = choose_recipe("default"), bench_data(images, images)
    network, examples = build_network(recipe.network, seed=0), data.examples()
    batcher = make_batcher(examples, recipe, torch.device("cpu"), recipe.batch_size)
    optimiser = make_optimiser(network, recipe)
    for epoch in range(epochs):
        train_epoch(network, optimiser, batcher, examples.rows, recipe, epoch)
    weights = get_weights(network)
    save_model(path, SavedModel(path, weights, recipe, "upright", 0.5, weights_sha256(weights)))
    inputs = cached_inputs(data.cache, np.arange(min(CALIBRATION_IMAGES, images)), recipe.standardise)
    return {
        layers: safe_rate(features, tuned_layers(weights, layers), steps, DEFAULT_DECAY)
        for layers, features in embeddings(network.eval(), inputs).items()
    }


@dataclass(frozen=True)
class Tuned:
    """What one way of tuning came to: its figures, the tuned layers, and seconds in all."""

    figures: dict[str, Any]
    layers: list[NDArray[np.float64]]
    seconds: float


def tuned(folder: Path, name: str, tuning: TuningOptions) -> Tuned:
    """Tune one way."""
    started, out = time.monotonic(), folder / f"{name}.safetensors"
    figures = tune_model(folder / "model.safetensors", EvaluationOptions(data=folder / "site"), tuning, out)
    return Tuned(figures, tuned_layers(load_model(out).weights, 2), time.monotonic() - started)


def farthest(left: list[NDArray[np.float64]], right: list[NDArray[np.float64]]) -> float:
    """Return the largest difference of two weights."""
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


def lines(encrypted: Tuned, clear: Tuned, last: Tuned, first: list[NDArray[np.float64]]) -> list[Line]:
    """Return what was measured."""
    before, after, plain = encrypted.figures["before"], encrypted.figures["after"], clear.figures["after"]
    alone, cost = last.figures["after"], encrypted.figures["protocol"]

    def score(part: dict[str, Any], name: str) -> str:
        value = part["half"][name]["value"]
        return "-" if value is None else f"{value:.3f}"

    told = ", ".join(
        f"{name} {score(before, name)} before, {score(after, name)} after, {score(plain, name)} in clear"
        for name in ("auroc", "accuracy", "recall")
    )
    size = f"{encrypted.figures['images']} images, {encrypted.figures['held_out']} held out"
    steps = f"{encrypted.figures['steps']} steps at rate {encrypted.figures['rate']:.3f}"
    gained = f"{before['loss']:.3f} before, {after['loss']:.3f} after, {plain['loss']:.3f} in clear; {size}; {steps}"
    alike = f"last alone {alone['loss']:.3f}, AUROC {score(alone, 'auroc')}, both {score(plain, 'auroc')}"
    moved = f"tuning moved one by {farthest(clear.layers, first):.2f}"
    took = f"{encrypted.seconds:.1f} s with everything around it, {clear.seconds:.1f} s in clear"
    offline = f"{cost['offline_bytes'] / 1e6:.0f} MB from the dealer in {cost['offline_seconds']:.1f} s before"
    sent = (cost["bytes_sent"] + cost["bytes_received"]) / 2e6
    most: Literal["most"] = "most"
    return [
        Line("gain", "loss before / after encrypted tuning, held-out patients", (before["loss"] / after["loss"],),
             target=1.1, note=gained),
        Line("gain", "loss both layers / last layer alone, in clear", (plain["loss"] / alone["loss"],), target=1.0,
             bound=most, note=alike),
        Line("fidelity", "loss encrypted / in clear", (after["loss"] / plain["loss"],), target=1.01, bound=most,
             note=told),
        Line("fidelity", "largest difference of a weight", (farthest(encrypted.layers, clear.layers),), "",
             target=5e-3, bound=most, note=moved),
        Line("cost", "encrypted steps", (cost["seconds"],), "s", target=60, bound=most, note=took),
        Line("cost", "rounds", (cost["rounds"],), ""),
        Line("cost", "sent by a party", (sent,), "MB", note=offline),
        Line("cost", "peak memory of the owner", (cost["peak_memory"] / 1e6,), "MB"),
    ]  # fmt: skip


def main() -> None:
    """Tune every way and print what came of it; status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; proves nothing")
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    images, epochs, site, steps = (40, 1, 80, 3) if arguments.quick else (2400, 4, 600, 60)
    figures = Figures(arguments.quick, arguments.out)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nescient-bench-") as name:
        folder = Path(name)
        write_shifted(folder / "site", site)
        rates = write_trained(folder / "model.safetensors", images, epochs, steps)
        clear = tuned(folder, "clear", TuningOptions(steps, rates[2]))
        last = tuned(folder, "last", TuningOptions(steps, rates[1], layers=1))
        encrypted = tuned(folder, "encrypted", TuningOptions(steps, rates[2], encrypted=True))
        first = tuned_layers(load_model(folder / "model.safetensors").weights, 2)
    figures.add(lines(encrypted, clear, last, first))
    figures.end()


if __name__ == "__main__":
    main()
