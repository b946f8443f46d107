"""The model owner's standing process for a tuning: offers its last layers, and ends when a clinic has tuned them."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.mpc.roster import OWNER
from nescient_fl.mpc.tuning.owners import Floats
from nescient_fl.mpc.tuning.plan import MOST_STEPS
from nescient_fl.serving.desk import Desk, Say
from nescient_fl.serving.layers import (
    DENSE,
    check_tunable,
    embeddings,
    frozen_digest,
    frozen_model,
    tuned_layers,
    with_layers_tuned,
)
from nescient_fl.serving.model import SavedModel, load_model, save_model
from nescient_fl.serving.plans import Inputs, calibration_of_folder, calibration_of_run
from nescient_fl.serving.rate import safe_rate
from nescient_fl.serving.settings import open_member, refusals, state_folder
from nescient_fl.serving.standing import READY, check_number, stopping
from nescient_fl.serving.tuning import TuningCost, TuningDesk, TuningOffer
from nescient_fl.study.run_folder import append_line

DEFAULT_STEPS, DEFAULT_DECAY = 60, 0.01
LOG = "tunings.jsonl"
"""In the owner's folder of state: a line of JSON for every tuning, ``TuningCost``."""


def serve_tuning(options: Mapping[str, Any], say: Say) -> None:
    """Offer a model's last layers until a clinic has tuned them, or until SIGINT or SIGTERM.

    Options: model, keys, roster, authority, clinic, out, frozen, calibration, layers, steps, rate, decay. Raises
    UserError for what cannot be.
    """
    if "model" not in options:
        raise UserError("name a run's folder, or a model's file")
    if "out" not in options:
        raise UserError("--out is missing: name the tuned model's file to write")
    out, path, layers = Path(options["out"]), Path(options["model"]), options.get("layers", len(DENSE))
    check_out(out)
    check_number("--layers", layers, 1, len(DENSE))
    check_number("--steps", options.get("steps", DEFAULT_STEPS), 1, MOST_STEPS)
    saved = load_model(path)
    check_tunable(saved, layers)
    keys, roster, own = open_member(options, OWNER)
    expected = [clinic for clinic in roster.clinics if options.get("clinic") in (None, clinic.name)]
    if not expected:
        raise UserError(f"--clinic is one of {', '.join(clinic.name for clinic in roster.clinics)}")
    if "frozen" in options:
        write_frozen(Path(options["frozen"]), saved, layers)
    offer = make_offer(saved, path, layers, options)

    def keep(tuned: list[Floats], cost: TuningCost) -> None:
        save_model(out, with_layers_tuned(saved, tuned))
        append_line(state_folder(keys) / LOG, asdict(cost))
        say(f"tuned with {cost.clinic} on {cost.images} images, written: {out}")

    state_folder(keys).mkdir(parents=True, exist_ok=True, mode=0o700)
    with refusals(), stopping() as stop:
        answers = TuningDesk(keys, roster, offer, keep, say, stop)
        desk = Desk(keys, roster, own, expected, answers.answer, say)
        say(f"{READY}: {' and '.join(DENSE[-layers:])} of {saved.path} at {own.address}, to be tuned by a clinic once")
        try:
            desk.run(stop)
        finally:
            answers.clear()
    if answers.failed is not None:
        raise UserError(answers.failed)
    if not answers.ended:
        say("ended before any clinic tuned")


def make_offer(saved: SavedModel, path: Path, layers: int, options: Mapping[str, Any]) -> TuningOffer:
    """Return what is offered; options as of ``serve_tuning``. Raises UserError for what cannot be."""
    weights = tuned_layers(saved.weights, layers)
    steps, decay = options.get("steps", DEFAULT_STEPS), float(options.get("decay", DEFAULT_DECAY))
    rate = options.get("rate")
    if rate is None:
        features = owners_features(saved, path, layers, options.get("calibration"))
        rate = safe_rate(features, weights, steps, decay)
    offer = TuningOffer(weights, steps, float(rate), decay, frozen_digest(saved, layers))
    with refusals():
        offer.check()
    return offer


def owners_features(saved: SavedModel, path: Path, layers: int, calibration: Path | None = None) -> Floats:
    """Return what the frozen layers make of the owner's own radiographs; the clinic's have no part in it.

    ``calibration`` is a folder of typical ones, None those that the run at ``path`` was trained on. Raises UserError
    when they are gone.
    """
    inputs: Inputs | None
    if calibration is not None:
        inputs = calibration_of_folder(saved, calibration)
    else:
        inputs = calibration_of_run(saved, path) if path.is_dir() else None
    if inputs is None:
        raise UserError("--rate is missing: the radiographs that this model was trained on, which tell it, are gone")
    return embeddings(saved.network(), inputs)[layers]


def check_out(out: Path) -> None:
    """Raise UserError unless a file can be written there anew."""
    if out.exists() or not out.parent.is_dir():
        raise UserError(f"--out {out}: name a new file in a folder that is there")


def write_frozen(path: Path, saved: SavedModel, layers: int) -> None:
    """Write the frozen layers for clinics; a file of the very same is left. Raises UserError for another one."""
    if path.exists():
        with contextlib.suppress(UserError):
            if frozen_digest(load_model(path), layers) == frozen_digest(saved, layers):
                return
        raise UserError(f"--frozen {path} is something else: name a new file")
    if not path.parent.is_dir():
        raise UserError(f"--frozen {path}: there is no folder {path.parent}")
    save_model(path, frozen_model(saved, layers))
