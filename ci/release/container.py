"""An image as a running container on a minimal host: read-only, without privileges, with little memory."""

from __future__ import annotations

import io
import json
import math
import secrets
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NoReturn

import httpx
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import Healthcheck
from docker.utils import version_gte

from clients.engine import Engine
from clients.engine_faults import ENGINE_ERRORS, words
from clients.errors import ConfigurationError, NotReleased
from records.image_labels import Label

PORT = "8000/tcp"
"""Where the service listens in its container."""
MEMORY = "512m"
PROCESSES = 128
PROBE_SECONDS = 0.5
STOP_SECONDS = 10
ANSWER_SECONDS = 30.0
END_SECONDS = 3.0
MOST_FILE_BYTES = 64 << 20
LOG_LINES = 20
EXEC_TRIES = 5
"""An engine may lose the output of a program that ends at once (moby/moby#27289, docker/docker-py#2042)."""
_POLL_SECONDS = 0.05
_NANOSECONDS = 1_000_000_000
_INSIDE = """
import json
try:
    open("/rps-was-here", "w").close()
    refused = ""
except OSError as error:
    refused = error.strerror
with open("/proc/1/status") as status:
    own = dict(line.split(":", 1) for line in status)
print(json.dumps({"user": int(own["Uid"].split()[0]), "refused": refused, "capabilities": int(own["CapEff"], 16)}))
"""


