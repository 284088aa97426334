"""What can be wrong with an answer of the double."""

from __future__ import annotations

import time

import msgspec

from doubles.faults import Switched


class Fault(Switched, kw_only=True, forbid_unknown_fields=True):
    """One fault of an answer.

    `primary_limit`, `secondary_limit`: as GitHub limits the rate; with ``seconds``, it says how long it still holds;
    `server_error`, `unauthorized`, `not_found`: an answer of that kind; `slow`: it comes ``delay`` seconds late;
    `cut`: the connection ends in the middle of the answer; `unreadable`: a page of HTML, as a proxy gives;
    `half_uploaded`: an upload fails behind GitHub's door, and leaves an empty file in the state `starter`.
    """

    status: int = 0
    """Of a limit: 403 or 429; of a server error: 500, 502, 503."""
    seconds: float | None = None
    """For so long."""
    delay: float = 2.0
    performed: bool = False
    """Whether what was asked for is done all the same, so that only the answer is lost."""
    headers: bool = True
    """Whether a limit says how long it holds."""
    as_date: bool = False
    """Whether it says so by a date, as a proxy does."""
    methods: tuple[str, ...] = ()
    path: str = ""
    """Only requests of these methods, and with this in their path; all by default."""

    def concerns(self, method: str, path: str) -> bool:
        return (not self.methods or method in self.methods) and self.path in path


KINDS = {
    "primary_limit": 403,
    "secondary_limit": 403,
    "server_error": 502,
    "unauthorized": 401,
    "not_found": 404,
    "slow": 0,
    "cut": 0,
    "unreadable": 200,
    "half_uploaded": 502,
}


def read_fault(asked: object) -> Fault:
    """Raises ValueError with what was expected."""
    try:
        fault = msgspec.convert(asked, Fault)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if fault.kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}; found {fault.kind!r}")
    fault.status = fault.status or KINDS[fault.kind]
    fault.performed |= fault.kind == "half_uploaded"
    fault.until = time.time() + fault.seconds if fault.seconds is not None else 0.0
    return fault
