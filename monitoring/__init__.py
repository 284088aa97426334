"""What is watched, as data: alerts and dashboards, and the files of Prometheus, Grafana and the docs made from them."""
