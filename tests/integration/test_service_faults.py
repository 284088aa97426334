"""Slow and hostile clients, over bare sockets: each is answered or cut off in bounds, and the others are served."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecasting.models.bundle import Bundle, read_bundle
from tests import serving
from tests.conftest import wait_while
from tests.serving import Running

HEADER_SECONDS, REQUEST_SECONDS = 1.0, 1.5
MOST_CONNECTIONS = 600
MOST_VIEWERS = 5
PATIENCE_SECONDS = 20.0
"""How long a socket waits before its test fails."""


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that is quick to lose patience."""
    environment = {
        "RPS_HEADER_SECONDS": str(HEADER_SECONDS),
        "RPS_REQUEST_SECONDS": str(REQUEST_SECONDS),
        "RPS_MAX_CONNECTIONS": str(MOST_CONNECTIONS),
        "RPS_MAX_VIEWERS": str(MOST_VIEWERS),
    }
    with serving.running(bundle, tmp_path_factory.mktemp("service") / "log", environment) as found:
        yield found


@pytest.fixture(autouse=True)
def healthy_afterwards(service: Running) -> Iterator[None]:
    yield
    assert wait_while(lambda: service.get("/health").status_code != 200, seconds=PATIENCE_SECONDS)
    assert "Traceback" not in service.log.read_text()


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Bundle:
    return read_bundle(bundle)


def connected(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS)


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the service closes the connection; a time-out of the socket fails the test."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            received += part
    return received


