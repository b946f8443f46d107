"""The last layer of a model tuned on a clinic's labelled radiographs: owner, clinic and dealer as local processes.

The clinic holds radiographs, labels and the frozen layers (all but the last), and so its embeddings. The owner holds
the last layer, learns the tuned one, and nothing else of the clinic's. The processes are this module run as a program.
"""

import json
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import LesionNetwork, Weights
from nescient_fl.mpc.channel import BYE, Channel, Deadline
from nescient_fl.mpc.errors import EncodingError, MpcError, PlanError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys, load_keys
from nescient_fl.mpc.roster import OWNER as OWNER_ROLE
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.mpc.tuning import TuningMaterial, TuningPlan, tune_as_data_owner, tune_as_model_owner
from nescient_fl.radiographs.cache import PixelCache, open_cache
from nescient_fl.serving.clinic import Inputs
from nescient_fl.serving.dealing import fetch_tuning, order_tuning
from nescient_fl.serving.desk import REFUSED, STEP_SECONDS, Desk, unexpected
from nescient_fl.serving.local import CLINIC, DEALER, OWNER, LocalPlace, cached_inputs
from nescient_fl.serving.messages import PURPOSE, AskTuning, Go, Message, TuningTerms, hear, tell
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.pair import Pair
from nescient_fl.serving.standing import READY
from nescient_fl.study.run_folder import read_json, write_json

LAST = "dense3"
_MODULE = "nescient_fl.serving.tuning"
_CHUNK = 32
Floats = NDArray[np.float64]


def embeddings(network: LesionNetwork, inputs: Inputs | NDArray[np.float32]) -> Floats:
    """Return what the last layer of a network sees of inputs, and a 1 for its bias: float64 [n, features]."""
    layers = OrderedDict((name, layer) for name, layer in network.named_children() if name != LAST)
    frozen = LesionNetwork(layers).eval()
    with torch.inference_mode():
        parts = [
            frozen(torch.from_numpy(inputs[start : start + _CHUNK])).double().numpy()
            for start in range(0, len(inputs), _CHUNK)
        ]
    return np.concatenate([np.concatenate(parts), np.ones((len(inputs), 1))], axis=1)


def last_layer(weights: Weights) -> Floats:
    """Return the last layer's weights and bias, float64 [features]."""
    joined = torch.cat([weights[f"{LAST}.weight"].reshape(-1), weights[f"{LAST}.bias"]])
    return np.asarray(joined.double().numpy(), np.float64)


def with_last_layer(weights: Weights, values: Floats) -> Weights:
    """Return the weights with another last layer."""
    found = torch.from_numpy(values).float()
    return {**weights, f"{LAST}.weight": found[:-1].reshape(1, -1), f"{LAST}.bias": found[-1:]}


def safe_rate(features: Floats) -> float:
    """Return a step's rate at which gradient descent on features like these does not diverge.

    The logistic loss curves at most a quarter of the features' largest second moment; half of what that allows.
    """
    largest = float(np.linalg.eigvalsh(features.T @ features / len(features))[-1])
    return float(np.clip(4 / largest, 1e-4, 100.0))


def tune_locally(
    saved: SavedModel,
    cache: PixelCache,
    rows: NDArray[np.int64],
    labels: Floats,
    steps: int,
    rate: float,
    decay: float,
    say: Callable[[str], None] | None = None,
) -> Floats:
    """Tune the last layer on labelled rows of a cache under encryption. Returns it, float64 [features].

    Raises UserError with what a role said when one fails.
    """
    with tempfile.TemporaryDirectory(prefix="nescient-") as folder:
        place = LocalPlace(Path(folder), say or (lambda _: None), lambda: None)
        place.make_keys()
        save_model(place.folder / "owner.safetensors", saved)
        # The clinic's copy has no last layer: nothing but zeros stands there.
        hidden = with_last_layer(saved.weights, np.zeros(len(last_layer(saved.weights))))
        save_model(place.folder / "frozen.safetensors", replace(saved, weights=hidden))
        np.save(place.rows, rows)
        np.save(place.folder / "labels.npy", labels)
        write_json(place.job, {"cache": str(cache.directory), "steps": steps, "rate": rate, "decay": decay})
        dealing = place.role(DEALER, "nescient_fl.deal", *place.who(DEALER))
        with dealing, place.role(OWNER, _MODULE, OWNER, folder):
            clinic = place.start(CLINIC, _MODULE, CLINIC, folder)
            try:
                place.follow(clinic, CLINIC)
            finally:
                clinic.kill()
                clinic.wait()
            if clinic.returncode:
                raise UserError(place.last_words(CLINIC))
        tuned = place.folder / "tuned.npy"
        if not tuned.exists():
            raise UserError(place.last_words(OWNER))
        return np.asarray(np.load(tuned, allow_pickle=False), np.float64)


