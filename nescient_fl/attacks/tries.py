"""What the attacks of a malicious relay have in common: questions to the parties, and what came of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nescient_fl.attacks.dense_inversion import recover_features
from nescient_fl.attacks.evidence import Trial, correlations, rank_of
from nescient_fl.attacks.federation import Federation, PartyView, answer_of
from nescient_fl.attacks.victims import Scene, descend
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import RoundOrder
from nescient_fl.mpc.envelope import SealedReport


@dataclass(frozen=True)
class Try:
    """One question of the relay: what it tried, what each party said, and whether it got what it wanted."""

    what: str
    answers: tuple[str, ...]
    gained: bool


def site_updates(scene: Scene, federation: Federation) -> dict[str, Weights]:
    """Return an update of one image for every site; the first site is the victim."""
    return {name: descend(scene, [image]) for image, name in enumerate(federation.sites)}


def sealed_reports(
    scene: Scene, federation: Federation, updates: Mapping[str, Weights], order: RoundOrder
) -> dict[str, SealedReport]:
    """Seal every site's update for one round."""
    return {name: federation.seal(answer_of(name, update, 1), order, scene.weights) for name, update in updates.items()}


def answers_of(views: Sequence[PartyView]) -> tuple[str, ...]:
    """Return each party's answer in a word: the type of its refusal, or the size of the set it opened."""
    return tuple(
        f"opened {len(view.result.sites)}" if view.result is not None else type(view.refusal).__name__ for view in views
    )


def names_the_victim(scene: Scene, update: Weights, victim: int = 0) -> bool:
    """Say whether inverting an update names the victim's radiograph among all."""
    features = scene.features()
    return rank_of(victim, correlations(recover_features(update), features)) == 1


def plain_trial(scene: Scene, got: Weights, true: Weights, how: str) -> Trial:
    """Judge what an attacker of plain averaging got for the victim's update."""
    error = _distance(got, true) / _distance(true, {name: torch.zeros_like(value) for name, value in true.items()})
    named = names_the_victim(scene, got)
    return Trial(
        named and error < 0.01,
        "the site's update" if error < 0.01 else "not the site's update",
        f"{how}: the site's update, {f'to {error:.0e} of its norm' if error else 'exactly'}; its radiograph "
        f"{'' if named else 'not '}named among {len(scene)}.",
        {"relative_error": error, "named": named},
    )


def relay_trial(tries: Sequence[Try]) -> Trial:
    """Judge a malicious relay's tries."""
    gained = sum(attempt.gained for attempt in tries)
    kinds = sorted({answer for attempt in tries for answer in attempt.answers})
    return Trial(
        gained > 0,
        f"{len(tries) - gained} of {len(tries)} tries came to nothing",
        f"{len(tries) - gained} of {len(tries)} tries came to nothing ({', '.join(kinds)}).",
        {"tries": [{"what": t.what, "answers": list(t.answers), "gained": t.gained} for t in tries]},
    )


def _distance(a: Weights, b: Weights) -> float:
    return float(torch.stack([(a[name].double() - b[name].double()).square().sum() for name in a]).sum().sqrt())
