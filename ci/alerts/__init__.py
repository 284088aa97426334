"""Alerts of Alertmanager and Grafana: kept in a file, and drift made an event at GitHub, once."""
