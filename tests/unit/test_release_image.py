"""What an image is built from and says of itself, why a build fails, and the health check on its own."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ci.release.build import Base, followed, labels
from ci.release.context import PATHS, read_context
from clients.errors import ConfigurationError, NotReleased, PassingFault, RpsError
from clients.progress import Log
from doubles.release_image import SOURCE_URL, Source, made_plan, made_source
from scripts.services import ROOT
from tests.serving import make_bundle


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return made_source(tmp_path_factory.mktemp("source") / "repository")


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", trees=1, leaves=3)


@pytest.fixture
def own_bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def test_the_context_is_the_commit_whatever_the_working_tree_holds(source: Source, small_bundle: Path, tmp_path: Path):
    clone = Source(tmp_path / "clone")
    subprocess.run(["git", "clone", "--quiet", source.repository, clone.repository], check=True)
    (clone.repository / "service" / "service_settings.py").write_text("raise SystemExit\n", encoding="utf-8")
    (clone.repository / "service" / "new.py").write_text("", encoding="utf-8")
    (clone.repository / ".gitattributes").write_text("*.py eol=crlf\n", encoding="utf-8")
    context = read_context(clone.repository, clone.sha, small_bundle)
    assert context.files["service/service_settings.py"] == (ROOT / "service" / "service_settings.py").read_bytes()
    assert "service/new.py" not in context.files
    assert context.tar == read_context(source.repository, source.sha, small_bundle).tar


def test_the_contexts_bytes_do_not_depend_on_times_modes_or_order(source: Source, small_bundle: Path, tmp_path: Path):
    other = tmp_path / "bundle"
    other.mkdir()
    for path in sorted(small_bundle.iterdir(), reverse=True):
        shutil.copyfile(path, other / path.name)
        os.utime(other / path.name, (1, 1))
        (other / path.name).chmod(0o600)
    first, second = (read_context(source.repository, source.sha, each) for each in (small_bundle, other))
    assert first.tar == second.tar
    with tarfile.open(fileobj=io.BytesIO(first.tar)) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mode, entry.uid, entry.gid, entry.uname) for entry in entries} == {(0o644, 0, 0, "")}
    assert {entry.mtime for entry in entries} == {first.epoch_seconds}


def test_the_context_holds_what_the_dockerfile_copies_and_nothing_else(source: Source, small_bundle: Path):
    files = read_context(source.repository, source.sha, small_bundle).files
    assert {path for path in files if path.startswith("bundle/")} == {
        f"bundle/{each.name}" for each in small_bundle.iterdir()
    }
    others = {path for path in files if not path.startswith("bundle/")}
    assert {path for path in others if not path.startswith(PATHS)} == set()
    assert {"Dockerfile", "LICENSE", "requirements/service.txt", "service/__main__.py"} <= others


def test_a_build_by_hand_sends_the_same_paths():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert let_in == {*PATHS, "bundle"} - {"Dockerfile"}


def test_the_base_and_the_licence_are_those_of_the_commit(source: Source, small_bundle: Path):
    context = read_context(source.repository, source.sha, small_bundle)
    assert context.default_base.startswith("python:3.")
    assert context.license == "Apache-2.0"
    context.files["Dockerfile"] = b"FROM scratch\n"
    with pytest.raises(ConfigurationError, match="expected a line ARG BASE="):
        assert context.default_base


def test_a_damaged_bundle_is_not_released(source: Source, own_bundle: Path):
    (own_bundle / "observations.json").write_bytes(b"{}")
    with pytest.raises(NotReleased, match=r"observations\.json: expected SHA-256 [0-9a-f]{64}; found"):
        read_context(source.repository, source.sha, own_bundle)


@pytest.mark.parametrize("spoil", ["added", "missing", "link", "directory"])
def test_a_bundle_of_other_files_than_its_manifest_names_is_not_released(source: Source, own_bundle: Path, spoil: str):
    model = next(own_bundle.glob("h*.json"))
    if spoil == "added":
        (own_bundle / "model.pickle").write_bytes(b"")
    elif spoil == "directory":
        (own_bundle / "more").mkdir()
    else:
        moved = model.rename(own_bundle.parent / model.name)
        if spoil == "link":
            model.symlink_to(moved)
    with pytest.raises(NotReleased, match="expected exactly the plain files"):
        read_context(source.repository, source.sha, own_bundle)


def test_a_bundle_that_is_not_there_and_one_without_manifest_are_reported(
    source: Source, own_bundle: Path, tmp_path: Path
):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_context(source.repository, source.sha, tmp_path / "nothing")
    (own_bundle / "manifest.json").unlink()
    with pytest.raises(NotReleased, match=r"the bundle in .* is refused"):
        read_context(source.repository, source.sha, own_bundle)


def test_a_commit_that_lacks_a_part_or_has_a_link_is_refused(small_bundle: Path, tmp_path: Path):
    source = made_source(tmp_path / "repository")
    (source.repository / "service" / "secrets").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match=r"service/secrets of commit [0-9a-f]{12}: expected a plain file"):
        read_context(source.repository, source.commit({}), small_bundle)
    shutil.rmtree(source.repository / "service")
    with pytest.raises(ConfigurationError, match=r"service.*did not match any files"):
        read_context(source.repository, source.commit({}), small_bundle)


def test_what_is_not_known_is_no_label(source: Source, small_bundle: Path):
    context = read_context(source.repository, source.sha, small_bundle)
    plan = made_plan(source.sha)
    found = labels(plan, context, Base("python:3", "sha256:1", "sha256:2"), SOURCE_URL)
    assert plan.labels.items() <= found.items()
    assert found["org.opencontainers.image.base.digest"] == "sha256:2"
    assert found["org.opencontainers.image.source"] == SOURCE_URL
    without = labels(plan, context, Base("local", "sha256:1", ""), "")
    assert set(found) - set(without) == {"org.opencontainers.image.base.digest", "org.opencontainers.image.source"}
    assert "" not in without.values()


# What a build says


def test_each_step_of_a_build_is_reported_in_a_line():
    said = io.StringIO()
    events = [
        {"stream": "Step 1/2 : FROM base"},
        {"stream": "\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": f"Step 2/2 : RUN true     && {'x' * 200}"},
        {"aux": {"ID": "sha256:42"}},
    ]
    assert followed(events, Log(said, grouped=False)) == "sha256:42"
    first, second = said.getvalue().splitlines()
    assert first == "  step 1/2  FROM base"
    assert second.startswith("  step 2/2  RUN true && xxx")
    assert len(second) < 130


RETRYING = (
    "\x1b[91mWARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) after connection "
    "broken by 'NewConnectionError(…: Failed to establish a new connection: Connection refused')': /simple/x/\n"
)


@pytest.mark.parametrize(
    ("stream", "error", "kind", "shown"),
    [
        (
            RETRYING,
            "The command '/bin/sh -c …' returned a non-zero code: 1",
            PassingFault,
            "cannot reach the package index",
        ),
        ("ERROR: HTTP error 503 while getting …\n", "returned a non-zero code: 1", PassingFault, "package index"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n",
            "returned a non-zero code: 1",
            NotReleased,
            "is not the one that requirements/service.txt names",
        ),
        ("", "write /app/x: no space left on device", PassingFault, "disk is full"),
        ("", "Get https://registry.example/v2/: dial tcp: i/o timeout", PassingFault, "cannot reach what it needs"),
        ("ImportError: no such thing\n", "returned a non-zero code: 1", NotReleased, "no such thing"),
    ],
)
def test_a_failed_build_is_reported_as_what_it_is(stream: str, error: str, kind: type[RpsError], shown: str):
    events = [{"stream": stream}, {"errorDetail": {"message": error}, "error": error}]
    with pytest.raises(kind, match=shown) as caught:
        followed(events, Log(io.StringIO(), grouped=False))
    assert error in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_only_the_end_of_what_a_failed_build_said_is_reported():
    events = [{"stream": f"line {number}\n"} for number in range(500)] + [{"error": "returned a non-zero code: 1"}]
    with pytest.raises(NotReleased) as caught:
        followed(events, Log(io.StringIO(), grouped=False))
    assert "line 499" in str(caught.value)
    assert "line 470" not in str(caught.value)


def test_a_build_that_ends_without_an_image_is_a_passing_fault():
    with pytest.raises(PassingFault, match="without an image"):
        followed([{"stream": "Step 1/1 : FROM base"}], Log(io.StringIO(), grouped=False))


# The health check, as the image runs it


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def checked(port: int, host: str = "0.0.0.0") -> tuple[int, str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "service" / "healthcheck.py")]
    environment = {"RPS_HOST": host, "RPS_PORT": str(port)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", ""])
def test_a_service_that_answers_200_is_healthy(host: str):
    with answering(200, b"{}") as port:
        assert checked(port, host) == (0, "")


def test_a_service_that_answers_503_is_not_and_its_reason_is_reported():
    with answering(503, b'{"status":"the state is away"}') as port:
        code, shown = checked(port)
    assert code == 1
    assert "503" in shown
    assert "the state is away" in shown


def test_nothing_or_nonsense_on_the_port_is_not_healthy():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        code, shown = checked(port)  # bound, and nobody listens
        assert code == 1
        assert f"no answer from the service on port {port}" in shown
        listening.listen()

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 smtp.example ESMTP\r\n")

        speaking = threading.Thread(target=speak)
        speaking.start()
        code, shown = checked(port)
        speaking.join()
    assert code == 1
    assert "is no HTTP" in shown
