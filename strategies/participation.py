"""Partial participation: which sites a round asks (McMahan et al., AISTATS 2017, the fraction C)."""

from collections.abc import Iterable

from nescient_fl.seeds import numpy_generator


def drawn_sites(sites: Iterable[str], asked: int, seed: int, number: int) -> list[str]:
    """Return so many of the sites, names in order; the seed and the round's number decide, and nothing else.

    Raises ValueError when there are fewer.
    """
    names = sorted(sites)
    if asked == len(names):
        return names
    chosen = numpy_generator(seed, "participation", number).choice(len(names), asked, replace=False)
    return [names[place] for place in sorted(chosen)]
