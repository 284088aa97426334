"""The endpoints of the protocols that other tools speak: the Open Inference Protocol and MLflow's scoring."""

from __future__ import annotations

import msgspec

from service import mlflow_protocol, open_inference, open_inference_types
from service.http import Answer, Call, require_json
from service.model import Model, Prediction
from service.monitor import Monitor, PredictedBy
from service.problems import Problem
from service.settings import Settings
from service.tables import FloatArray

_OCTETS = b"application/octet-stream"
_HEADER_LENGTH = b"inference-header-content-length"


class Inference:
    """Rows of features in, forecasts out, in other tools' words."""

    def __init__(self, model: Model, monitor: Monitor, settings: Settings, version: str) -> None:
        """version: of the service."""
        self._model = model
        self._monitor = monitor
        self._most = settings.max_batch
        self._metadata = msgspec.json.encode(
            open_inference_types.model_metadata(model.name, model.version, model.columns, model.horizons)
        )
        self._server = msgspec.json.encode(open_inference_types.server_metadata("rps", version))
        self._version = version

    async def infer(self, call: Call) -> Answer:
        """POST /v2/models/{name}/infer."""
        length = call.headers.get(_HEADER_LENGTH)
        if length is None:
            require_json(call.headers)
        model = self._model
        request = open_inference.decode(
            call.body, None if length is None else length.decode("latin-1"), model.columns, self._most
        )
        found = self._predict("open_inference", request.matrix)
        body, header_length = open_inference.encode(
            request, model.name, model.version, model.horizons, found.forecast, found.lower, found.upper
        )
        if header_length is None:
            return Answer(body)
        return Answer(body, _OCTETS, headers=((_HEADER_LENGTH, b"%d" % header_length),))

    async def score(self, call: Call) -> Answer:
        """POST /invocations."""
        content_type = call.headers.get(b"content-type", b"").decode("latin-1")
        matrix = mlflow_protocol.decode(call.body, content_type, self._model.columns, self._most)
        found = self._predict("mlflow", matrix)
        return Answer(mlflow_protocol.encode(self._model.horizons, found.forecast, found.lower, found.upper))

    async def describe_model(self, call: Call) -> Answer:  # noqa: ARG002 - every endpoint is given its call
        """GET /v2/models/{name}."""
        return Answer(self._metadata)

    async def describe_server(self, call: Call) -> Answer:  # noqa: ARG002
        """GET /v2."""
        return Answer(self._server)

    async def unknown_model(self, call: Call) -> Answer:
        """Any route of a model that is not served here."""
        parameters = call.scope["path_params"]
        found = "/".join(str(parameters[key]) for key in ("name", "version") if key in parameters)
        told = f"no model {found[:80]!r} here; this server has {self._model.name}, version {self._model.version}"
        raise Problem(404, told)

    async def tell_version(self, call: Call) -> Answer:  # noqa: ARG002
        """GET /version."""
        return Answer(self._version.encode(), b"text/plain; charset=utf-8")

    def _predict(self, source: PredictedBy, matrix: FloatArray) -> Prediction:
        model = self._model
        found = model.predict(matrix)
        if len(matrix) == 1:
            self._monitor.row(source, matrix[0], unusual=bool(found.unusual[0]))
        else:
            self._monitor.rows(source, matrix, found.unusual)
        return found
