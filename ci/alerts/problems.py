"""What is wrong with a request, as an RFC 9457 problem document that says what to change."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that is not taken. pointer: where in the body (RFC 6901); headers: what goes with the answer."""

    def __init__(
        self, status: int, detail: str, *, pointer: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.pointer = pointer
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": f"{self.pointer}: {self.detail}" if self.pointer else self.detail,
        }
        if self.pointer:
            document["errors"] = [{"pointer": self.pointer, "detail": self.detail}]
        return document
