"""Synthetic chest radiographs in CheXpert-v1.0-small's layout, made from a seed.

They exist because CheXpert's licence forbids shipping it. Nothing measured on them says anything about real
patients; whatever is computed on them is labelled synthetic.
"""

from nescient_fl.radiographs.phantom.writer import (
    GENERATOR,
    MARKER,
    PhantomSummary,
    read_marker,
    write_phantom,
)

__all__ = ["GENERATOR", "MARKER", "PhantomSummary", "read_marker", "write_phantom"]