class Running:
    """A started container of an image.

    Methods raise NotReleased when the image is at fault, and PassingFault when the engine is.
    """

    def __init__(self, engine: Engine, container: Container, http: httpx.Client, host: str, started: float) -> None:
        self._engine = engine
        self._container = container
        self._http = http
        self._host = host
        self._started = started
        self._port = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def wait_until_healthy(self, deadline_seconds: float) -> float:
        """Until `GET /health` answers 200 and the image's own HEALTHCHECK agrees; the seconds since its start.

        Raises NotReleased with its log when it ends, is unhealthy, or takes longer.
        """
        answered, answer = False, "no answer"
        while True:
            state = self._look()
            health = state.get("Health") or {}
            if state.get("Status") != "running":
                self._fail_ended(state)
            if not answered:
                answered, answer = self._ask_health()
            if answered and not health:
                self._fail("it has no HEALTHCHECK, by which an orchestrator learns how it is")
            if answered and health.get("Status") == "healthy":
                return self.seconds
            if health.get("Status") == "unhealthy":
                _, answer = self._ask_health()
                self._fail(f"its HEALTHCHECK calls it unhealthy: {_last_probe(health)}; GET /health: {answer}")
            if self.seconds > deadline_seconds:
                what = f"GET /health: {answer}; its HEALTHCHECK: {_last_probe(health)}"
                self._fail(f"it did not become healthy within {deadline_seconds:g} s: {what}")
            time.sleep(_POLL_SECONDS)

    def request(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401
        """The decoded JSON of the service's answer."""
        try:
            answer = self._http.request(method, self._url(path), json=body, timeout=ANSWER_SECONDS)
        except httpx.HTTPError as error:
            self._look_for_end()
            self._fail(f"{method} {path} got no answer: {words(error)}")
        if answer.status_code != 200:
            self._fail(f"{method} {path}: expected 200; found {answer.status_code}: {words(answer.text)}")
        try:
            return answer.json()
        except ValueError:
            self._fail(f"{method} {path}: expected JSON; found {words(answer.text)!r}")

    def file(self, path: str) -> bytes:
        """A file of the container. Raises NotReleased when there is none."""
        content = bytearray()
        with self._looking():
            try:
                stream, _ = self._container.get_archive(path)
            except NotFound:
                raise NotReleased(f"{path}: expected this file in the image; there is none") from None
            for chunk in stream:
                content += chunk
                if len(content) > MOST_FILE_BYTES:
                    raise NotReleased(f"{path} in the image: expected at most {MOST_FILE_BYTES >> 20} MiB")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            member = tar.next()
            found = tar.extractfile(member) if member is not None and member.isfile() else None
            if found is None:
                raise NotReleased(f"{path}: expected a file in the image; found something else")
            return found.read()

    def confinement(self) -> tuple[int, str, int]:
        """From within: the user of the first process, the error of a write to / (empty: none), its capabilities.

        Raises NotReleased when the image's own program does not run.
        """
        program = str(self._container.attrs["Path"])
        for _ in range(EXEC_TRIES):
            with self._looking():
                code, printed = self._container.exec_run([program, "-I", "-S", "-c", _INSIDE])
            if code or printed:
                break
        output = printed.decode(errors="replace") if isinstance(printed, bytes) else ""
        try:
            found = json.loads(output)
            return found["user"], found["refused"], found["capabilities"]
        except (ValueError, KeyError, TypeError):
            why = f"exit code {code}: {words(output)}"
            raise NotReleased(f"the image's program {program!r} did not run a line of Python ({why})") from None

    def stop(self) -> float:
        """Send the image's stop signal; the seconds until it ends.

        Raises NotReleased when it takes more than 10 s, or its exit code is not 0.
        """
        began = time.monotonic()
        with self._looking():
            self._container.stop(timeout=STOP_SECONDS)
            code = int(self._container.wait(timeout=STOP_SECONDS + 30)["StatusCode"])
        took = time.monotonic() - began
        if code and took >= STOP_SECONDS:
            self._fail(f"it did not end within {STOP_SECONDS} s of being asked to (SIGTERM), and was killed")
        if code:
            self._fail(f"it ended with exit code {code} when it was asked to (SIGTERM); expected 0")
        return took

    def _url(self, path: str) -> str:
        return f"http://{self._host}:{self._port}{path}"

    def _looking(self) -> AbstractContextManager[None]:
        return self._engine.faults("looking at the container")

    def _look(self) -> dict[str, Any]:
        with self._looking():
            self._container.reload()
        if not self._port:
            ports = self._container.attrs["NetworkSettings"]["Ports"].get(PORT) or []
            self._port = next((str(each["HostPort"]) for each in ports), "")
        state: dict[str, Any] = self._container.attrs["State"]
        return state

    def _ask_health(self) -> tuple[bool, str]:
        if not self._port:
            return False, "no answer"
        try:
            answer = self._http.get(self._url("/health"), timeout=2.0)
        except httpx.HTTPError as error:
            return False, f"no answer ({error or type(error).__name__})"
        return answer.status_code == 200, words(f"{answer.status_code} {answer.text}")

    def _look_for_end(self) -> None:
        """After a missing answer: if the container ended, the engine learns so within a moment."""
        until = time.monotonic() + END_SECONDS
        while (state := self._look()).get("Status") == "running":
            if time.monotonic() > until:
                return
            time.sleep(_POLL_SECONDS)
        self._fail_ended(state)

    def _fail_ended(self, state: Mapping[str, Any]) -> NoReturn:
        memory = f", as it took more than {MEMORY} of memory" if state.get("OOMKilled") else ""
        self._fail(f"it ended with exit code {state.get('ExitCode')} after {self.seconds:.1f} s{memory}")

    def _fail(self, why: str) -> NoReturn:
        """Raises NotReleased with the last lines of the container's log."""
        lines: list[str] = []
        with suppress(*ENGINE_ERRORS):
            lines = self._container.logs(tail=LOG_LINES).decode(errors="replace").splitlines()
        said = "its last lines:\n  " + "\n  ".join(words(line) for line in lines) if lines else "it wrote nothing"
        raise NotReleased(f"the image does not work: {why}; {said}")


@contextmanager
def running(engine: Engine, image_id: str, *, deadline_seconds: float) -> Iterator[Running]:
    """The image, started as a plain `docker run` with fewer rights; its container is removed in any case.

    Containers that killed verifications have left are removed first, once nobody can wait for them any more.
    Raises NotReleased when it cannot be started, and PassingFault.
    """
    address, host = engine.published_at
    name = f"rps-verify-{secrets.token_hex(8)}"  # known before the engine's answer, which a signal may cut off
    try:
        container = _created(engine, image_id, name, address, deadline_seconds)
        started = time.monotonic()
        try:
            with engine.faults("the image cannot be started"):
                container.start()
        except ConfigurationError as error:
            raise NotReleased(str(error)) from error
        # One client, as each reads the machine's certificates anew; a connection for each request, as others have.
        with httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as http:
            yield Running(engine, container, http, host, started)
    finally:
        with suppress(*ENGINE_ERRORS):
            engine.client.api.remove_container(name, force=True, v=True)


def _created(engine: Engine, image_id: str, name: str, address: str, deadline_seconds: float) -> Container:
    client = engine.client
    with engine.faults("making a container"):
        _remove_abandoned(engine)
        health = Healthcheck(interval=int(PROBE_SECONDS * _NANOSECONDS))
        if version_gte(client.api.api_version, "1.44"):  # where a starting container has an interval of its own
            health["StartInterval"] = int(PROBE_SECONDS * _NANOSECONDS)
        return client.containers.create(
            image_id,
            name=name,
            ports={PORT: (address, None)},  # type: ignore[dict-item]  # None is a port of the engine's choice
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mem_limit=MEMORY,
            memswap_limit=MEMORY,
            pids_limit=PROCESSES,
            healthcheck=health,
            labels={Label.VERIFIED_UNTIL.value: str(math.ceil(time.time() + deadline_seconds + 300))},
        )


def _remove_abandoned(engine: Engine) -> None:
    label = Label.VERIFIED_UNTIL.value
    for container in engine.client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
        until = str(container.labels.get(Label.VERIFIED_UNTIL, ""))
        if until.isdecimal() and int(until) < time.time():
            with suppress(APIError):
                container.remove(force=True, v=True)


def _last_probe(health: dict[str, Any]) -> str:
    if not (log := health.get("Log")):
        return "not run yet"
    return words(f"exit code {log[-1].get('ExitCode')}, {str(log[-1].get('Output', '')).strip() or 'no word'}")
