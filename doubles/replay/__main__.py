"""`python -m doubles.replay`: serve the recording until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from doubles.replay.recording import load
from doubles.replay.replay_clock import parse_moment, written
from doubles.replay.replay_server import NotLoopback, ReplayServer
from doubles.threaded_server import serve_until_signal


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m doubles.replay", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8790, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--as-of", default="", help="where the clock starts (default: the end of the recording)")
    parser.add_argument("--speed", type=float, default=1.0, help="replayed seconds per second; 0 stands still")
    options = parser.parse_args()
    try:
        now = parse_moment(options.as_of) if options.as_of else None
        server = ReplayServer(options.host, options.port, load(), now, options.speed)
    except (NotLoopback, ValueError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 64
    except OSError as error:
        print(f"replay: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 75
    clock = server.clock
    serve_until_signal(server, f"replay API on {server.url}, as of {written(clock.now())}, speed {clock.speed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
