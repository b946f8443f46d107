"""What an attacker can take for an update: the plain one, a sealed envelope's bytes, a party's share."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.attacks.evidence import Trial, better_than_chance
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.victims import Scene
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.envelope import SealedReport, copy_for, open_copy, verify_copy
from nescient_fl.mpc.terms import Terms
from nescient_fl.sealed_vector import read_sum, shapes_of

_ENCAPSULATION = 32
"""Bytes of an envelope before its ciphertext: HPKE's encapsulated X25519 key."""


def sealed_readings(federation: Federation, scene: Scene, update: Weights, index: int) -> dict[str, Weights]:
    """Seal an update as a site does, and read it as everyone who handles it could.

    Returns an update for the relay, which takes the dense envelope's ciphertext for the words themselves, one for
    each party, which takes its share for them, and one for relay and first party together, who take the sum of both.
    """
    order = scene.order()
    site = federation.sites[index % len(federation.sites)]
    report = federation.seal(answer_of(site, update, 1), order, scene.weights)
    terms = federation.plan.terms(scene.weights, True)
    ciphertext = ciphertext_words(report, terms.dimension)
    shares = {name: share_of(federation, report, rank) for rank, name in enumerate(federation.parties)}
    first = federation.parties[0]
    seen = {"the relay": ciphertext, **shares, f"the relay with {first}": ciphertext + shares[first]}
    return {name: _read(words, scene.weights, terms) for name, words in seen.items()}


def ciphertext_words(report: SealedReport, dimension: int) -> NDArray[np.int64]:
    """Take the dense envelope's ciphertext for words, int64 [dimension]."""
    sealed = report.ciphertexts[-1][_ENCAPSULATION : _ENCAPSULATION + 8 * dimension]
    return np.frombuffer(sealed, "<i8").astype(np.int64)


def share_of(federation: Federation, report: SealedReport, rank: int) -> NDArray[np.int64]:
    """Return what one party holds of a report, int64 [dimension]."""
    copy = copy_for(report, rank)
    header = verify_copy(copy, federation.roster, rank)
    keys = federation.vault.keys(federation.parties[rank])
    return open_copy(copy, header, keys, rank, header.dimension)


def _read(words: NDArray[np.int64], weights: Weights, terms: Terms) -> Weights:
    read = read_sum(words, shapes_of(weights), terms)
    assert read.update is not None
    return {name: torch.from_numpy(read.update[name]).float() for name in weights}


def ranking_trial(ranks: dict[str, list[int]], candidates: int) -> Trial:
    """Judge an attack by how often it named the victim's radiograph among ``candidates``, by who attacked."""
    hits = {name: sum(rank == 1 for rank in found) for name, found in ranks.items()}
    broken = any(better_than_chance(hits[name], len(ranks[name]), 1 / candidates) for name in ranks)
    named = ", ".join(f"{name} {hits[name]} of {len(ranks[name])}" for name in ranks)
    expected = _mean([len(found) for found in ranks.values()]) / candidates
    figures = {
        "candidates": candidates,
        "hits": hits,
        "trials": {name: len(found) for name, found in ranks.items()},
        "expected_by_guessing": round(expected, 3),
        "mean_rank": {name: round(_mean(found), 2) for name, found in ranks.items()},
    }
    best = max(hits, key=lambda name: hits[name])
    brief = f"{'at most ' if hits[best] and len(hits) > 1 else ''}{hits[best]} of {len(ranks[best])} radiographs named"
    return Trial(broken, brief, f"The right radiograph of {candidates} named: {named}.", figures)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
