"""The endpoints for those who run the service: health, readiness and metrics."""

from __future__ import annotations

import asyncio
import time

import msgspec

from service.exposition import Exposition
from service.http import Answer, Call, Door
from service.model import Model
from service.problems import Problem
from service.stores import SeriesStore, StoreUnavailable

CHECK_SECONDS = 1.0


class HealthAnswer(msgspec.Struct, frozen=True):
    """What is served, since when, and from what."""

    status: str
    challenge: str
    model_version: str
    git_sha: str
    mlflow_run: str
    train_end: str
    uptime_seconds: float
    state: str
    """Where the state of the series is kept: memory or redis."""
    service_version: str


class Operation:
    """Whether the service is alive, whether it can serve, and what it has counted."""

    def __init__(self, model: Model, store: SeriesStore, door: Door, exposition: Exposition, version: str) -> None:
        self._model = model
        self._store = store
        self._door = door
        self._exposition = exposition
        self._version = version

    async def tell_health(self, call: Call) -> Answer:  # noqa: ARG002 - every endpoint is given its call
        """GET /health: 200 with what is served, or 503 with the reason."""
        await self._require_ready()
        manifest = self._model.bundle.manifest
        answer = HealthAnswer(
            status="ok",
            challenge=manifest.challenge,
            model_version=self._model.version,
            git_sha=manifest.git_sha,
            mlflow_run=manifest.mlflow_run,
            train_end=f"{manifest.train_end:%Y-%m-%dT%H:%M:%SZ}",
            uptime_seconds=round(time.time() - self._door.monitor.started, 3),
            state="memory" if self._door.settings.state == "memory" else "redis",
            service_version=self._version,
        )
        return Answer(msgspec.json.encode(answer))

    async def tell_ready(self, call: Call) -> Answer:  # noqa: ARG002
        """GET /v2/health/ready, and the model's own."""
        await self._require_ready()
        return Answer(b'{"ready":true}')

    async def tell_live(self, call: Call) -> Answer:  # noqa: ARG002
        """GET /v2/health/live: 200 as long as the process answers."""
        return Answer(b'{"live":true}')

    async def ping(self, call: Call) -> Answer:  # noqa: ARG002
        """GET /ping, as MLflow has it: 200 with nothing in it."""
        await self._require_ready()
        return Answer(b"\n", b"text/plain; charset=utf-8")

    async def tell_metrics(self, call: Call) -> Answer:
        """GET /metrics."""
        accept = call.headers.get(b"accept", b"").decode("latin-1")
        text, content_type = await asyncio.to_thread(self._exposition.text, accept)
        return Answer(text, content_type)

    async def _require_ready(self) -> None:
        if self._door.closing:
            raise Problem(503, "the service is stopping", headers={"retry-after": "5"})
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._store.check()
        except (StoreUnavailable, TimeoutError) as error:
            told = str(error) or f"the state did not answer within {CHECK_SECONDS:g} s"
            raise Problem(503, told, headers={"retry-after": "1"}) from error
