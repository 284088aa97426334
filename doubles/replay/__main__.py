"""`python -m doubles.replay`: serve the recording until SIGTERM or Ctrl-C, or while a command runs that asks it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from doubles.replay.recording import load
from doubles.replay.replay_clock import parse_moment, written
from doubles.replay.replay_server import NotLoopback, ReplayServer
from doubles.threaded_server import serve_until_signal, serving_in_thread


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m doubles.replay", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, help="0 takes a free one (default: 8790; 0 with a command)")
    parser.add_argument("--as-of", default="", help="where the clock starts (default: the end of the recording)")
    parser.add_argument("--speed", type=float, default=1.0, help="replayed seconds per second; 0 stands still")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after `--`: what to run on the recorded data")
    options = parser.parse_args()
    port = options.port if options.port is not None else 0 if options.command else 8790
    try:
        now = parse_moment(options.as_of) if options.as_of else None
        server = ReplayServer(options.host, port, load(), now, options.speed)
    except (NotLoopback, ValueError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 64
    except OSError as error:
        print(f"replay: cannot listen on {options.host}:{port}: {error}", file=sys.stderr)
        return 75
    if options.command:
        return run_on(server, options.command)
    clock = server.clock
    serve_until_signal(server, f"replay API on {server.url}, as of {written(clock.now())}, speed {clock.speed}")
    return 0


def run_on(server: ReplayServer, command: list[str]) -> int:
    """The exit code of a command whose source and clock are the replay's."""
    served = {
        "OPEN_METEO_URL": server.url,
        "OPEN_METEO_ARCHIVE_URL": server.url,
        "RPS_CLOCK_URL": f"{server.url}/replay/clock",
    }
    with serving_in_thread(server):
        try:
            return subprocess.run(command, env={**os.environ, **served}, check=False).returncode
        except FileNotFoundError:
            print(f"replay: {command[0]}: no such command", file=sys.stderr)
            return 64


if __name__ == "__main__":
    sys.exit(main())
