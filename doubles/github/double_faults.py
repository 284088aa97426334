"""Faults of the double that are switched on by request, for so many answers or seconds."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault of an answer.

    `primary_limit`, `secondary_limit`: as GitHub limits the rate; with ``seconds``, it says how long it still holds;
    `server_error`, `unauthorized`, `not_found`: an answer of that kind; `slow`: it comes ``delay`` seconds late;
    `cut`: the connection ends in the middle of the answer; `unreadable`: a page of HTML, as a proxy gives;
    `half_uploaded`: an upload fails behind GitHub's door, and leaves an empty file in the state `starter`.
    """

    kind: str
    status: int = 0
    """Of a limit: 403 or 429; of a server error: 500, 502, 503."""
    times: int | None = None
    """For so many answers."""
    seconds: float | None = None
    """For so long."""
    after: int = 0
    """So many answers go by first."""
    delay: float = 2.0
    performed: bool = False
    """Whether what was asked for is done all the same, so that only the answer is lost."""
    headers: bool = True
    """Whether a limit says how long it holds."""
    as_date: bool = False
    """Whether it says so by a date, as a proxy does."""
    methods: list[str] = []
    path: str = ""
    """Only requests of these methods, and with this in their path; all by default."""
    until: float = 0.0


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


class Faults:
    """Those that are switched on; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def put(self, asked: object) -> None:
        """Switch one on, in place of any of its kind. Raises ValueError telling what was expected."""
        try:
            fault = msgspec.convert(asked, Fault)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
        if fault.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; found {fault.kind!r}")
        fault.status = fault.status or KINDS[fault.kind]
        fault.performed |= fault.kind == "half_uploaded"
        fault.until = time.time() + fault.seconds if fault.seconds is not None else 0.0
        with self._lock:
            self._faults = [each for each in self._faults if each.kind != fault.kind] + [fault]

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def told(self) -> list[Any]:
        with self._lock:
            return [msgspec.to_builtins(fault) for fault in self._faults]

    def take(self, method: str, path: str) -> list[Fault]:
        """The faults of the answer to this request, each counted down."""
        taken = []
        with self._lock:
            for fault in list(self._faults):
                if fault.until and time.time() >= fault.until:
                    self._faults.remove(fault)
                elif (fault.methods and method not in fault.methods) or fault.path not in path:
                    continue
                elif fault.after:
                    fault.after -= 1
                else:
                    taken.append(fault)
                    if fault.times is not None:
                        fault.times -= 1
                        if not fault.times:
                            self._faults.remove(fault)
        return taken
