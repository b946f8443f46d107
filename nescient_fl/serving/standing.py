"""Standing processes of the model owner and the dealer: serve until told to stop."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.mpc.roster import DEALER, OWNER
from nescient_fl.serving.dealing import DealerDesk
from nescient_fl.serving.desk import Desk, Say
from nescient_fl.serving.messages import MOST_BATCHES, MOST_IMAGES
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.owner import OwnerDesk
from nescient_fl.serving.plans import (
    ServedModel,
    calibration_of_folder,
    calibration_of_run,
    compile_model,
    keep_model,
    kept_model,
)
from nescient_fl.serving.settings import open_member, refusals, state_folder

DEFAULT_LIMIT = 10_000
READY = "ready"


def serve_model(options: Mapping[str, Any], say: Say) -> None:
    """Serve a model until SIGINT or SIGTERM. Options: model, keys, roster, authority, calibration, limit, ahead, batch.

    Raises UserError for what cannot be.
    """
    limit, ahead, batch = options.get("limit", DEFAULT_LIMIT), options.get("ahead", 0), options.get("batch", 8)
    check_number("--limit", limit, 0, 1 << 40)
    check_number("--ahead", ahead, 0, MOST_BATCHES)
    check_number("--batch", batch, 1, MOST_IMAGES)
    if "model" not in options:
        raise UserError("name a run's folder, or a model's file")
    keys, roster, own = open_member(options, OWNER)
    saved = load_model(Path(options["model"]))
    folder = state_folder(keys)
    model = _made_ready(saved, Path(options["model"]), options.get("calibration"), folder / saved.sha256[:16], say)
    with refusals(), stopping() as stop:
        owner = OwnerDesk(keys, roster, model, folder, limit, say)
        desk = Desk(keys, roster, own, roster.clinics, owner.answer, say)
        say(f"{READY}: {saved.path} at {own.address}, {limit:,} images for each of {len(roster.clinics)} clinics")
        if ahead:
            work = threading.Thread(target=_keep_stock, args=(owner, ahead, batch, stop), daemon=True)
            work.start()
        desk.run(stop)


def deal(options: Mapping[str, Any], say: Say) -> None:
    """Deal until SIGINT or SIGTERM. Options: keys, roster, authority. Raises UserError for what cannot be."""
    keys, roster, own = open_member(options, DEALER)
    with refusals(), stopping() as stop:
        dealer = DealerDesk(roster, state_folder(keys), say)
        desk = Desk(keys, roster, own, (*roster.owners, *roster.clinics), dealer.answer, say)
        say(f"{READY}: dealer at {own.address}")
        desk.run(stop)


def _made_ready(saved: SavedModel, path: Path, calibration: Path | None, folder: Path, say: Say) -> ServedModel:
    if calibration is None and (kept := kept_model(saved, folder)) is not None:
        return kept
    if calibration is not None:
        inputs = calibration_of_folder(saved, calibration)
    else:
        found = calibration_of_run(saved, path) if path.is_dir() else None
        if found is None:
            raise UserError(
                "name a folder of typical radiographs with --calibration: the widths of the protocol follow from them"
            )
        inputs = found
    say(f"compiling {saved.path} for inputs like those of {len(inputs)} radiographs")
    model = compile_model(saved, inputs)
    keep_model(model, folder)
    return model


def _keep_stock(owner: OwnerDesk, ahead: int, batch: int, stop: threading.Event) -> None:
    while not stop.is_set():
        owner.stock_up(ahead, batch, stop)
        stop.wait(5.0)


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C or SIGTERM sets."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_number(name: str, value: Any, least: int, most: int) -> None:
    """Raise UserError for a number out of its range."""
    if not least <= value <= most:
        raise UserError(f"{name} is a whole number from {least} to {most:,}, got {value}")
