"""What stands around the service: Prometheus, Grafana, Alertmanager."""
