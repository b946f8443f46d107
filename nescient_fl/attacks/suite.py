"""All attacks in one row, against the settings of one study."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
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
from nescient_fl.attacks.uniformity import attack_uniformity
from nescient_fl.attacks.victims import Scene, draw_scene
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.mpc.privacy import PrivacyBudget

SITES = 5


@dataclass(frozen=True)
class Subject:
    """What of a study the attacks depend on.

    Attributes:
        recipe, seed: the network, its inputs and its initial weights.
        parties, clip, weight_max: how updates are sealed.
        budget: the differential privacy that attacks on the sum are tried against.
        private: whether the study itself adds that noise.
    """

    recipe: Recipe
    seed: int
    parties: int
    clip: float
    weight_max: int
    budget: PrivacyBudget
    private: bool


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
}
"""Every attack by its key, in the order in which they are made."""

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

        federation = make()
        for key in ATTACKS:
            told(key, "")
            yield _attack(key, scene, federation, make, subject, partial(told, key))


def _attack(
    key: str,
    scene: Scene,
    federation: Federation,
    make: Callable[..., Federation],
    subject: Subject,
    progress: Progress,
) -> Finding:
    attacks: dict[str, Callable[[], Finding]] = {
        "dense_inversion": lambda: attack_dense_layer(scene, federation),
        "image_inversion": lambda: attack_images(scene, federation, progress=progress),
        "relay_bytes": lambda: attack_relay_bytes(scene, federation),
        "uniformity": lambda: attack_uniformity(scene, federation),
        "transcripts": lambda: attack_transcripts(scene, make),
        "singleton": lambda: attack_singleton(scene, federation),
        "sybil": lambda: attack_sybil(scene, federation),
        "split_view": lambda: attack_split_view(scene, federation),
        "reopening": lambda: attack_by_reopening(scene, federation),
        "opened_sum": lambda: attack_opened_sum(scene, make, subject.budget),
        "membership": lambda: attack_membership(scene, federation.roster, subject.budget, progress=progress),
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
