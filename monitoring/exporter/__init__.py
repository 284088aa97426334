"""The pipeline as Prometheus sees it: what Airflow and MLflow know, queried at intervals."""
