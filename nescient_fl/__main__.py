"""``python -m nescient_fl`` is the ``nescient`` command."""

from nescient_fl.cli import main

main()
