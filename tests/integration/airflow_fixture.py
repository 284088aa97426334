"""The Airflow that several modules share; a plugin, so that it is one fixture for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.airflow_server import AirflowServer


class _Shared:
    """The Airflow, once a module has asked for it."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.server: AirflowServer | None = None


@pytest.fixture(scope="session")
def shared_airflow() -> Iterator[_Shared]:
    shared = _Shared()
    with shared.stack:
        yield shared


@pytest.fixture(scope="module")
def airflow_server(
    shared_airflow: _Shared, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowServer]:
    """A real Airflow with `DAGS` and a broken DAG file. It ends with the last module that asks for it: it is costly."""
    from tests.integration import airflow_server as real  # a second, which only its users wait for

    if shared_airflow.server is None:
        home = tmp_path_factory.mktemp("airflow")
        shared_airflow.server = shared_airflow.stack.enter_context(real.airflow_server(home))
    yield shared_airflow.server
    users = [item for item in request.session.items if "airflow_server" in getattr(item, "fixturenames", ())]
    if users[-1].nodeid.startswith(f"{request.node.nodeid}::"):
        shared_airflow.stack.close()
        shared_airflow.server = None
