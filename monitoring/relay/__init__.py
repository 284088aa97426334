"""The relay: keeps every alert of Alertmanager and Grafana in a file, and turns drift into one GitHub event."""
