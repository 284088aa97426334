"""Takes alerts from Alertmanager and Grafana, writes them to a file, and turns drift into one GitHub event.

Exit codes: 0 after a requested stop; 1 the address is not available; 64 wrong use or configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from clients.disk import locked
from clients.errors import ConfigurationError, PassingFault
from clients.progress import Log, run

GITHUB_SECONDS = 5.0
"""The longest attempt; a signal to stop waits for it."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9107, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--challenges", type=Path, default=Path("challenges"), metavar="DIR",
        help="the challenges whose drift starts a retraining (default: %(default)s/)",
    )  # fmt: skip
    return run(lambda log: _serve(parser.parse_args(arguments), log))


def _serve(options: argparse.Namespace, log: Log) -> int:
    import uvicorn

    from clients.github import GitHub
    from monitoring.relay.journal import Journal
    from monitoring.relay.relay import Relay
    from monitoring.relay.relay_app import create_app
    from monitoring.relay.relay_settings import relay_settings

    settings = relay_settings(os.environ)
    challenges = known_challenges(options.challenges, log)
    github = GitHub(settings.github, patience_seconds=GITHUB_SECONDS, note=log.line)
    with _alone(settings.home):
        journal = Journal(settings.home)
        relay = Relay(journal, github, challenges, cooldown=settings.cooldown, retry=settings.retry, log=log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)  # uvicorn raises it again after a clean stop
        log.line(f"alerts are written to {journal.path}")
        uvicorn.run(
            create_app(relay, settings.secret), host=options.host, port=options.port, access_log=False,
            server_header=False, limit_concurrency=1000, timeout_keep_alive=75, timeout_graceful_shutdown=10,
        )  # fmt: skip
    return 0


def known_challenges(folder: Path, log: Log) -> frozenset[str]:
    """The names in the challenge files of a folder; an invalid file is logged and left out."""
    from forecasting.challenge.schema import ChallengeError, load_challenge

    names = set()
    for path in sorted(folder.glob("*.toml")):
        try:
            names.add(load_challenge(path).name)
        except ChallengeError as error:
            log.error(f"{error}; until it is fixed and the receiver restarted, no alert for it starts a retraining")
    if not names:
        raise ConfigurationError(f"--challenges: expected a valid challenge file in {folder}; found none")
    return frozenset(names)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home's lock. Raises ConfigurationError at once when another process holds it, or for a broken disk."""
    lock = home / "lock"

    def refuse(_: str) -> NoReturn:
        holder = lock.read_text(encoding="utf-8") or "unknown"
        hint = f"in use by another receiver (process {holder}); stop it, or set another"
        raise ConfigurationError(f"RPS_ALERTS_HOME: {home} is {hint}")

    try:
        with locked(lock, "the home", refuse):
            lock.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except (OSError, PassingFault) as error:
        raise ConfigurationError(f"RPS_ALERTS_HOME: {home} cannot be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
