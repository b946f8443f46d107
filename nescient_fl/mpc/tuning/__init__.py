"""Dense layers tuned under encryption, between who has the weights and who has labelled features."""