def answers(received: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every answer in what was received."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length, head
        size = int(length[1])
        found.append((int(head.split()[1]), rest[:size]))
        received = rest[size:]
    return found


def posted(path: str, body: bytes, *, length: int | None = None, extra: str = "") -> bytes:
    """The bytes of a request."""
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n{extra}\r\n"
    return head.encode() + body


def infer_body(bundle: Bundle, rows: int) -> bytes:
    width = len(bundle.spec.columns)
    tensor = {"name": "x", "shape": [rows, width], "datatype": "FP64", "data": [0] * (rows * width)}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def test_headers_that_never_end_are_cut_off(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        assert until_closed(client) == b""


def test_headers_that_drip_are_cut_off(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /")
        client.settimeout(0.1)
        for _ in range(int(PATIENCE_SECONDS / 0.1)):
            try:
                client.sendall(b"x")
                if client.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return
    pytest.fail("the connection stayed open")


def test_a_connection_that_says_nothing_is_closed(service: Running) -> None:
    with connected(service) as client:
        assert until_closed(client) == b""


def test_second_request_on_a_connection_has_its_headers_timed_too(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\nGET /v2/health")
        assert [status for status, _ in answers(until_closed(client))] == [200]


def test_an_empty_line_after_a_request_does_not_keep_its_connection(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        received = client.recv(1 << 16)
        client.sendall(b"\r\n")
        received += until_closed(client)
    assert [status for status, _ in answers(received)] == [200]


def test_requests_on_a_kept_connection_may_be_far_apart(service: Running) -> None:
    """The time for headers counts from their first byte."""
    with connected(service) as client:
        for _ in range(3):
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\n")
            time.sleep(0.4 * HEADER_SECONDS)
            client.sendall(b"host: x\r\n\r\n")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.8 * HEADER_SECONDS)


def test_headers_without_bound_are_refused(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-much: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                client.sendall(b"y" * 10_000)
        with contextlib.suppress(ConnectionResetError):
            status, body = answers(client.recv(1 << 16))[0]
            assert status == 431
            assert "65536 bytes" in json.loads(body)["detail"]


def test_half_a_body_then_silence_is_reported_408(service: Running) -> None:
    with connected(service) as client:
        client.sendall(posted("/v1/forecast", b'{"ds": [', length=1000))
        ((status, body),) = answers(until_closed(client))
    problem = json.loads(body)
    assert (status, problem["status"]) == (408, 408)
    assert "1.5 s" in problem["detail"]


def test_a_body_that_drips_is_reported_408(service: Running) -> None:
    with connected(service) as client:
        client.sendall(posted("/v1/forecast", b"{", length=1000))
        client.settimeout(0.2)
        received = b""
        for _ in range(int(PATIENCE_SECONDS / 0.2)):
            try:
                client.sendall(b" ")
                received = client.recv(1 << 16)
                break
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_chunked_body_without_end_is_reported_408(service: Running) -> None:
    with connected(service) as client:
        head = b"POST /v1/observations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        client.sendall(head + b'5\r\n{"obs\r\n')
        ((status, _),) = answers(until_closed(client))
    assert status == 408


def test_chunked_body_without_bound_is_reported_413(service: Running) -> None:
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with connected(service) as client:
        client.sendall(b"POST /v1/observations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(9):
                client.sendall(chunk)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_clients_that_leave_in_the_middle_of_a_body_leave_nothing_behind(service: Running) -> None:
    for _ in range(20):
        with connected(service) as client:
            client.sendall(posted("/v1/observations", b'{"observations": [', length=5000))
    assert wait_while(lambda: in_flight(service) > 0, seconds=PATIENCE_SECONDS)


def test_a_client_that_leaves_before_its_answer_leaves_nothing_behind(service: Running, whole: Bundle) -> None:
    for _ in range(10):
        with connected(service) as client:
            client.sendall(posted("/v2/models/weather/infer", infer_body(whole, 500)))
    assert wait_while(lambda: in_flight(service) > 0, seconds=PATIENCE_SECONDS)


def test_an_answer_that_is_never_read_does_not_hold_its_connection(service: Running, whole: Bundle) -> None:
    """The answers are larger than what the machine keeps for a connection, so that the rest stays in the service."""
    request = posted("/v2/models/weather/infer", infer_body(whole, 10_000))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        client.settimeout(0.2)
        unsent = request * 20
        for _ in range(int(PATIENCE_SECONDS / 0.2)):
            try:
                unsent = unsent[client.send(unsent) :]
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("the connection stayed open")


def test_viewers_that_leave_give_their_places_back_at_once(service: Running) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_VIEWERS):
                client = stack.enter_context(connected(service))
                client.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
            assert service.get("/events").status_code == 503
        assert wait_while(lambda: not takes_a_viewer(service), seconds=5.0)


def takes_a_viewer(service: Running) -> bool:
    with connected(service) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


def test_head_of_a_stream_ends(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"HEAD /events HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(service: Running) -> None:
    paths = [b"/v2/health/live", b"/nowhere", b"/version", b"/v1/forecasts/EWR"] * 5
    with connected(service) as client:
        client.sendall(b"".join(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in paths))
        client.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        found = answers(until_closed(client))
    assert [status for status, _ in found] == [200, 404, 200, 200] * 5 + [200]


def test_pipelined_bodies_do_not_run_into_one_another(service: Running) -> None:
    with connected(service) as client:
        client.sendall(posted("/v1/forecast", b"{}") + posted("/v1/forecast", b"{", extra="connection: close\r\n"))
        found = [(status, json.loads(body)["detail"]) for status, body in answers(until_closed(client))]
    assert [status for status, _ in found] == [422, 400]


def test_requests_without_end_on_one_connection_are_refused(service: Running) -> None:
    with connected(service) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 5000)
        assert b" 400 " in until_closed(client)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
        b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_reported_so(service: Running, sent: bytes) -> None:
    counted = 'rps_requests_total{route="(none)",status="400"}'
    before = service.metrics().get(counted, 0.0)
    with connected(service) as client:
        client.sendall(sent)
        received = until_closed(client)
    ((status, body),) = answers(received)
    assert status == 400
    assert f"x-request-id: {json.loads(body)['request_id']}\r\n".encode() in received
    assert service.metrics()[counted] == before + 1
    assert b"content-type: application/problem+json" in received
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
@pytest.mark.parametrize("together", [True, False])
def test_an_upgrade_that_is_not_spoken_is_passed_over(service: Running, upgrade: str, together: bool) -> None:
    """Java's client asks for HTTP/2 with its first request, be it one with a body."""
    extra = f"connection: Upgrade, HTTP2-Settings\r\nupgrade: {upgrade}\r\nhttp2-settings: AAEAAEAAAAI\r\n"
    with connected(service) as client:
        client.sendall(posted("/v1/forecast", b"{}" if together else b"", length=2, extra=extra))
        if not together:
            time.sleep(0.1)
            client.sendall(b"{}")
        received = client.recv(1 << 16)
        assert received.startswith(b"HTTP/1.1 422 "), received
        client.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n" + extra.encode() + b"\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_connect_is_refused(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"CONNECT example.invalid:443 HTTP/1.1\r\nhost: example.invalid:443\r\n\r\n")
        assert [status for status, _ in answers(until_closed(client))] == [405]


def test_expect_100_continue_is_answered(service: Running) -> None:
    with connected(service) as client:
        client.sendall(posted("/v1/forecast", b"", length=2, extra="expect: 100-continue\r\n"))
        assert client.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 422 ")


def test_http_1_0_is_answered_and_closed(service: Running) -> None:
    with connected(service) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert [status for status, _ in answers(until_closed(client))] == [200]


def test_500_idle_connections_leave_the_service_quick_and_go(service: Running) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(service)) for _ in range(500)]
        assert service.get("/v1/forecasts/EWR").status_code == 200
        assert all(until_closed(client) == b"" for client in clients)


def test_connections_above_the_limit_are_reported_503_and_the_service_recovers(service: Running) -> None:
    request = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    shed = service.metrics()["rps_requests_shed_total"]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(service)) for _ in range(MOST_CONNECTIONS + 50)]
        statuses = []
        for client in clients[-100:]:
            client.sendall(request)
            received = client.recv(1 << 16)
            statuses += [status for status, _ in answers(received)]
            assert b"x-request-id" in received
    assert set(statuses) == {200, 503}
    assert 50 <= statuses.count(503) < 100
    assert wait_while(lambda: service.get("/v2/health/live").status_code != 200, seconds=PATIENCE_SECONDS)
    assert service.metrics()["rps_requests_shed_total"] - shed >= 50


def test_connections_far_above_the_limit_are_closed_unanswered(bundle: Path, tmp_path: Path) -> None:
    most = 10
    with (
        serving.running(bundle, tmp_path / "log", {"RPS_MAX_CONNECTIONS": str(most)}) as crowded,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(crowded)) for _ in range(4 * most)]
        with contextlib.suppress(ConnectionResetError):
            assert clients[-1].recv(1) == b"", "the last one is closed when all have been taken in"
        statuses = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                received = client.recv(1 << 16)
                statuses.append(answers(received)[0][0] if received else None)
        closed = len(clients) - statuses.count(200) - statuses.count(503)
        assert 0 < closed <= 2 * most + 2
        assert statuses.count(503) > 0
        stack.close()
        assert wait_while(lambda: crowded.get("/v2/health/live").status_code != 200, seconds=PATIENCE_SECONDS)


def test_a_service_that_is_full_still_tells_that_it_is_alive(bundle: Path, tmp_path: Path, whole: Bundle) -> None:
    path = "/v2/models/weather/infer"
    with serving.running(bundle, tmp_path / "log", {"RPS_MAX_IN_FLIGHT": "1"}) as full, connected(full) as holder:
        body = infer_body(whole, 1)
        holder.sendall(posted(path, body[:10], length=len(body)))
        assert wait_while(lambda: full.post(path, content=body).status_code != 503, seconds=10)
        for vital in ("/health", "/v2/health/live", "/v2/health/ready", "/ping", "/metrics"):
            assert full.get(vital).status_code == 200
        assert full.metrics()["rps_requests_shed_total"] >= 1
        holder.sendall(body[10:])
        assert answers(holder.recv(1 << 20))[0][0] == 200
        assert full.post(path, content=body).status_code == 200


def in_flight(service: Running) -> float:
    return service.metrics()["rps_requests_in_flight"]
