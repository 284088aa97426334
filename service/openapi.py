"""The OpenAPI document, made from the same table of routes that the application serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from service.http import Endpoint
from service.problems import ProblemDocument

_COMPONENTS = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")
_PATTERNS = {"unique_id": r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$"}
_JSON = "application/json"


@dataclass(frozen=True)
class Described:
    """One route: where it is, what it does, and what goes in and out by media type, as types or as schemas."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    tag: str
    request: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    secured: bool = False
    shown: bool = True
    vital: bool = False
    """Whether it is answered however many requests are at work: a busy service must not seem a dead one."""
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Of the request's body by media type, and of the path's parameters by name."""

    @property
    def label(self) -> str:
        """The path with its parameters' names, for metrics and the document."""
        return _PARAMETER.sub(r"{\1}", self.path)

    def matches(self, path: str) -> bool:
        """Whether a request's path is one of this route's."""
        return re.fullmatch(_PARAMETER.sub("[^/]+", self.path), path) is not None


def openapi(routes: Sequence[Described], title: str, version: str) -> bytes:
    """The document, as JSON."""
    shown = [route for route in routes if route.shown]
    bodies = [kind for route in shown for part in (route.request, route.response) for kind in part.values()]
    types = [kind for kind in bodies if not isinstance(kind, dict)]
    _, components = msgspec.json.schema_components([*types, ProblemDocument], ref_template=_COMPONENTS)
    for component in components.values():
        if "description" in component:
            component["description"] = " ".join(component["description"].split())
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.label, {})[route.method.lower()] = _operation(route)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": version},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
        }
    )


def _operation(route: Described) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}_{route.label}").strip("_"),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {"200": {"description": "Done", "content": _content(route.response)}},
    }
    for status in sorted({*route.problems, 408, 500, 503}):
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": _content({"application/problem+json": ProblemDocument}),
        }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": _PATTERNS.get(name, ".+")},
            **({"example": route.examples[name]} if name in route.examples else {}),
        }
        for name, _ in _PARAMETER.findall(route.path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.request:
        content = _content(route.request)
        for media, example in route.examples.items():
            content[media]["example"] = example
        operation["requestBody"] = {"required": True, "content": content}
    if route.secured:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _content(bodies: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media, kind in bodies.items():
        if isinstance(kind, dict):
            content[media] = {"schema": kind}
        else:
            (schema,), _ = msgspec.json.schema_components([kind], ref_template=_COMPONENTS)
            content[media] = {"schema": schema}
    return content
