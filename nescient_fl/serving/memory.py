"""The most memory that this process ever held."""

import resource
import sys


def peak_memory() -> int:
    """Return it in bytes, shared libraries and mapped files included."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kilobytes, macOS in bytes.
    return most if sys.platform == "darwin" else most * 1024
