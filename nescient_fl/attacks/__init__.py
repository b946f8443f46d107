"""Attacks on the federation: each shown to succeed against plain averaging, then tried on sealed updates.

Nothing here is used while a study runs. ``tests/attacks`` and ``python -m nescient_fl.audit`` run the same code.
"""
