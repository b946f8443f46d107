"""Conducting a study: its data, its arms, their scores. The one place that knows sites and strategies."""
