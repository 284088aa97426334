"""Health, readiness and metrics: the routes for those who run the service."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType

from service import VERSION
from service.model.served import Model
from service.protocols.problems import Problem, problem_responses
from service.protocols.request_limits import RequestLimits
from service.state.stores import SeriesStore, StoreUnavailable
from service.watch.exposition import Exposition
from service.watch.sensors import SensorWatch

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


class Health:
    """What is served, and whether it can be."""

    def __init__(self, model: Model, store: SeriesStore, limits: RequestLimits) -> None:
        self._model = model
        self._store = store
        self._limits = limits

    def served(self) -> HealthAnswer:
        manifest = self._model.bundle.manifest
        return HealthAnswer(
            status="ok",
            challenge=manifest.challenge,
            model_version=self._model.version,
            git_sha=manifest.git_sha,
            mlflow_run=manifest.mlflow_run,
            train_end=f"{manifest.train_end:%Y-%m-%dT%H:%M:%SZ}",
            uptime_seconds=round(time.time() - self._limits.monitor.started, 3),
            state="memory" if self._limits.settings.state == "memory" else "redis",
            service_version=VERSION,
        )

    async def require_ready(self) -> None:
        """Raises Problem 503 when the service is stopping, or cannot reach its state."""
        if self._limits.closing:
            raise Problem(503, "the service is stopping", headers={"retry-after": "5"})
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._store.check()
        except (StoreUnavailable, TimeoutError) as error:
            message = str(error) or f"the state did not answer within {CHECK_SECONDS:g} s"
            raise Problem(503, message, headers={"retry-after": "1"}) from error


class HealthController(Controller):
    """The routes for operators."""

    tags = ("Operation",)

    @get("/health", summary="What is served", responses=problem_responses())
    async def show_health(self, health: NamedDependency[Health]) -> HealthAnswer:
        """200 with what is served, or 503 with the reason."""
        await health.require_ready()
        return health.served()

    @get("/metrics", summary="Prometheus", media_type=MediaType.TEXT, responses=problem_responses())
    async def show_metrics(
        self,
        request: Request[Any, Any, Any],
        exposition: NamedDependency[Exposition],
        sensors: NamedDependency[SensorWatch],
    ) -> Response[bytes]:
        await sensors.look()
        text, content_type = await asyncio.to_thread(exposition.text, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})
