"""The options of `python -m ci alerts`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ci.progress import Log

PORT = 9107


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "alerts", help="take alerts of Alertmanager and Grafana; drift becomes an event at GitHub"
    )
    parser.set_defaults(command=_run)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--challenges", type=Path, default=Path("challenges"), metavar="DIR",
        help="the challenges whose drift starts a retraining (default: %(default)s/)",
    )  # fmt: skip


def _run(options: argparse.Namespace, log: Log) -> int:
    from ci.alerts.server import serve
    from ci.alerts.settings import alert_settings
    from ci.errors import ConfigurationError
    from ci.settings import github_settings

    wrong: list[str] = []
    for read in (alert_settings, github_settings):
        try:
            read(os.environ)
        except ConfigurationError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    settings, github = alert_settings(os.environ), github_settings(os.environ)
    return serve(settings, github, options.challenges, host=options.host, port=options.port, log=log)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535; found {text}")
    return int(text)
