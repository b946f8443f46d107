"""A malicious relay chooses who is in the sum: one site alone, one site among forgeries, other sites for each party.

Against plain averaging these are how a coordinator of an honest-looking protocol singles a site out (Pasquini,
Francati and Ateniese, "Eluding secure aggregation in federated learning via model inconsistency", CCS 2022, is the
subtler kind; Boenisch et al., "Reconstructing individual data points in federated learning hardened with
differential privacy and secure aggregation", EuroS&P 2023, uses Sybils). Here the parties decide, by the roster.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from nescient_fl.attacks.evidence import Finding
from nescient_fl.attacks.federation import Federation, PartyView, answer_of
from nescient_fl.attacks.tries import (
    Try,
    answers_of,
    plain_trial,
    relay_trial,
    sealed_reports,
    site_updates,
)
from nescient_fl.attacks.victims import Scene
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.envelope import ReportHeader, SealedReport, copy_for, seal_report
from nescient_fl.mpc.randomness import fresh_seed
from nescient_fl.mpc.shares import split
from nescient_fl.mpc.sums import SumRequest
from nescient_fl.mpc.terms import Terms
from nescient_fl.mpc.vault import Vault, create_vault
from strategies.averaging import Contribution, average


def attack_singleton(scene: Scene, federation: Federation) -> Finding:
    """Have a sum opened that holds one site, or too few to hide it."""
    updates, order = site_updates(scene, federation), scene.order(1)
    victim, other = federation.sites[:2]
    request = federation.request(order, scene.weights)
    low = replace(request.terms, minimum=2)
    asked_low = replace(request, terms=low)

    # Sealed anew for every try: what a party has seen once it refuses for that alone.
    def fresh(*names: str, terms: Terms | None = None) -> list[SealedReport]:
        return [federation.seal(answer_of(name, updates[name], 1), order, scene.weights, terms) for name in names]

    tries = [
        _try(federation, "one site's report alone", request, fresh(victim)),
        _try(federation, "two sites' reports", request, fresh(victim, other)),
        _try(federation, "two sites, parties told that two are enough", asked_low, fresh(victim, other)),
        _try(federation, "two sites, all told that two are enough", asked_low, fresh(victim, other, terms=low)),
    ]
    return Finding(
        key="singleton",
        title="Sum a single site",
        saw="A relay that drops every report but one or two, and lies about how many are needed.",
        plain=plain_trial(
            scene, _moved(scene, [Contribution(victim, 1, updates[victim])]), updates[victim], "Averaged alone"
        ),
        secure=relay_trial(tries),
    )


def attack_sybil(scene: Scene, federation: Federation) -> Finding:
    """Hide nobody: fill the quorum with reports that the relay made up, or has seen before."""
    updates, order = site_updates(scene, federation), scene.order(2)
    victim, *others = federation.sites
    request = federation.request(order, scene.weights)
    old = sealed_reports(scene, federation, {name: updates[name] for name in others}, scene.order(1))
    unknown = [f"sybil-{number}" for number in range(1, len(federation.sites))]

    def fresh() -> SealedReport:
        return federation.seal(answer_of(victim, updates[victim], 1), order, scene.weights)

    with TemporaryDirectory() as folder:
        own = create_vault(Path(folder) / "vault", "forged", [*others, *unknown], 2, 3)
        strangers = [_forged(federation, own, name, request) for name in unknown]
        impostors = [_forged(federation, own, name, request) for name in others]
        own.remove()
    report = fresh()
    renamed = [_renamed(report, name) for name in others]
    tries = [
        _try(federation, "sites that are in no roster", request, [fresh(), *strangers]),
        _try(federation, "the roster's sites, signed with the relay's keys", request, [fresh(), *impostors]),
        _try(federation, "one site's report under every name", request, [report, *renamed]),
        _try(federation, "one site's report many times", request, [fresh()] * len(federation.sites)),
        _try(federation, "the others' reports of an earlier round", request, [fresh(), *old.values()]),
    ]
    zero = {name: torch.zeros_like(value) for name, value in scene.weights.items()}
    forged = [Contribution(name, 1, zero) for name in unknown]
    total = _moved(scene, [Contribution(victim, 1, updates[victim]), *forged])
    scaled = {name: value * (len(forged) + 1) for name, value in total.items()}
    return Finding(
        key="sybil",
        title="Surround a site with Sybils",
        saw="A relay that forges the other sites' reports, replays them, or gives one report many names.",
        plain=plain_trial(scene, scaled, updates[victim], f"Averaged with {len(forged)} empty updates"),
        secure=relay_trial(tries),
    )


def attack_split_view(scene: Scene, federation: Federation) -> Finding:
    """Show each party another set, so that their answers differ by one site."""
    updates, order = site_updates(scene, federation), scene.order(3)
    names, enough = federation.sites, federation.plan.minimum
    if enough == len(names):
        raise ValueError("every site is needed, so that no two sets can differ: take a federation with some to spare")
    request = federation.request(order, scene.weights)
    ranks = range(len(federation.parties))
    sets = [
        ("overlapping sets, the common part too small", names[:enough], names[-enough:]),
        ("sets with nothing in common", names[: len(names) // 2], names[len(names) // 2 :]),
        ("all sites to one party, one site to the others", names, names[:1]),
    ]
    tries = []
    for what, first, rest in sets:
        reports = sealed_reports(scene, federation, updates, order)
        copies = [[copy_for(reports[name], rank) for name in (rest if rank else first)] for rank in ranks]
        tries.append(_judged(what, federation.ask(_again(request), copies)))
    one, two = (sealed_reports(scene, federation, updates, order) for _ in range(2))
    copies = [
        [copy_for((two if rank else one)[names[0]], rank), *(copy_for(one[name], rank) for name in names[1:enough])]
        for rank in ranks
    ]
    tries.append(_judged("another report of one site to each party", federation.ask(_again(request), copies)))
    return Finding(
        key="split_view",
        title="Show the parties different sets",
        saw="A relay that gives the parties different reports, to have two sums opened that differ by one site.",
        plain=None,
        secure=relay_trial(tries),
    )


def _try(federation: Federation, what: str, request: SumRequest, reports: Sequence[SealedReport]) -> Try:
    return _judged(what, federation.ask_alike(_again(request), reports))


def _judged(what: str, views: Sequence[PartyView]) -> Try:
    """Nothing may be opened: these tries leave too few honest sites for any sum."""
    opened = any(view.result is not None for view in views)
    return Try(what, answers_of(views), opened)


def _again(request: SumRequest) -> SumRequest:
    return replace(request, session=fresh_seed().hex())


def _forged(federation: Federation, own: Vault, name: str, request: SumRequest) -> SealedReport:
    """Make a report in a name, as the relay can: everything right but the key that signs it."""
    header = ReportHeader(
        protocol=1,
        run=request.run,
        round=request.round,
        roster=federation.roster.digest,
        model=request.binding,
        site=name,
        parties=len(federation.parties),
        dimension=request.terms.dimension,
        fraction_bits=request.terms.fraction_bits,
        minimum=2,
        report_id=fresh_seed()[:16].hex(),
    )
    words = np.zeros(request.terms.dimension, np.int64)
    words[request.terms.update_words] = 1
    return seal_report(header, split(words, len(federation.parties)), federation.roster, own.keys(name))


def _renamed(report: SealedReport, name: str) -> SealedReport:
    """Put another site's name, and another identity, into a report's header."""
    values = json.loads(report.header)
    header = ReportHeader(**{**values, "site": name, "report_id": fresh_seed()[:16].hex()})
    return replace(report, header=header.to_bytes())


def _moved(scene: Scene, contributions: Iterable[Contribution]) -> Weights:
    """Return what plain FedAvg moves the global weights by."""
    averaged = average(scene.weights, list(contributions))
    return {name: averaged[name] - scene.weights[name] for name in averaged}
