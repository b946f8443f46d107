"""Two sums over one global model differ by whoever is in only one of them: the attack of subtraction."""

from dataclasses import replace

import numpy as np

from nescient_fl.attacks.evidence import Finding
from nescient_fl.attacks.federation import Federation, PartyView
from nescient_fl.attacks.tries import Try, answers_of, plain_trial, relay_trial, sealed_reports, site_updates
from nescient_fl.attacks.victims import Scene
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.randomness import fresh_seed
from nescient_fl.mpc.sums import SumRequest, SumResult
from strategies.averaging import Contribution, average


def attack_by_reopening(scene: Scene, federation: Federation) -> Finding:
    """Have the parties, restarted, open a second sum for the model of a first, without the victim."""
    updates, order = site_updates(scene, federation), scene.order(4)
    victim, *others = federation.sites
    request = federation.request(order, scene.weights)
    reports = sealed_reports(scene, federation, updates, order)
    first = federation.ask_alike(request, list(reports.values()))
    opened = first[0].result
    assert opened is not None, first[0].refusal
    same = federation.ask_alike(_anew(request), [reports[name] for name in others])
    fresh = sealed_reports(scene, federation, {name: updates[name] for name in others}, order)
    sealed_anew = federation.ask_alike(_anew(request), list(fresh.values()))
    later = scene.order(5)
    moved = sealed_reports(scene, federation, {name: updates[name] for name in others}, later)
    other_round = federation.ask_alike(federation.request(later, scene.weights), list(moved.values()))
    tries = [
        _judged("the same reports without one site's, after a restart", opened, same),
        _judged("fresh reports of the other sites, after a restart", opened, sealed_anew),
        _judged("the other sites' reports for another round over the same model", opened, other_round),
    ]
    # A party that lost its memory is a party that cannot say what it opened; the others can.
    (federation.vault.folder / federation.parties[0] / "memory.sqlite").unlink()
    fresh = sealed_reports(scene, federation, {name: updates[name] for name in others}, order)
    forgotten = federation.ask_alike(_anew(request), list(fresh.values()))
    tries.append(_judged("a party whose memory was deleted", opened, forgotten))
    return Finding(
        key="reopening",
        title="Open a second sum and subtract",
        saw="A relay that asks restarted parties for one model's sum again, without one site.",
        plain=plain_trial(scene, _difference(scene, updates, victim), updates[victim], "Two averages subtracted"),
        secure=relay_trial(tries),
    )


def _judged(what: str, first: SumResult, views: list[PartyView]) -> Try:
    """A second sum is a gain if it differs from the first; the same sum again tells nothing."""
    results = [view.result for view in views if view.result is not None]
    gained = any(result.sites != first.sites or not np.array_equal(result.total, first.total) for result in results)
    answers = answers_of(views)
    if results and not gained:
        answers = tuple("the first sum again" for _ in answers)
    return Try(what, answers, gained)


def _anew(request: SumRequest) -> SumRequest:
    return replace(request, session=fresh_seed().hex())


def _difference(scene: Scene, updates: dict[str, Weights], victim: str) -> Weights:
    """Average with and without the victim, and return what the victim must have sent."""
    everybody = [Contribution(name, 1, update) for name, update in updates.items()]
    rest = [contribution for contribution in everybody if contribution.site != victim]
    full, part = average(scene.weights, everybody), average(scene.weights, rest)
    return {
        name: (full[name].double() - scene.weights[name]) * len(everybody)
        - (part[name].double() - scene.weights[name]) * len(rest)
        for name in scene.weights
    }
