"""The rim: HTTP in, HTTP out. Stands on `anomaly`; never meets `training`."""
