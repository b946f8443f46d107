"""Do shares and envelopes look like chance? Pearson's chi-square on their bytes, and the same update sealed twice.

Uniform bytes are what any update could have made, so that a share says nothing. A test cannot prove that; it finds
the ways in which sharing usually goes wrong: small masks, masks used twice, padding, a generator of few states.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from nescient_fl.attacks.evidence import ALARM, Finding, Trial
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.readings import ciphertext_words, share_of
from nescient_fl.attacks.victims import Scene, descend
from nescient_fl.mpc.shares import encode
from nescient_fl.sealed_vector import flatten


def byte_p_value(data: bytes) -> float:
    """Return the probability that uniform bytes are as uneven as these or more."""
    return _p_value(np.bincount(np.frombuffer(data, np.uint8), minlength=256))


def pair_p_value(data: bytes) -> float:
    """Return the same for neighbouring bytes, so that a period or a drift shows too."""
    pairs = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    return _p_value(np.bincount(pairs, minlength=1 << 16))


def _p_value(counts: NDArray[np.int64]) -> float:
    expected = counts.sum() / len(counts)
    return float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1))


def attack_uniformity(scene: Scene, federation: Federation) -> Finding:
    """Test the bytes of one update, of its shares and of its envelopes, and look for a repetition."""
    order, update = scene.order(7), descend(scene, [0])
    site, bits = federation.sites[0], federation.plan.terms(scene.weights, True).fraction_bits
    one, two = (federation.seal(answer_of(site, update, 1), order, scene.weights) for _ in range(2))
    dimension = federation.plan.terms(scene.weights, True).dimension
    tested = {"the dense envelope": ciphertext_words(one, dimension).tobytes()}
    repeated = {"the dense envelope": _repeated(ciphertext_words(one, dimension), ciphertext_words(two, dimension))}
    for rank, name in enumerate(federation.parties):
        first, second = share_of(federation, one, rank), share_of(federation, two, rank)
        tested[f"{name}'s share"] = first.tobytes()
        repeated[f"{name}'s share"] = _repeated(first, second)
    plain = _p_values({"the update": encode(flatten(update, 1), bits).tobytes()})
    secure = _p_values(tested)
    least = min(secure.values())
    count = sum(repeated.values())
    return Finding(
        key="uniformity",
        title="Tell shares from chance",
        saw="The bytes of one update, of each party's share of it, and of its envelope; and of a second sealing.",
        plain=Trial(
            min(plain.values()) < 1e-300,
            "p below 1e-300",
            "Bytes as uneven as this come by chance with a probability below 1e-300.",
            {"p_values": plain},
        ),
        secure=Trial(
            least < ALARM / len(secure) or count > 0,
            f"p = {least:.2g} or more",
            f"Least of {len(secure)} p-values {least:.2g}; {count} words the same when sealed again.",
            {"p_values": secure, "repeated": repeated},
        ),
    )


def _p_values(tested: Mapping[str, bytes]) -> dict[str, float]:
    found = {}
    for name, data in tested.items():
        found[f"{name}, bytes"] = byte_p_value(data)
        found[f"{name}, pairs of bytes"] = pair_p_value(data)
    return found


def _repeated(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    return int((first == second).sum())
