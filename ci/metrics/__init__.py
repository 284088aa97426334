"""The pipeline as Prometheus sees it: what Airflow and MLflow know, asked for now and then."""
