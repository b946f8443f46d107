"""Lung-lesion detection on chest radiographs, learned across hospitals that never share an image."""

__version__ = "0.1.0"
