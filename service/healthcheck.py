"""Whether the service in this container answers 200 at /health: exit code 0, or 1 with its answer.

The image runs this file every few seconds, alone, without this package or `site`: it must load little.
"""

from __future__ import annotations

import os
import socket
import sys

SECONDS = 4.0
MOST_BYTES = 1 << 16
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> None:
    host = os.environ.get("RPS_HOST", "").strip()
    port = os.environ.get("RPS_PORT", "").strip() or "8000"
    try:
        status, body = _ask(_EVERYWHERE.get(host, host), int(port))
    except (OSError, ValueError) as error:
        sys.exit(f"no answer from the service on port {port}: {error}")
    if status != b"200":
        sys.exit(f"the service says {status.decode()}: {body.decode(errors='replace')}")


def _ask(host: str, port: int) -> tuple[bytes, bytes]:
    """Status and body of the answer. Raises OSError, or ValueError when it is no HTTP."""
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while len(answer) < MOST_BYTES and (received := connection.recv(MOST_BYTES)):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    protocol, status, *_ = head.split(maxsplit=2)
    if not protocol.startswith(b"HTTP/"):
        raise ValueError(f"{answer[:40]!r} is no HTTP")
    return status, body


if __name__ == "__main__":
    main()
