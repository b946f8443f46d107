"""Image files scored under encryption, as ``nescient score`` tells it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.errors import UserError
from nescient_fl.lesion.curves import sigmoid
from nescient_fl.mpc.errors import RangeError
from nescient_fl.mpc.roster import CLINIC, Roster
from nescient_fl.radiographs.geometry import BadRadiograph, checked_geometry
from nescient_fl.serving.clinic import Inputs, Told, score
from nescient_fl.serving.messages import MOST_IMAGES, Card
from nescient_fl.serving.plans import to_input
from nescient_fl.serving.settings import open_member, refusals, state_folder

if TYPE_CHECKING:
    from rich.table import Table


def score_files(images: Sequence[Path], options: Mapping[str, Any], out: Path | None, progress: Told) -> dict[str, Any]:
    """Score image files. Options: keys, roster, authority, owner, batch, check_dealer.

    Returns a dictionary for JSON: the images with logit, score and decision, and what it took. Raises UserError, and
    then nothing was scored that anybody gets to see.
    """
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    keys, roster, _ = open_member(options, CLINIC)
    owner = chosen_owner(roster, options.get("owner"))
    twice = options.get("check_dealer", False)
    batch = options.get("batch", min(8, 2 * len(images) if twice else len(images)))
    if not 1 <= batch <= MOST_IMAGES:
        raise UserError(f"--batch is a whole number from 1 to {MOST_IMAGES}, got {batch}")

    def inputs(card: Card) -> Inputs:
        geometry = checked_geometry(card.geometry)

        def make(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
            try:
                return np.stack([to_input(images[int(number)], geometry, card.standardise) for number in numbers])
            except BadRadiograph as error:
                raise UserError(str(error)) from None

        return Inputs(make, np.arange(len(images)))

    with refusals():
        try:
            scored = score(keys, roster, owner, inputs, state_folder(keys), batch, progress, twice)
        except RangeError as error:
            where = f"{images[error.images[0]]}: " if error.images else ""
            raise UserError(f"{where}{error}") from None
    scores = sigmoid(scored.logits)
    threshold = scored.card.threshold
    return {
        "format": 1,
        "model": scored.card.model,
        "threshold": threshold,
        "dealer_checked": twice,
        "images": [
            {
                "image": str(path),
                "logit": float(logit),
                "score": float(value),
                "lesion": None if threshold is None else bool(value >= threshold),
            }
            for path, logit, value in zip(images, scored.logits, scores, strict=True)
        ],
        "seconds": round(scored.seconds, 3),
        "rounds": sum(session.online.rounds for session in scored.sessions),
        "bytes_sent": sum(session.online.bytes_sent for session in scored.sessions),
        "offline": {"seconds": round(scored.offline.seconds, 3), "bytes": scored.offline.bytes_sent},
        "left": scored.left,
    }


def scores_table(result: Mapping[str, Any]) -> "Table":
    """Return the scores for a terminal."""
    from rich import box
    from rich.table import Table

    threshold = result["threshold"]
    told = "no operating point" if threshold is None else f"a lesion is called from {threshold:.2f}"
    checked = "no two scores of an image differ; " if result["dealer_checked"] else ""
    caption = f"{told}; {checked}{result['left']:,} images are left of the limit"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("image", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for image in result["images"]:
        call = {None: "", True: "lesion", False: "no lesion"}[image["lesion"]]
        table.add_row(image["image"], f"{image['score']:.3f}", call)
    return table


def chosen_owner(roster: Roster, wanted: str | None) -> str:
    """Return the owner that was named, or the only one. Raises UserError."""
    names = [owner.name for owner in roster.owners]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise UserError(f"--owner is one of {', '.join(names)}")
    return wanted
