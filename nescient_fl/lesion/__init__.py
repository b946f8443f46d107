"""The model: network, recipe, training, metrics. Knows nothing of federation."""
