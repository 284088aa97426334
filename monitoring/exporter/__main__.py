"""Exports what Airflow and MLflow know of the pipeline to Prometheus.

Exit codes: 0 after a requested stop; 64 wrong use or configuration.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from clients.arguments import positive
from clients.errors import ConfigurationError
from clients.progress import Log, run

if TYPE_CHECKING:
    from monitoring.exporter.pipeline_metrics import Pipeline

HOST, PORT = "127.0.0.1", 9106
EVERY_SECONDS = 30.0
MOST_CHALLENGES = 20
END_SECONDS = 2.0
"""How long a query in progress may take after a signal."""
STOPPING = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.exporter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default=HOST, help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--every", type=positive, default=EVERY_SECONDS, metavar="S",
        help="seconds between two queries of Airflow and of MLflow (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--challenges", type=Path, default=Path("challenges"), metavar="DIR",
        help="whose files name the challenges to report (default: %(default)s/)",
    )  # fmt: skip
    return run(lambda log: _look_and_serve(parser.parse_args(arguments), log))


def _look_and_serve(options: argparse.Namespace, log: Log) -> int:
    # Kept for `sigtimedwait` below, by every thread that is started from here on.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    from clients.settings import airflow_settings, mlflow_settings

    challenges = _challenges(options.challenges)
    settings = airflow_settings(os.environ), mlflow_settings(os.environ)
    from monitoring.exporter.airflow_runs import AirflowRuns
    from monitoring.exporter.mlflow_records import MlflowRecords
    from monitoring.exporter.pipeline_metrics import Pipeline
    from monitoring.exporter.watched import Watched

    airflow, mlflow = AirflowRuns(settings[0], challenges), MlflowRecords(settings[1], challenges)
    pipeline = Pipeline(Watched("Airflow", airflow.look, log.line), Watched("MLflow", mlflow.look, log.line))
    return _serve(pipeline, options, log)


def _serve(pipeline: Pipeline, options: argparse.Namespace, log: Log) -> int:
    """Until a signal; the exit code. A thread that ends earlier has hit a bug, whose traceback is printed."""
    from prometheus_client import start_http_server

    from monitoring.exporter.pipeline_metrics import registry_of

    try:
        server, serving = start_http_server(options.port, options.host, registry_of(pipeline))
    except (OSError, OverflowError) as error:
        problem = f"cannot listen there: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(f"--host {options.host} --port {options.port}: {problem}") from error
    log.line(f"pipeline metrics are at http://{options.host}:{server.server_port}/metrics")
    stop = threading.Event()
    looking = [
        threading.Thread(target=watched.every, args=(options.every, stop), daemon=True)
        for watched in (pipeline.airflow, pipeline.mlflow)
    ]
    for thread in looking:
        thread.start()
    heard = None
    while heard is None and all(thread.is_alive() for thread in (serving, *looking)):
        heard = signal.sigtimedwait(STOPPING, 1.0)
    stop.set()
    server.shutdown()
    for thread in looking:  # one that the interpreter's end cuts off in native code would abort the process
        thread.join(END_SECONDS)
    return 0 if heard else 1


def _challenges(directory: Path) -> tuple[str, ...]:
    names = sorted(path.stem for path in directory.glob("*.toml"))
    if not 1 <= len(names) <= MOST_CHALLENGES:
        expected = f"1 to {MOST_CHALLENGES} challenge files"
        raise ConfigurationError(f"--challenges {directory}: expected {expected}; found {len(names)}")
    return tuple(names)


if __name__ == "__main__":
    sys.exit(main())
