"""Images and labels: cohort, geometry, phantom, cache, partition. Knows nothing of networks."""
