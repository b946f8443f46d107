"""Which of two updates was it? A classifier trained on many transcripts of both must do no better than a coin.

The two updates are as different as can be: one is zero, one is as long as the clip allows. If even these cannot be
told apart by what the relay or a party sees, no two can; that is how security is defined (Goldwasser and Micali,
1984), with a simple learner in the distinguisher's place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.attacks.evidence import Finding, Trial, better_than_chance, interval
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.readings import ciphertext_words
from nescient_fl.attacks.victims import Scene
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import RoundOrder
from nescient_fl.mpc.envelope import SealedReport, copy_for, open_copy, verify_copy
from nescient_fl.mpc.shares import encode
from nescient_fl.sealed_vector import dimension, flatten, shapes_of
from nescient_fl.seeds import numpy_generator

TRANSCRIPTS = 160
"""Of each update; the first half of both trains the classifier, the second half tests it."""
_RIDGE = 10.0
_WORDS = 64

_Features = NDArray[np.float64]


@dataclass(frozen=True)
class Guesses:
    """How often the classifier was right about transcripts it had not seen."""

    right: int
    trials: int

    @property
    def told_apart(self) -> bool:
        return better_than_chance(self.right, self.trials, 0.5)


def guess(features: _Features, labels: NDArray[np.int64]) -> Guesses:
    """Train ridge regression on the first half of rows [n, m], and let it name the labels, 0 or 1, of the second."""
    half = len(features) // 2
    train, test = features[:half], features[half:]
    mean, spread = train.mean(axis=0), train.std(axis=0)
    kept = spread > 0
    train, test = (train[:, kept] - mean[kept]) / spread[kept], (test[:, kept] - mean[kept]) / spread[kept]
    signs = 2.0 * labels - 1
    # As many rows as columns or fewer, as a rule: the dual form solves the smaller system.
    gram = train @ train.T + _RIDGE * max(train.shape[1], 1) * np.eye(half)
    scores = test @ (train.T @ np.linalg.solve(gram, signs[:half]))
    return Guesses(int(((scores > 0) == (labels[half:] == 1)).sum()), len(features) - half)


def describe(words: NDArray[np.int64]) -> _Features:
    """Describe words int64 [n, m] to the classifier: their first bits, and how often each byte occurs."""
    data = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    bits = np.unpackbits(data[:, : 8 * _WORDS], axis=1).astype(np.float64)
    histogram = np.stack([np.bincount(row, minlength=256) for row in data]).astype(np.float64)
    return np.concatenate([bits, histogram], axis=1)


def attack_transcripts(scene: Scene, make: Callable[..., Federation], transcripts: int = TRANSCRIPTS) -> Finding:
    """Tell a zero update from a long one, by the plain words, by what the relay sees, and by what each party sees.

    ``make`` makes a federation of so many ``sites``: one session sums all transcripts, so that what a party hears in it
    can be laid beside each report.
    """
    federation = make(sites=2 * transcripts)
    weights: Weights = {"weight": torch.zeros(_WORDS)}
    long: Weights = {"weight": torch.full((_WORDS,), 0.9 * federation.plan.clip / _WORDS**0.5)}
    updates = [{"weight": torch.zeros(_WORDS)}, long]
    labels = numpy_generator(scene.seed, "transcripts").permutation(np.arange(2 * transcripts) % 2)
    order = scene.order(8)
    terms = federation.plan.terms(weights, True)
    reports = [
        federation.seal(answer_of(name, updates[label], 1), order, weights)
        for name, label in zip(federation.sites, labels, strict=True)
    ]
    plain = np.stack([encode(flatten(updates[label], 1), terms.fraction_bits) for label in labels])
    length = dimension(shapes_of(weights))
    seen = {"the relay": describe(np.stack([ciphertext_words(report, length) for report in reports]))}
    seen |= _party_views(federation, order, weights, reports)
    control = guess(describe(plain), labels)
    found = {name: guess(features, labels) for name, features in seen.items()}
    worst = max(found.values(), key=lambda guesses: guesses.right)
    low, high = interval(worst.right, worst.trials)
    named = ", ".join(f"{name} {100 * g.right / g.trials:.0f}%" for name, g in found.items())
    return Finding(
        key="transcripts",
        title="Tell two updates apart",
        saw=f"{2 * transcripts} transcripts of two updates, half to learn from; the relay's, and each party's.",
        plain=Trial(
            control.told_apart,
            f"right in {control.right} of {control.trials}",
            f"Right in {control.right} of {control.trials} that it had not seen.",
            {"right": control.right},
        ),
        secure=Trial(
            any(guesses.told_apart for guesses in found.values()),
            f"right in {worst.right} of {worst.trials} at best",
            f"Right: {named}; the best of them within {low:.2f} to {high:.2f} at 99.9%.",
            {
                "right": {name: guesses.right for name, guesses in found.items()},
                "trials": worst.trials,
                "interval": [round(low, 4), round(high, 4)],
            },
        ),
    )


def _party_views(
    federation: Federation, order: RoundOrder, weights: Weights, reports: list[SealedReport]
) -> dict[str, _Features]:
    """Return, for each party, its share of every report and what it heard of that report in the session."""
    views = federation.ask_alike(federation.request(order, weights), reports)
    found = {}
    for rank, (name, view) in enumerate(zip(federation.parties, views, strict=True)):
        assert view.result is not None, view.refusal
        keys = federation.vault.keys(name)
        shares = []
        for report in reports:
            copy = copy_for(report, rank)
            header = verify_copy(copy, federation.roster, rank)
            shares.append(open_copy(copy, header, keys, rank, header.dimension))
        features = [describe(np.stack(shares))]
        for heard in view.heard:
            # A message that says as much of every report is laid beside the reports, which are in name order.
            if len(heard) >= 8 * len(reports) and len(heard) % (8 * len(reports)) == 0:
                features.append(describe(np.frombuffer(heard, "<i8").reshape(len(reports), -1)))
        found[name] = np.concatenate(features, axis=1)
    return found
