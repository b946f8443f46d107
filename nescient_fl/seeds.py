"""Random generators, all derived from a study's one seed by purpose, site and round.

Nothing in the project reads global randomness. Two purposes never share a stream, so adding a draw in one
place does not change what another place draws. For secrets use ``nescient_fl.mpc``, never this module.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *keys: str | int) -> int:
    """Return a 63-bit seed of the study's seed, the purpose and the keys, and of nothing else."""
    text = "\x1f".join([str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """Return the generator of one purpose, such as ``numpy_generator(7, "shuffle", "site-1", 3)``."""
    return np.random.default_rng(derive_seed(seed, purpose, *keys))
