"""Problem documents (RFC 9457): they name the field at fault and what to change."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from service.state.stores import StoreUnavailable

MEDIA_TYPE = "application/problem+json"
MOST_FIELDS = 20
"""How many wrong fields one answer names; a batch may hold thousands."""
_ALWAYS_POSSIBLE = (408, 500, 503)
_LOGGER = logging.getLogger("service.requests")


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault of a request: where, and what was expected and found."""

    pointer: str
    """A JSON pointer into the body (RFC 6901), or the name of a header or of a parameter."""
    detail: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is an error (RFC 9457); `error`, `error_code` and `message` are for the clients of
    the Open Inference Protocol and of MLflow, which look there.
    """

    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[Field, ...] = ()
    error: str | None = None
    error_code: str | None = None
    message: str | None = None
    type: str = "about:blank"


class Problem(Exception):
    """A fault of a request. ``detail`` says what to change; ``headers`` go with the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Field] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,  # noqa: ANN401 - a problem document may carry members of its own
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors[:MOST_FIELDS])
        self.headers = dict(headers or {})
        self.members = members

    def document(self, request_id: str) -> bytes:
        """The problem as JSON."""
        known = ProblemDocument(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            request_id=request_id,
            errors=self.errors,
            error=self.detail,
            error_code=HTTPStatus(self.status).name,
            message=self.detail,
        )
        return msgspec.json.encode({**msgspec.to_builtins(known), **self.members})


class Disconnected(Problem):
    """The client left before its request was whole. Nobody reads the answer; its status is counted."""

    def __init__(self) -> None:
        super().__init__(499, "the client left")

    def document(self, request_id: str) -> bytes:  # noqa: ARG002 - as any problem's
        return b""


def wrong_field(pointer: str, detail: str, status: int = 422) -> Problem:
    """A problem with one field, or with the whole body when the pointer is empty."""
    return Problem(status, f"{pointer or 'the body'}: {detail}", [Field(pointer, detail)])


def located(message: str) -> tuple[str, list[str]]:
    """What msgspec's message says, and the parts of the path at its end, such as ``$.inputs[0].shape``.

    An unnamed member of an object is the part ``...``.
    """
    detail, _, path = message.partition(" - at `$")
    return detail, re.findall(r"\w+|\.\.\.", path)


def problem_for(error: Exception, path: str, request_id: str) -> Problem:
    """The problem that a client gets for an error. Errors of the service are logged."""
    match error:
        case Problem():
            return error
        case StoreUnavailable():
            _LOGGER.warning("state unavailable", extra={"request_id": request_id, "detail": str(error)})
            message = f"{error}. Send the request again: what was kept of it already counts once"
            return Problem(503, message, headers={"retry-after": "1"})
        case NotFoundException():
            return Problem(404, f"nothing is at {path[:200]!r}; GET /schema lists what is")
        case MethodNotAllowedException():
            allowed = _allowed((error.headers or {}).get("allow", ""))
            return Problem(405, f"expected {allowed}", headers={"allow": allowed})
        case ValidationException():
            found = error.extra if isinstance(error.extra, list) else []
            fields = [Field(str(each.get("key", "")), str(each.get("message", ""))) for each in found]
            return Problem(422, "; ".join(f"{field.pointer}: {field.detail}" for field in fields), fields)
        case HTTPException():
            return Problem(error.status_code, error.detail)
    _LOGGER.error("request failed", exc_info=error, extra={"request_id": request_id, "path": path})
    return Problem(500, f"an error of the service, not of the request; its log has more under {request_id}")


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The application's exception handler."""
    request_id: str = request.state.request_id
    problem = problem_for(error, request.scope["path"], request_id)
    return Response(
        problem.document(request_id), status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers
    )


def problem_responses(*statuses: int) -> dict[int, ResponseSpec]:
    """The problems that a route may answer with, for the OpenAPI document."""
    return {
        status: ResponseSpec(
            ProblemDocument, generate_examples=False, description=HTTPStatus(status).phrase, media_type=MEDIA_TYPE
        )
        for status in sorted({*statuses, *_ALWAYS_POSSIBLE})
    }


def _allowed(methods: str) -> str:
    """The methods of an Allow header as the service takes them: HEAD wherever GET is, and OPTIONS for CORS alone."""
    found = set(methods.split(", ")) - {"OPTIONS"}
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))
