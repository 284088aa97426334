"""The options of `python -m ci retrain`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ci.progress import Log


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "retrain", help="run the pipeline on fresh data, gate the candidate, tell in an issue, offer it for release"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace, log: Log) -> int:
    raise NotImplementedError
