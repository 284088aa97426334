"""What Litestar cannot know of its OpenAPI document: the hot routes, and bodies and examples that follow the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
)
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from service.model.served import Model
from service.protocols import examples, mlflow_protocol
from service.protocols.forecasts import ForecastAnswer, ObservationsAnswer
from service.protocols.hot_routes import FORECAST, OBSERVATIONS
from service.protocols.observation_bodies import ObservationBodies
from service.protocols.open_inference_types import InferAnswer, InferBody
from service.protocols.problems import MEDIA_TYPE, ProblemDocument

_COMPONENTS = "#/components/schemas/{name}"
_JSON, _CSV, _OCTETS = "application/json", "text/csv", "application/octet-stream"
_BINARY: dict[str, Any] = {_OCTETS: {"type": "string", "format": "binary"}}
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]


def operation_id(_: HTTPRouteHandler, method: Method, path: list[str | PathParameterDefinition]) -> str:
    """The method and the path's parts."""
    parts = [part if isinstance(part, str) else f"{{{part.name}}}" for part in path]
    return _operation_id(method, "/" + "/".join(parts))


def complete(document: OpenAPI, model: Model, bodies: ObservationBodies, infer_path: str, *, keyed: bool) -> None:
    """Add to Litestar's document what follows from the model. keyed: whether observations want the service's key."""
    assert document.paths is not None
    types = [bodies.observations, ObservationsAnswer, bodies.window, ForecastAnswer, InferBody, InferAnswer]
    _, components = msgspec.json.schema_components([*types, ProblemDocument], ref_template=_COMPONENTS)
    document.components.schemas = cast("dict[str, Schema]", components) | document.components.schemas
    keys = [401] if keyed else []
    hot: tuple[tuple[Any, ...], ...] = (
        (OBSERVATIONS, "Stream in observations of series", "Forecasts",
         {_JSON: bodies.observations}, examples.observations(model), {_JSON: ObservationsAnswer}, keys),
        (FORECAST, "Forecast from a window of observations", "Forecasts",
         {_JSON: bodies.window}, examples.window(model), {_JSON: ForecastAnswer}, [409]),
        (infer_path, "Forecast from features", "Open Inference Protocol",
         {_JSON: InferBody, **_BINARY}, examples.infer(model), {_JSON: InferAnswer, **_BINARY}, []),
    )  # fmt: skip
    problem = _content({MEDIA_TYPE: ProblemDocument})
    for path, summary, tag, body, example, answer, statuses in hot:
        refused = {
            str(status): OpenAPIResponse(HTTPStatus(status).phrase, content=problem)
            for status in sorted({*statuses, 400, 408, 413, 415, 422, 500, 503})
        }
        operation = Operation(
            operation_id=_operation_id("POST", path),
            summary=summary,
            tags=[tag],
            request_body=_body(body, {_JSON: example}),
            responses={"200": OpenAPIResponse("Done", content=_content(answer)), **refused},
            security=_KEYS if 401 in statuses else None,
        )
        document.paths[path] = PathItem(post=operation)
    score = document.paths["/invocations"].post
    assert score is not None
    assert score.responses is not None
    score.request_body = _body(
        {_JSON: mlflow_protocol.request_schema(model.columns), _CSV: {"type": "string"}},
        {_JSON: examples.invocation(model), _CSV: examples.invocation_csv(model)},
    )
    score.responses["200"] = OpenAPIResponse("Done", content=_content({_JSON: mlflow_protocol.ANSWER_SCHEMA}))
    known = {"name": model.name, "version": model.version}
    if model.bundle.observations:
        known["unique_id"] = min(model.bundle.observations)
    for item in document.paths.values():
        if item.get is None:
            continue
        for parameter in item.get.parameters or ():
            if isinstance(parameter, Parameter) and parameter.name in known:
                parameter.example = known[parameter.name]
        (item.get.responses or {}).pop("400", None)  # Litestar's for a wrong parameter, which is a problem 422 here


def _operation_id(method: str, path: str) -> str:
    return re.sub(r"\W+", "_", f"{method.lower()}_{path}").strip("_")


def _body(types: Mapping[str, Any], shown: Mapping[str, Any]) -> RequestBody:
    return RequestBody(_content(types, shown), required=True)


def _content(types: Mapping[str, Any], shown: Mapping[str, Any] | None = None) -> dict[str, OpenAPIMediaType]:
    """By media type, a msgspec type or a JSON Schema."""
    content = {}
    for media_type, kind in types.items():
        schema = kind
        if not isinstance(kind, dict):
            (schema,), _ = msgspec.json.schema_components([kind], ref_template=_COMPONENTS)
        content[media_type] = OpenAPIMediaType(schema=schema, example=(shown or {}).get(media_type))
    return content
