"""All attacks in one row, against the settings of one study."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nescient_fl.attacks.cohorts import attack_singleton, attack_split_view, attack_sybil
from nescient_fl.attacks.dense_inversion import attack_dense_layer
from nescient_fl.attacks.distinguisher import attack_transcripts
from nescient_fl.attacks.evidence import Finding, Progress
from nescient_fl.attacks.federation import Federation
from nescient_fl.attacks.image_inversion import attack_images
from nescient_fl.attacks.membership import attack_membership
from nescient_fl.attacks.opened_sum import attack_opened_sum
from nescient_fl.attacks.relay_bytes import attack_relay_bytes
from nescient_fl.attacks.reopening import attack_by_reopening
from nescient_fl.attacks.run_transcript import read_departures
from nescient_fl.attacks.subject import Subject
from nescient_fl.attacks.uniformity import attack_uniformity
from nescient_fl.attacks.victims import Scene, draw_scene

SITES = 5


ATTACKS: dict[str, str] = {
    "dense_inversion": "Invert the first dense layer",
    "image_inversion": "Rebuild radiographs",
    "relay_bytes": "Read along at the relay",
    "uniformity": "Tell shares from chance",
    "transcripts": "Tell two updates apart",
    "singleton": "Sum a single site",
    "sybil": "Surround a site with Sybils",
    "split_view": "Show the parties different sets",
    "reopening": "Open a second sum and subtract",
    "opened_sum": "Read an image out of the sum",
    "membership": "Tell whether a site took part",
    "transcript": "Read what left the sites",
}
"""Every attack by its key, in the order in which they are made; the last one needs a finished run."""

Told = Callable[[str, str], None]
"""Told which attack is at work, by its key, and in a phrase what it is at."""


def run_attacks(subject: Subject, folder: Path, told: Told) -> Iterator[Finding]:
    """Draw the victims, make federations below ``folder``, and yield each attack's finding as it comes."""
    told("scene", "drawing synthetic radiographs")
    scene = draw_scene(subject.recipe, subject.seed)
    numbers = count()
    with _federations() as opened:

        def make(**changes: Any) -> Federation:
            options: dict[str, Any] = {
                "sites": SITES,
                "parties": subject.parties,
                "clip": subject.clip,
                "weight_max": subject.weight_max,
            }
            opened.append(Federation(folder / f"federation-{next(numbers)}", **{**options, **changes}))
            return opened[-1]

        for key in ATTACKS:
            told(key, "")
            if key != "transcript":
                yield _attack(key, scene, make, subject, partial(told, key))
            elif subject.run is not None:
                yield from read_departures(subject.run)


def run_attacks_apart(subject: Subject, told: Told) -> Iterator[Finding]:
    """Make all attacks in a temporary folder that is gone afterwards, keys and all."""
    with TemporaryDirectory(prefix="nescient-audit-") as folder:
        yield from run_attacks(subject, Path(folder), told)


def _attack(
    key: str,
    scene: Scene,
    make: Callable[..., Federation],
    subject: Subject,
    progress: Progress,
) -> Finding:
    # A federation of its own for each: for one global model only one sum is ever opened.
    attacks: dict[str, Callable[[], Finding]] = {
        "dense_inversion": lambda: attack_dense_layer(scene, make()),
        "image_inversion": lambda: attack_images(scene, make(), progress=progress),
        "relay_bytes": lambda: attack_relay_bytes(scene, make()),
        "uniformity": lambda: attack_uniformity(scene, make()),
        "transcripts": lambda: attack_transcripts(scene, make),
        "singleton": lambda: attack_singleton(scene, make()),
        "sybil": lambda: attack_sybil(scene, make()),
        "split_view": lambda: attack_split_view(scene, make()),
        "reopening": lambda: attack_by_reopening(scene, make()),
        "opened_sum": lambda: attack_opened_sum(scene, make, subject.budget),
        "membership": lambda: attack_membership(scene, make().roster, subject.budget, progress=progress),
    }
    return attacks[key]()


@contextmanager
def _federations() -> Iterator[list[Federation]]:
    """Delete the keys of every federation that was made, whatever happens."""
    opened: list[Federation] = []
    try:
        yield opened
    finally:
        for federation in opened:
            federation.close()
