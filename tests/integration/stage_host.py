"""A process that has imported what the stages need, and forks for every run of one: a run then costs no imports.

It reads a JSON object per line (`stage`, `workspace`, `environment`, `moments`, `coarse`) and answers with two: the
`pid` of the run; its exit `code` and `output`. Its argument is a file in which a run says what it has imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.integration.moments import Moments, kill_at_local_moments

SLOW_IMPORTS = ("pandas", "mlflow.sklearn", "sklearn.ensemble", "dvc.repo", "s3fs", "ydata_profiling")
"""Imported at once; what else the stages import is learnt from their runs. A wrong name only costs time."""
STAGE_SECONDS = 180.0
MEBIBYTE = 1 << 20


def main() -> None:
    _import(SLOW_IMPORTS)
    _list_packages()
    imported = Path(sys.argv[1])
    for line in sys.stdin:
        gc.freeze()  # to collect what is imported would copy its memory
        _run(json.loads(line), imported)
        with contextlib.suppress(FileNotFoundError):
            _import(imported.read_text().split())
            imported.unlink()


def _run(request: dict[str, Any], imported: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MEBIBYTE)  # so that nobody has to read while the stage runs
    stage = multiprocessing.get_context("fork").Process(target=_be_the_stage, args=(request, imported, writing))
    stage.start()
    os.close(writing)
    print(json.dumps({"pid": stage.pid}), flush=True)
    stage.join(STAGE_SECONDS)
    stage.kill()
    stage.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(stage.pid, signal.SIGKILL)  # the programs that it had started
    with os.fdopen(reading, errors="replace") as output:
        print(json.dumps({"code": stage.exitcode, "output": output.read()}), flush=True)


def _be_the_stage(request: dict[str, Any], imported: Path, output: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(request["workspace"])
    os.environ.clear()
    os.environ.update(request["environment"])
    before = set(sys.modules)
    if request["moments"]:
        moments = Moments(Path(request["moments"]), coarse=request["coarse"])
        kill_at_local_moments(moments, Path(request["workspace"]))
    try:
        from tests.integration.ingesting import carried

        sys.exit(carried(request["stage"]))
    finally:
        if not request["moments"]:
            imported.write_text("\n".join(name for name in sys.modules if name not in before))


def _import(names: Iterable[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _list_packages() -> None:
    """Let MLflow list the installed packages now: each run would do so when it saves its first model."""
    import mlflow.sklearn
    from sklearn.dummy import DummyRegressor

    with tempfile.TemporaryDirectory() as scratch:
        mlflow.sklearn.save_model(DummyRegressor().fit([[0.0]], [0.0]), f"{scratch}/model", pip_requirements=[])


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a run would be killed while it writes that
    main()
