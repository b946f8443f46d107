"""What tuning the last layer gains at a shifted site, and how close encrypted tuning comes to the same in clear.

    python scripts/bench_tuning.py [--quick] [--out FILE.json]

A model is trained on synthetic radiographs. The site's are others, darkened by a gamma of 1.8 and blurred, as another
machine's may be. Three tenths of the site's patients are held out; the rest tune the last layer, in clear (with the
sigmoid itself) and under encryption (with its polynomial), three roles in three processes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_common import Figures, Line, bench_data
from PIL import Image, ImageFilter

from nescient_fl.arms.evaluation import EvaluationOptions
from nescient_fl.arms.tuning import TuningOptions, tune_model
from nescient_fl.lesion.batches import make_batcher
from nescient_fl.lesion.network import build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import choose_recipe
from nescient_fl.lesion.training import make_optimiser, train_epoch
from nescient_fl.radiographs.phantom import write_phantom
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.tuning import embeddings, last_layer, safe_rate

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


def write_trained(path: Path, images: int, epochs: int) -> float:
    """Write a model trained on the default phantom. Returns a rate that is safe for its features."""
    recipe, data = choose_recipe("default"), bench_data(images, images)
    network, examples = build_network(recipe.network, seed=0), data.examples()
    batcher = make_batcher(examples, recipe, torch.device("cpu"), recipe.batch_size)
    optimiser = make_optimiser(network, recipe)
    for epoch in range(epochs):
        train_epoch(network, optimiser, batcher, examples.rows, recipe, epoch)
    weights = get_weights(network)
    save_model(path, SavedModel(path, weights, recipe, "upright", 0.5, weights_sha256(weights)))
    some = np.arange(min(64, images))
    pixels = data.cache.pixels[some].astype(np.float32)
    inputs = ((pixels - data.cache.mean[some, None, None]) / data.cache.std[some, None, None])[:, None]
    return safe_rate(embeddings(network.eval(), inputs))


def main() -> None:
    """Tune both ways and print what came of it; status 1 when a target was missed."""
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
        rate = write_trained(folder / "model.safetensors", images, epochs)
        found, layers, seconds = {}, {}, {}
        for way in ("clear", "encrypted"):
            started = time.monotonic()
            out = folder / f"{way}.safetensors"
            tuning = TuningOptions(steps, rate, encrypted=way == "encrypted")
            options = EvaluationOptions(data=folder / "site")
            found[way] = tune_model(folder / "model.safetensors", options, tuning, out)
            layers[way], seconds[way] = last_layer(load_model(out).weights), time.monotonic() - started
        first = last_layer(load_model(folder / "model.safetensors").weights)
    before, after, clear = found["encrypted"]["before"], found["encrypted"]["after"], found["clear"]["after"]

    def score(part: dict[str, object], name: str) -> str:
        value = part["half"][name]["value"]  # type: ignore[index]
        return "-" if value is None else f"{value:.3f}"

    told = ", ".join(
        f"{name} {score(before, name)} before, {score(after, name)} after, {score(clear, name)} in clear"
        for name in ("accuracy", "recall", "auroc")
    )
    size = f"{found['encrypted']['images']} images, {steps} steps, {found['encrypted']['held_out']} held out"
    difference = float(np.abs(layers["encrypted"] - layers["clear"]).max())
    change = float(np.abs(layers["clear"] - first).max())
    ratio = before["loss"] / after["loss"]
    note = f"{before['loss']:.3f} before, {after['loss']:.3f} after, {clear['loss']:.3f} in clear; {size}"
    against = after["loss"] / clear["loss"]
    figures.add(
        [
            Line("tuning", "loss before / after encrypted tuning, held-out patients", (ratio,), target=1.1, note=note),
            Line(
                "tuning",
                "loss encrypted / in clear",
                (against,),
                target=1.1,
                bound="most",
                note=told,
            ),
            Line(
                "tuning", "largest difference of a weight", (difference,), "", note=f"tuning moved one by {change:.2f}"
            ),
            Line("tuning", "encrypted tuning", (seconds["encrypted"],), "s", note=f"{seconds['clear']:.1f} s in clear"),
        ]
    )
    figures.end()


if __name__ == "__main__":
    main()
