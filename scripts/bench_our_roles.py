"""The product's own roles of encrypted inference, for bench_encrypted.py: their keys, and the clinic's process.

    python scripts/bench_our_roles.py FOLDER --batch 8 --repeats 3
    python scripts/bench_our_roles.py FOLDER --batch 32 --many 10000

FOLDER is what ``write_roles`` made; owner and dealer are the product's own commands. The clinic prints what it
measured as one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import bench_data
from numpy.typing import NDArray

from nescient_fl.lesion.batches import STILL, Placement, make_batcher
from nescient_fl.lesion.network import build_network, get_weights, weights_sha256
from nescient_fl.lesion.recipe import choose_recipe
from nescient_fl.lesion.training import make_optimiser, train_epoch
from nescient_fl.mpc.keys import load_keys, new_keys, public_part
from nescient_fl.mpc.roster import Roster, read_signed, sign_roster, write_signed
from nescient_fl.serving.clinic import Inputs, Scored, score
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.plans import compile_model, keep_model
from nescient_fl.serving.settings import state_folder
from nescient_fl.study.checkpoint import save_checkpoint

_SESSION = 512
"""Images of one session where there are many: their material lies on the disk until it is used."""
_SHIFTS = ((False, 0, 0), (True, 0, 0), (False, 5, -3), (True, -4, 6), (False, -8, 8))


def write_roles(folder: Path, addresses: Mapping[str, str], trained_on: int = 0) -> list[list[str]]:
    """Make keys, roster, a model and its plans. Returns the command lines of owner and dealer, after ``python``.

    The model has random weights, or was trained for three epochs on so many synthetic radiographs.
    """
    members = [
        public_part(new_keys(folder / name, name, name), addresses.get(name)) for name in ("owner", "clinic", "dealer")
    ]
    authority = new_keys(folder / "authority", "authority", "authority")
    write_signed(sign_roster(Roster("bench", 1, tuple(members), 3), authority), folder / "roster.json")
    trusted = public_part(authority).signing_key
    (folder / "authority.txt").write_text(trusted)
    network = build_network(seed=0)
    if trained_on:
        recipe, examples = choose_recipe("default"), bench_data(trained_on, trained_on).examples()
        batcher = make_batcher(examples, recipe, torch.device("cpu"), recipe.batch_size)
        optimiser = make_optimiser(network, recipe)
        for epoch in range(3):
            train_epoch(network, optimiser, batcher, examples.rows, recipe, epoch)
    weights = get_weights(network)
    about = {"geometry": "upright", "standardise": True, "activation": "relu", "threshold": 0.5}
    save_checkpoint(folder / "model.safetensors", {"model": weights}, {**about, "sha256": weights_sha256(weights)})
    saved = load_model(folder / "model.safetensors")
    calibration = torch.randn(16, 1, 320, 390, generator=torch.Generator().manual_seed(1)).numpy()
    keep_model(compile_model(saved, calibration), state_folder(load_keys(folder / "owner")) / saved.sha256[:16])
    common = ["--roster", str(folder / "roster.json"), "--authority", trusted]
    return [
        [
            "-m",
            "nescient_fl.serve_model",
            str(saved.path),
            "--keys",
            str(folder / "owner"),
            "--limit",
            "1000000",
            *common,
        ],
        ["-m", "nescient_fl.deal", "--keys", str(folder / "dealer"), *common],
    ]


class Clinic:
    """The clinic, and what it may not know: the model, to compare with."""

    def __init__(self, folder: Path, batch: int) -> None:
        self._keys = load_keys(folder / "clinic")
        self._roster = read_signed(folder / "roster.json", (folder / "authority.txt").read_text())
        self._batch = batch
        self.saved: SavedModel = load_model(folder / "model.safetensors")
        self._network = self.saved.network()

    def score(self, inputs: NDArray[np.float32]) -> tuple[Scored, NDArray[np.float64]]:
        """Score inputs [n, 1, 320, 390] both ways: encrypted, and logits in clear, float64 [n]."""
        every = Inputs(lambda numbers: inputs[numbers], np.arange(len(inputs)))
        found = score(self._keys, self._roster, "owner", lambda _: every, state_folder(self._keys), self._batch)
        with torch.inference_mode():
            return found, self._network(torch.from_numpy(inputs)).squeeze(1).double().numpy()


def measure(clinic: Clinic, batch: int, repeats: int, warm: int) -> dict[str, Any]:
    """Score ``warm + repeats`` batches of noise, each in a session of its own."""
    generator = torch.Generator().manual_seed(0)
    seconds, errors, set_up, offline = [], [], [], []
    for number in range(warm + repeats):
        found, plain = clinic.score(torch.randn(batch, 1, 320, 390, generator=generator).numpy())
        (session,) = found.sessions
        if number < warm:
            continue
        seconds.append(session.online.seconds)
        set_up.append(found.seconds - session.online.seconds)
        offline.append(found.offline.seconds)
        errors.append(float(np.abs(found.logits - plain).max()))
    return {
        "seconds": seconds,
        "errors": errors,
        "rounds": session.online.rounds,
        "bytes_sent": max(session.online.bytes_sent, session.online.bytes_received),
        "set_up": set_up,
        "offline": offline,
        "offline_bytes": found.offline.bytes_sent,
    }


def measure_many(clinic: Clinic, images: int, phantom: int) -> dict[str, Any]:
    """Score many synthetic radiographs, each as it is, mirrored and shifted, and count what went wrong."""
    examples = bench_data(phantom, phantom).examples()
    batcher = make_batcher(examples, clinic.saved.recipe, torch.device("cpu"), _SESSION)
    make: Callable[[int], NDArray[np.float32]] = lambda start: _some(batcher, len(examples), start, images)  # noqa: E731
    errors, flipped, seconds, started = [], 0, 0.0, time.monotonic()
    for start in range(0, images, _SESSION):
        found, plain = clinic.score(make(start))
        errors += list(np.abs(found.logits - plain))
        flipped += int(((found.logits >= 0) != (plain >= 0)).sum())
        seconds += sum(session.online.seconds for session in found.sessions)
    return {
        "images": len(errors),
        "flipped": flipped,
        "wrapped": int((np.array(errors) > 0.1).sum()),
        "largest_error": float(max(errors)),
        "seconds": seconds,
        "wall": time.monotonic() - started,
    }


def _some(batcher: Any, count: int, start: int, images: int) -> NDArray[np.float32]:
    numbers = np.arange(start, min(start + _SESSION, images))
    placements = [Placement(*_SHIFTS[number // count % len(_SHIFTS)]) for number in numbers]
    assert Placement(*_SHIFTS[0]) == STILL
    made: NDArray[np.float32] = batcher.inputs(numbers % count, placements).numpy().copy()
    return made


def main() -> None:
    """Be the clinic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="batches before those that are timed")
    parser.add_argument("--many", type=int, default=0, help="score so many radiographs instead")
    parser.add_argument("--phantom-images", type=int, default=2400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clinic = Clinic(arguments.folder, arguments.batch)
    if arguments.many:
        found = measure_many(clinic, arguments.many, arguments.phantom_images)
    else:
        found = measure(clinic, arguments.batch, arguments.repeats, arguments.warm)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
