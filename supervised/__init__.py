"""Models that learn from labels: the masked autoencoder's encoder under a head of its own."""
