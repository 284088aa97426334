"""The options of `python -m ci alerts`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ci.progress import Log


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "alerts", help="take alerts of Alertmanager and Grafana; drift becomes an event at GitHub"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace, log: Log) -> int:
    raise NotImplementedError
