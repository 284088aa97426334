"""The floor: Litestar routes that parse the service's request bodies and answer a constant. No work is done.

Two of each: as Litestar's documentation writes a route, and the leanest that the framework allows. Run by uvicorn.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from litestar import Litestar, asgi, get, post
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: Literal["FP64"]
    data: list[float]


class InferenceRequest(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None


class Window(msgspec.Struct):
    unique_id: str
    ds: list[datetime]
    values: dict[str, list[float | None]]


INFERENCE: dict[str, Any] = {
    "model_name": "weather",
    "model_version": "1",
    "parameters": {"horizons": "4,5,6"},
    "outputs": [
        {"name": name, "datatype": "FP64", "shape": [1, 3], "data": [1.25, 2.5, 3.75]}
        for name in ("forecast", "lower", "upper")
    ],
}
FORECAST: dict[str, Any] = {
    "model": {"name": "weather", "version": "1"},
    "origin": "2013-01-03T00:00:00Z",
    "unit": "°C",
    "interval": 0.9,
    "forecasts": [
        {"horizon": horizon, "ds": f"2013-01-03T0{horizon}:00:00Z", "value": 1.25, "lower": -1.5, "upper": 4.0}
        for horizon in (4, 5, 6)
    ],
    "unusual": [],
    "unique_id": "EWR",
}


@post("/v2/models/{name:str}/infer", status_code=200)
async def infer(name: str, data: InferenceRequest) -> dict[str, Any]:  # noqa: ARG001  # the route is what is measured
    return INFERENCE


@post("/v1/forecast", status_code=200)
async def forecast(data: Window) -> dict[str, Any]:  # noqa: ARG001  # parsing it is what is measured
    return FORECAST


def _lean(path: str, body: type[msgspec.Struct], answer: dict[str, Any]) -> ASGIRouteHandler:
    """A route that reads and decodes the body by itself and answers bytes that were made before."""
    decode = msgspec.json.Decoder(body).decode
    content = msgspec.json.encode(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]

    @asgi(path, copy_scope=True)
    async def route(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # as ASGI calls it
        received: list[bytes] = []
        more = True
        while more:
            message: Any = await receive()
            received.append(message["body"])
            more = message["more_body"]
        decode(b"".join(received))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return route


@get("/ready")
async def ready() -> None:
    """Whether it has started."""


app = Litestar(
    [
        ready,
        infer,
        forecast,
        _lean("/lean/infer", InferenceRequest, INFERENCE),
        _lean("/lean/forecast", Window, FORECAST),
    ],
    openapi_config=None,
)
