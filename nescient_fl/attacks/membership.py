"""Was this site in the sum? Membership inference on the opened sum, without noise and with it.

Without noise an attacker who knows a site's data needs only some updates of the same kind: a linear test (Fisher,
1936) against their spread tells (Homer et al., PLoS Genetics 2008, did it with summed allele counts). With noise
even one who knows every other site's update, and as a party its own noise, is held to what (epsilon, delta) allows:
a fair coin is then guessed with probability (e^epsilon + delta) / (1 + e^epsilon) at most (Kairouz, Oh and
Viswanath, ICML 2015).
"""

import math

import numpy as np
from numpy.typing import NDArray

from nescient_fl.attacks.evidence import NOISE, Finding, Progress, Trial, better_than_chance, interval
from nescient_fl.attacks.opened_sum import SITES, budget_text
from nescient_fl.attacks.victims import Scene, descend
from nescient_fl.mpc.noise import discrete_gaussian
from nescient_fl.mpc.privacy import PrivacyBudget
from nescient_fl.mpc.randomness import SecretStream, fresh_stream
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.shares import encode
from nescient_fl.mpc.terms import Terms
from nescient_fl.sealed_vector import flatten
from nescient_fl.seeds import numpy_generator
from strategies.secure import SecurePlan

GAMES = 200
_SPREAD = 6e-4
"""Share of an update's mean square that the test takes for noise of its own, in every direction."""

_Words = NDArray[np.int64]


def largest_accuracy(budget: PrivacyBudget) -> float:
    """Return how often a fair coin can be guessed at most under (epsilon, delta)-differential privacy."""
    return min((math.exp(min(budget.epsilon, 700)) + budget.delta) / (1 + math.exp(min(budget.epsilon, 700))), 1.0)


def attack_membership(
    scene: Scene, roster: Roster, budget: PrivacyBudget, games: int = GAMES, progress: Progress | None = None
) -> Finding:
    """Play ``games`` games of either kind: a coin decides whether the victim's update is in a sum of five."""
    vectors = np.stack([flatten(descend(scene, [image]), 1) for image in range(len(scene))])
    clip = float(np.linalg.norm(vectors, axis=1).max()) * 1.001
    plan = SecurePlan("audit", roster, clip, 1, 3, noise_multiplier=budget.noise_multiplier, ledger=None)
    terms = plan.terms(scene.weights, True)
    words = np.stack([encode(vector, terms.fraction_bits) for vector in vectors])
    open_hits = _play_without_noise(words, scene.seed, games)
    noisy_hits = _play_with_noise(words, terms, scene.seed, games, progress)
    limit = largest_accuracy(budget)
    low, high = interval(noisy_hits, games)
    return Finding(
        key="membership",
        title="Tell whether a site took part",
        saw="The opened sum of five sites and the victim's update; with noise, also all others' and a party's noise.",
        plain=Trial(
            better_than_chance(open_hits, games, 0.5),
            f"right in {open_hits} of {games}",
            f"Right in {open_hits} of {games} without noise.",
            {"right": open_hits, "games": games},
        ),
        secure=Trial(
            better_than_chance(noisy_hits, games, limit),
            f"right in {noisy_hits} of {games}",
            f"Right in {noisy_hits} of {games} with noise ({low:.2f} to {high:.2f} at 99.9%; "
            f"{budget_text(budget)} allows {limit:.2f}).",
            {
                "right": noisy_hits,
                "games": games,
                "interval": [round(low, 4), round(high, 4)],
                "limit": round(limit, 4),
            },
        ),
        protection=NOISE,
    )


def _play_without_noise(words: _Words, seed: int, games: int) -> int:
    """Count right guesses of an attacker who knows the victim's update and, of others, only some of their kind."""
    draw = numpy_generator(seed, "membership", "open")
    half = len(words) // 2
    known, rest = words[:half].astype(np.float64), words[half:].astype(np.float64)
    mean = known.mean(axis=0)
    spread = known - mean
    floor = _SPREAD * float(np.square(known).sum(axis=1).mean())
    kernel = spread @ spread.T / half + floor * np.eye(half)
    hits = 0
    for _ in range(games):
        victim, *others = draw.permutation(len(rest))[: SITES + 1]
        inside = bool(draw.integers(2))
        present = [victim, *others[: SITES - 1]] if inside else others
        own = rest[victim]
        test = (own - spread.T @ np.linalg.solve(kernel, spread @ own) / half) / floor
        threshold = (own / 2 + (SITES - 0.5) * mean) @ test
        hits += bool(rest[present].sum(axis=0) @ test > threshold) == inside
    return hits


def _play_with_noise(words: _Words, terms: Terms, seed: int, games: int, progress: Progress | None) -> int:
    """Count right guesses of a party that knows every update but not whether the victim's is in the sum."""
    draw = numpy_generator(seed, "membership", "noise")
    stream: SecretStream = fresh_stream()
    hits = 0
    for game in range(games):
        if progress is not None and game % 10 == 0:
            progress(f"game {game} of {games}")
        victim, *others = draw.permutation(len(words))[:SITES]
        inside = bool(draw.integers(2))
        # What is left of the opened sum when a party has taken its own noise off: the other party's is whole.
        total = words[others].sum(axis=0) + discrete_gaussian(stream, terms.update_noise, words.shape[1])
        total = total + words[victim] if inside else total
        left = (total - words[others].sum(axis=0)).astype(np.float64)
        own = words[victim].astype(np.float64)
        hits += bool(left @ own > own @ own / 2) == inside
    return hits
