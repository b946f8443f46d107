"""What the coordinator runs: aggregation rules and the Flower ServerApp."""
