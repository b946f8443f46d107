"""Lung-lesion detection on chest radiographs, learned across hospitals that never share an image."""

import os

__version__ = "0.1.0"

# Hospitals expect silence: neither Flower nor Ray reports its use to its makers unless the user says so.
# Both read these when they are first imported, so they are set before anything else of the project runs.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
