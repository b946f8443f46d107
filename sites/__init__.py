"""What a hospital runs: dataset adapters and the Flower ClientApp."""
