"""Fine-tuning: a labelled model from a pretrained autoencoder's encoder."""
