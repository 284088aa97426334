"""What a small image runs that stands for a service with one fault: it answers from a file, as that file says.

`answers.json`: by path the status and body; `fault`: what is wrong with the process itself.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

SETTINGS = json.loads(Path("/app/settings.json").read_text(encoding="utf-8"))
FAULT = SETTINGS["fault"]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if FAULT == "hangs":
            time.sleep(3600)
        if self.path.startswith("/v1/forecast") and FAULT == "dies of a request":
            os._exit(9)
        if length := int(self.headers.get("content-length", 0)):
            self.rfile.read(length)
        status, body = SETTINGS["answers"][self.path.partition("?")[0]]
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - as the server calls it

    def log_message(self, *_arguments: object) -> None:
        pass


def main() -> None:
    print("the small service starts", flush=True)
    if FAULT == "ends at once":
        print("the bundle is of another version", file=sys.stderr)
        sys.exit(65)
    if FAULT == "writes to its root":
        Path("/app/cache").write_text("", encoding="utf-8")
    if FAULT != "ignores SIGTERM":
        code = 3 if FAULT == "ends badly" else 0
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(code))
    http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()


main()
