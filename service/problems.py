"""What goes wrong with a request, told as an RFC 9457 problem document that names the field and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

MEDIA_TYPE = b"application/problem+json"
MOST_FIELDS = 20
"""How many wrong fields one answer names; a batch may hold thousands."""


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a request: where, and what was expected and found."""

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
    """A request that cannot be answered as asked. ``detail`` says what to change; ``headers`` go with the answer."""

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


def wrong_field(pointer: str, detail: str, status: int = 422) -> Problem:
    """A problem with one field."""
    return Problem(status, f"{pointer}: {detail}", [Field(pointer, detail)])
