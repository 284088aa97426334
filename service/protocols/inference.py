"""The routes of other tools' protocols: the Open Inference Protocol and MLflow's scoring."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.params import FromPath, RawBody

from service import VERSION
from service.model.served import Model, Prediction
from service.protocols import mlflow_protocol, open_inference
from service.protocols.health import Health
from service.protocols.open_inference_types import Live, ModelMetadata, Ready, ServerMetadata, model_metadata
from service.protocols.problems import Problem, problem_responses
from service.protocols.wire_tables import FloatArray
from service.service_settings import Settings
from service.watch.monitor import Monitor, PredictedBy


class Inference:
    """Rows of features in, forecasts out, in other tools' words."""

    def __init__(self, model: Model, monitor: Monitor, settings: Settings) -> None:
        self._model = model
        self._monitor = monitor
        self._most = settings.max_batch
        self._metadata = model_metadata(model.name, model.version, model.columns, model.horizons)
        self.server = ServerMetadata("rps", VERSION, extensions=("binary_tensor_data",))

    def infer(self, body: bytes, header_length: str | None) -> tuple[bytes, int | None]:
        """What answers POST /v2/models/{name}/infer; see ``open_inference`` for the lengths. Raises Problem."""
        model = self._model
        request = open_inference.decode(body, header_length, model.columns, self._most)
        found = self._predict("open_inference", request.matrix)
        outputs = {"forecast": found.forecast, "lower": found.lower, "upper": found.upper}
        return open_inference.encode(request, model.name, model.version, model.horizons, **outputs)

    def score(self, body: bytes, content_type: str) -> bytes:
        """What answers POST /invocations. Raises Problem."""
        matrix = mlflow_protocol.decode(body, content_type, self._model.columns, self._most)
        found = self._predict("mlflow", matrix)
        return mlflow_protocol.encode(self._model.horizons, found.forecast, found.lower, found.upper)

    def metadata(self, name: FromPath[str], version: FromPath[str | None] = None) -> ModelMetadata:
        """The description of the model that a path names. Raises Problem 404 when it is not served here."""
        model = self._model
        if name != model.name or version not in {None, model.version}:
            found = name if version is None else f"{name}/{version}"
            message = f"no model {found[:80]!r} here; this server has {model.name}, version {model.version}"
            raise Problem(404, message)
        return self._metadata

    def _predict(self, source: PredictedBy, matrix: FloatArray) -> Prediction:
        model = self._model
        found = model.predict(matrix)
        if len(matrix) == 1:
            self._monitor.row(source, matrix[0], unusual=bool(found.unusual[0]))
        else:
            self._monitor.rows(source, matrix, found.unusual)
        return found


def _paths(end: str = "") -> list[str]:
    return [f"/models/{{name:str}}{end}", f"/models/{{name:str}}/versions/{{version:str}}{end}"]


class OpenInferenceController(Controller):
    """The Open Inference Protocol, version 2; ``hot_routes`` has the inference itself."""

    path = "/v2"
    tags = ("Open Inference Protocol",)

    @get(summary="The server", responses=problem_responses(), sync_to_thread=False)
    def describe_server(self, inference: NamedDependency[Inference]) -> ServerMetadata:
        return inference.server

    @get("/health/live", summary="Alive", responses=problem_responses(), sync_to_thread=False)
    def show_live(self) -> Live:
        return Live(live=True)

    @get("/health/ready", summary="Ready", responses=problem_responses())
    async def show_ready(self, health: NamedDependency[Health]) -> Ready:
        await health.require_ready()
        return Ready(ready=True)

    @get(_paths(), summary="The model", responses=problem_responses(404), sync_to_thread=False)
    def describe_model(self, metadata: NamedDependency[ModelMetadata]) -> ModelMetadata:
        return metadata

    @get(_paths("/ready"), summary="Model ready", responses=problem_responses(404))
    async def show_model_ready(
        self,
        metadata: NamedDependency[ModelMetadata],  # noqa: ARG002 - it checks the name
        health: NamedDependency[Health],
    ) -> Ready:
        await health.require_ready()
        return Ready(ready=True)

    @post(_paths("/infer"), include_in_schema=False, sync_to_thread=False)
    def infer(self, metadata: NamedDependency[ModelMetadata]) -> None:
        """Only other models' names reach this route, and ``metadata`` refuses them."""


class ScoringController(Controller):
    """MLflow's scoring protocol."""

    tags = ("MLflow scoring",)

    @post(
        "/invocations",
        summary="Forecast from features",
        media_type=MediaType.JSON,
        status_code=200,
        responses=problem_responses(400, 413, 415, 422),
        sync_to_thread=False,
    )
    def score(self, request: Request[Any, Any, Any], body: RawBody, inference: NamedDependency[Inference]) -> bytes:
        return inference.score(body, request.headers.get("content-type", ""))

    @get("/ping", summary="Ready", media_type=MediaType.TEXT, responses=problem_responses())
    async def ping(self, health: NamedDependency[Health]) -> str:
        await health.require_ready()
        return "\n"

    @get("/version", summary="The interface's version", media_type=MediaType.TEXT, responses=problem_responses(),
         sync_to_thread=False)  # fmt: skip
    def show_version(self, inference: NamedDependency[Inference]) -> str:
        return inference.server.version
