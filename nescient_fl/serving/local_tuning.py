"""A tuning under encryption with all three roles as processes of this machine, over mutual TLS.

Owner and dealer are ``nescient serve-model --tune`` and ``nescient deal`` as anybody would start them; the clinic is
this module run as a program, with radiographs, labels and the frozen file that the owner wrote.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.keys import load_keys
from nescient_fl.mpc.tuning.owners import Floats
from nescient_fl.radiographs.cache import PixelCache, open_cache
from nescient_fl.serving.clinic import Inputs
from nescient_fl.serving.layers import embeddings, frozen_digest, tuned_layers
from nescient_fl.serving.local import CLINIC, DEALER, OWNER, LocalPlace, cached_inputs
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.offer import LOG
from nescient_fl.serving.settings import state_folder
from nescient_fl.serving.tuning import give_to_tuning
from nescient_fl.study.run_folder import read_json, read_lines, write_json

_WRITE_SECONDS = 30.0


def tune_locally(
    model: Path,
    cache: PixelCache,
    rows: NDArray[np.int64],
    labels: Floats,
    options: dict[str, Any],
    say: Callable[[str], None] | None = None,
) -> tuple[list[Floats], dict[str, Any]]:
    """Tune the last layers of a run's model or a file on labelled rows of a cache, under encryption.

    ``options``: layers, steps, rate, decay. Returns the tuned layers, and what it took (``TuningCost``). Raises
    UserError with what a role said when one fails.
    """
    with tempfile.TemporaryDirectory(prefix="nescient-") as folder:
        place = LocalPlace(Path(folder), say or (lambda _: None), lambda: None)
        place.make_keys()
        np.save(place.rows, rows)
        np.save(place.folder / "labels.npy", labels)
        write_json(place.job, {"cache": str(cache.directory)})
        tuned = place.folder / "tuned.safetensors"
        said = [f"--{name}={value}" for name, value in options.items()]
        files = ("--out", str(tuned), "--frozen", str(_frozen(place)))
        serving = ("nescient_fl.serve_model", str(model), "--tune", *files, *said, *place.who(OWNER))
        dealing = place.role(DEALER, "nescient_fl.deal", *place.who(DEALER))
        with dealing, place.role(OWNER, *serving) as owner:
            status = place.run(CLINIC, "nescient_fl.serving.local_tuning", folder)
            if status:
                killed = f"clinic: was ended by signal {-status}"
                raise UserError(killed if status < 0 else place.last_words(CLINIC))
            try:
                owner.wait(_WRITE_SECONDS)
            except subprocess.TimeoutExpired:
                raise UserError("owner: did not end after the clinic did") from None
        if owner.returncode or not tuned.exists():
            raise UserError(place.last_words(OWNER))
        (cost,) = read_lines(state_folder(load_keys(place.folder / OWNER)) / LOG)
        return tuned_layers(load_model(tuned).weights, int(options["layers"])), cost


def features_of(saved: SavedModel, inputs: Inputs) -> dict[int, tuple[str, Floats]]:
    """Return, by how many layers are tuned, the frozen ones' digest and what they make of inputs."""
    found = embeddings(saved.network(), inputs)
    return {layers: (frozen_digest(saved, layers), features) for layers, features in found.items()}


def _frozen(place: LocalPlace) -> Path:
    return place.folder / "frozen.safetensors"


def _clinic(place: LocalPlace) -> None:
    keys, saved = load_keys(place.folder / CLINIC), load_model(_frozen(place))
    rows = np.load(place.rows, allow_pickle=False)
    labels = np.load(place.folder / "labels.npy", allow_pickle=False)
    inputs = cached_inputs(open_cache(Path(read_json(place.job)["cache"])), rows, saved.recipe.standardise)
    place.say(f"tuning on {len(rows)} radiographs")
    give_to_tuning(keys, place.roster(), OWNER, len(rows), features_of(saved, inputs), labels, place.say)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    try:
        _clinic(LocalPlace(Path(sys.argv[1]), _say, lambda: None))
    except (MpcError, UserError) as error:
        _say(json.dumps(str(error))[1:-1])
        raise SystemExit(2) from None
