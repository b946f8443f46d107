"""Encrypted inference: a data owner learns a score, a model owner learns nothing, a dealer sees neither."""
