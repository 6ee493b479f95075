"""The pipeline: train, calibrate, evaluate, demo. Stands on `anomaly`; never meets `service`."""
