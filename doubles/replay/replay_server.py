"""The replay's HTTP server: the weather routes, the clock, the faults and a health check, on a loopback address."""

from __future__ import annotations

import gzip
import ipaddress
import json
import time
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from doubles.faults import Faults
from doubles.replay.open_meteo_wire import BadRequest, parse_query, select, to_json
from doubles.replay.recording import Recording
from doubles.replay.replay_clock import Clock, parse_moment, written
from doubles.replay.replay_faults import Fault, read_fault, spoil
from doubles.threaded_server import LoopbackServer, QuietHandler

_WEATHER = {"/v1/forecast": False, "/v1/archive": True}
_LARGEST_REQUEST = 65536
_JSON = {"Content-Type": "application/json; charset=utf-8"}


class NotLoopback(Exception):
    """The replay lets anybody move its clock and break its answers, so it listens on loopback addresses only."""


class ReplayServer(LoopbackServer):
    """Serves one recording. Raises NotLoopback, or OSError when the port is taken."""

    def __init__(self, host: str, port: int, recording: Recording, now: datetime | None, speed: float) -> None:
        if host != "localhost" and not _is_loopback(host):
            raise NotLoopback(f"--host: expected a loopback address such as 127.0.0.1; found {host!r}")
        self.recording = recording
        self.clock = Clock(now or recording.end, speed, recording.end)
        self.faults = Faults(read_fault)
        super().__init__((host, port), Handler)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


class Handler(QuietHandler):
    """One connection."""

    server: ReplayServer
    protocol_version = "HTTP/1.1"
    timeout = 30.0
    # The head and the body are two writes; without this the second waits for the first's acknowledgement.
    disable_nagle_algorithm = True

    def answer(self) -> None:
        address = urlsplit(self.path)
        if self.command == "GET" and address.path in _WEATHER:
            self._weather(address.query, archive=_WEATHER[address.path])
            return
        try:
            shown = self._control(address.path)
        except (ValueError, TypeError) as error:
            self._json(400, {"error": True, "reason": str(error)})
        else:
            self._json(200 if shown else 404, shown or {"error": True, "reason": "Not Found"})

    def _control(self, path: str) -> dict[str, object]:
        """Do what is asked and show the result; empty when there is no such thing. Raises ValueError or TypeError."""
        length = min(int(self.headers.get("Content-Length") or 0), _LARGEST_REQUEST)
        asked = json.loads(self.rfile.read(length)) if self.command == "PUT" else None
        match self.command, path:
            case "PUT", "/replay/clock":
                self._move_clock(asked)
            case "PUT", "/replay/faults":
                self.server.faults.put(asked)
            case "DELETE", "/replay/faults":
                self.server.faults.clear()
            case ("GET", _):
                pass
            case _:
                return {}
        match path:
            case "/replay/clock":
                return self._clock()
            case "/replay/faults":
                return {"faults": self.server.faults.shown()}
            case "/health":
                return {"status": "ok", **self._clock(), "recorded_until": written(self.server.recording.end)}
        return {}

    def _clock(self) -> dict[str, object]:
        return {"now": written(self.server.clock.now()), "speed": self.server.clock.speed}

    def _move_clock(self, asked: object) -> None:
        if not isinstance(asked, dict) or not asked or not set(asked) <= {"now", "speed"}:
            raise ValueError(f"expected an object with now, speed or both; found {asked!r}")
        clock = self.server.clock
        now = parse_moment(asked["now"]) if "now" in asked else clock.now()
        clock.set(now, float(asked.get("speed", clock.speed)))

    def _weather(self, query_string: str, *, archive: bool) -> None:
        started = time.perf_counter()
        faults = self.server.faults.take()
        if "slow" in faults:
            time.sleep(faults["slow"].number("seconds"))
        if self._refused(faults):
            return
        now = self.server.clock.now()
        try:
            query = parse_query(parse_qs(query_string), now, archive=archive)
        except BadRequest as error:
            self._json(400, {"error": True, "reason": str(error)})
            return
        answers = select(self.server.recording, query, now)
        for hourly in answers:
            spoil(hourly, faults)
        body = _encoded(to_json(answers, query, round((time.perf_counter() - started) * 1000, 4)))
        if "empty" in faults and faults["empty"].options["how"] == "body":
            body = b""
        if "cut_off" in faults:
            self._cut_off(body, str(faults["cut_off"].options["how"]))
        else:
            self._send(200, body)

    def _refused(self, faults: dict[str, Fault]) -> bool:
        if "unauthorized" in faults:
            self._json(401, {"error": True, "reason": "The supplied API key is invalid."})
        elif "rate_limit" in faults:
            wait = f"{faults['rate_limit'].options['retry_after']}"
            reason = "Minutely API request limit exceeded. Please try again in one minute."
            self._json(429, {"error": True, "reason": reason}, {"Retry-After": wait})
        elif "server_error" in faults:
            status = int(faults["server_error"].number("status"))
            self._json(status, {"error": True, "reason": "Internal Server Error"})
        else:
            return False
        return True

    def _cut_off(self, body: bytes, how: str) -> None:
        """Half of the answer: as a transfer that breaks (``length``), or as a whole transfer of half a text."""
        half = body[: len(body) // 2]
        if how == "clean":
            self._send(200, half)
            return
        self.reply(200, half, {**_JSON, "Content-Length": str(len(body))}.items())
        self.close_connection = True

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, _encoded(value), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        headers = {**_JSON, **(headers or {})}
        if len(body) > 1024 and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        self.reply(status, body, headers.items())


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