class TuningDesk:
    """What an owner answers who lets its last layer be tuned; ``keep`` is given the tuned one."""

    def __init__(
        self,
        keys: MemberKeys,
        roster: Roster,
        weights: Floats,
        terms: tuple[int, float, float],
        keep: Callable[[Floats], None],
    ) -> None:
        self._keys, self._roster, self._weights, self._terms, self._keep = keys, roster, weights, terms, keep

    def answer(self, channel: Channel, message: Message) -> None:
        """Answer one message. Raises MaterialError for what is refused."""
        if not isinstance(message, AskTuning):
            raise unexpected(channel, message)
        steps, rate, decay = self._terms
        plan = TuningPlan(message.images, len(self._weights), steps, rate, decay)
        name, seed, corrections = order_tuning(self._keys, self._roster, channel.peer, plan)
        terms = TuningTerms(plan.features, steps, rate, decay, name)
        tell(channel, terms, Deadline(STEP_SECONDS))
        hear(channel, Go, Deadline(STEP_SECONDS))
        try:
            material = TuningMaterial(plan, seed, corrections)
            self._keep(tune_as_model_owner(Pair(channel, 0, STEP_SECONDS), plan, self._weights, material))
        except (*REFUSED, EncodingError) as error:
            # Within the protocol there is no place for an answer: the connection ends.
            raise SessionAborted(str(error)) from None
        tell(channel, Go(), Deadline(STEP_SECONDS))


def give_to_tuning(keys: MemberKeys, roster: Roster, owner: str, features: Floats, labels: Floats) -> None:
    """Have an owner's last layer tuned on features [n, features] and labels [n] of 0 and 1, and learn nothing.

    Raises MaterialError, PlanError, EncodingError, or SessionAborted when a peer is lost.
    """
    peer = roster.member(owner, OWNER_ROLE)
    channel = greeted(keys, peer, hello(PURPOSE, roster), Deadline(STEP_SECONDS))
    try:
        tell(channel, AskTuning(len(features)), Deadline(STEP_SECONDS))
        terms = hear(channel, TuningTerms, Deadline(STEP_SECONDS))
        if terms.features != features.shape[1]:
            raise PlanError(f"{owner} tunes a layer of {terms.features} features, these are {features.shape[1]}")
        plan = TuningPlan(len(features), terms.features, terms.steps, terms.rate, terms.decay)
        material = TuningMaterial(plan, fetch_tuning(keys, roster, owner, terms.material), None)
        tell(channel, Go(), Deadline(STEP_SECONDS))
        tune_as_data_owner(Pair(channel, 1, STEP_SECONDS), plan, features, labels, material)
        # Only now has the owner seen that its result can be one.
        hear(channel, Go, Deadline(STEP_SECONDS))
        channel.send(BYE, b"", Deadline(STEP_SECONDS))
    finally:
        channel.close()


def _owner(place: LocalPlace) -> None:
    job, keys, roster = read_json(place.job), load_keys(place.folder / OWNER), place.roster()
    saved, stop = load_model(place.folder / "owner.safetensors"), threading.Event()

    def keep(tuned: Floats) -> None:
        np.save(place.folder / "tuned.npy", tuned)

    terms = (int(job["steps"]), float(job["rate"]), float(job["decay"]))
    answers = TuningDesk(keys, roster, last_layer(saved.weights), terms, keep)
    own = roster.member(keys.name, OWNER_ROLE)
    desk = Desk(keys, roster, own, roster.clinics, answers.answer, _say)
    _say(f"{READY}: owner")
    desk.run(stop)


def _clinic(place: LocalPlace) -> None:
    job, keys = read_json(place.job), load_keys(place.folder / CLINIC)
    saved = load_model(place.folder / "frozen.safetensors")
    rows = np.load(place.rows, allow_pickle=False)
    labels = np.load(place.folder / "labels.npy", allow_pickle=False)
    inputs = cached_inputs(open_cache(Path(job["cache"])), rows, saved.recipe.standardise)
    features = embeddings(saved.network(), inputs)
    _say(f"tuning on {len(rows)} radiographs")
    give_to_tuning(keys, place.roster(), OWNER, features, labels)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    _part: dict[str, Callable[[LocalPlace], Any]] = {OWNER: _owner, CLINIC: _clinic}
    try:
        _part[sys.argv[1]](LocalPlace(Path(sys.argv[2]), _say, lambda: None))
    except (MpcError, UserError) as error:
        _say(json.dumps(str(error))[1:-1])
        raise SystemExit(2) from None
