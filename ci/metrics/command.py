"""The options of `python -m ci metrics`, and its course: look at both systems, answer scrapes, end on a signal."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ci.arguments import positive
from ci.errors import ConfigurationError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ci.metrics.exposition import Pipeline
    from ci.progress import Log

HOST, PORT = "127.0.0.1", 9106
EVERY_SECONDS = 30.0
MOST_CHALLENGES = 20
STOPPING = (signal.SIGTERM, signal.SIGINT)


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("metrics", help="tell Prometheus what Airflow and MLflow know of the pipeline")
    parser.set_defaults(command=_run)
    parser.add_argument("--host", default=HOST, help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--every", type=positive, default=EVERY_SECONDS, metavar="S",
        help="seconds between two looks at Airflow and at MLflow (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--challenges", type=Path, default=Path("challenges"), metavar="DIR",
        help="whose files name the challenges that are told of (default: %(default)s/)",
    )  # fmt: skip


def _run(options: argparse.Namespace, log: Log) -> int:
    # Kept for `sigtimedwait` below, by every thread that is started from here on.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    from ci.settings import airflow_settings, mlflow_settings

    challenges = _challenges(options.challenges)
    settings = airflow_settings(os.environ), mlflow_settings(os.environ)
    from ci.metrics.airflow_runs import AirflowRuns
    from ci.metrics.exposition import Pipeline
    from ci.metrics.mlflow_records import MlflowRecords
    from ci.metrics.watched import Watched

    airflow, mlflow = AirflowRuns(settings[0], challenges), MlflowRecords(settings[1], challenges)
    pipeline = Pipeline(Watched("Airflow", airflow.look, log.line), Watched("MLflow", mlflow.look, log.line))
    return _serve(pipeline, options, log)


def _serve(pipeline: Pipeline, options: argparse.Namespace, log: Log) -> int:
    """Until a signal; the exit code. A thread that ends before it does so of a bug, whose trace is printed."""
    from ci.metrics.server import listening

    stop = threading.Event()
    with listening(pipeline, options.host, options.port) as server:
        works = (
            threading.Thread(target=server.serve_forever, daemon=True),
            *(
                threading.Thread(target=watched.every, args=(options.every, stop), daemon=True)
                for watched in (pipeline.airflow, pipeline.mlflow)
            ),
        )
        log.line(f"telling of the pipeline at http://{options.host}:{server.server_address[1]}/metrics")
        for work in works:
            work.start()
        heard = None
        while heard is None and all(work.is_alive() for work in works):
            heard = signal.sigtimedwait(STOPPING, 1.0)
        stop.set()
        server.shutdown()
    return 0 if heard else 1


def _challenges(directory: Path) -> tuple[str, ...]:
    names = sorted(path.stem for path in directory.glob("*.toml"))
    if not 1 <= len(names) <= MOST_CHALLENGES:
        expected = f"1 to {MOST_CHALLENGES} challenge files"
        raise ConfigurationError(f"--challenges {directory}: expected {expected}; found {len(names)}")
    return tuple(names)
