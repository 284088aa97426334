"""Which tests run in one process and in which order, and how long that takes.

The longest modules start first. `--write-durations` measures them anew, in a run of all tests as `make test` starts it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

TOGETHER = {
    **{f"tests/e2e/test_{name}.py": "the laptop stack" for name in ("gate", "pipeline", "release")},
    **{f"tests/integration/test_{name}.py": "Airflow" for name in ("dag_run", "gate", "pipeline_metrics", "retrain")},
}
"""Modules that one process runs one after the other, because they share what takes long to start."""
ROOT = Path(__file__).parents[1]
SECONDS = Path(__file__).with_name("durations.json")
UNKNOWN_SECONDS = 10.0
"""What a module is taken to need that was not measured yet."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-durations", action="store_true", help=f"measure the modules anew, into {SECONDS.name}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-durations"):
        config.pluginmanager.register(_Measuring(), "durations-measuring")


def pytest_report_header(config: pytest.Config) -> str:
    return _estimate(config.args, config.getoption("numprocesses", None) or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return ByModule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, whatever order they and their tests have been shuffled into."""
    known = _known()
    seconds: Counter[str] = Counter()
    for module in {_module(item.nodeid) for item in items}:
        seconds[TOGETHER.get(module, module)] += known.get(module, UNKNOWN_SECONDS)
    items.sort(key=lambda item: -seconds[_scope(item.nodeid)])


class _Measuring:
    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[_module(report.nodeid)] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):
            rounded = {module: round(seconds, 1) for module, seconds in sorted(self._seconds.items())}
            SECONDS.write_text(json.dumps(_known() | rounded, indent=1) + "\n", encoding="utf-8")


def _estimate(arguments: Sequence[str], workers: int) -> str:
    known = _known()
    modules = [path for argument in arguments for path in _modules(ROOT / _module(argument))]
    seconds = sum(known.get(str(path).removeprefix(f"{ROOT}/"), UNKNOWN_SECONDS) for path in modules)
    minutes = max(seconds / workers / 60, 0.1)
    return f"{len(modules)} test modules in {workers} processes: about {minutes:.1f} minutes on two cores"


def _known() -> dict[str, float]:
    return json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}


def _module(nodeid: str) -> str:
    return nodeid.split("::", maxsplit=1)[0]


def _scope(nodeid: str) -> str:
    return TOGETHER.get(_module(nodeid), _module(nodeid))


def _modules(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("test_*.py"))


if __name__ == "__main__":
    print(f"Lint and types: about a minute. {_estimate(sys.argv[2:], int(sys.argv[1]))}.", flush=True)
