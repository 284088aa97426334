"""The decisions of CI: `python -m ci gate` judges a commit's model; `plan` and `conclude` frame several such gates;
`release` brings the best one to production in a verified image, and `verify` checks any image; `retrain` answers drift
with a gated candidate.

Exit codes: 0 done, or passed; 1 blocked, other rules, or not released; 2 no verdict, or cancelled; 64 wrong use or
configuration; 75 a fault that may pass (GitHub, a registry, the engine): run it again.
"""

from __future__ import annotations

import argparse
import sys

from ci.gate import gate_command
from ci.release import release_command
from ci.retrain import retrain_command
from ci.rules import rules_command
from clients.progress import run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ci", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    gate_command.add_commands(commands)
    release_command.add_commands(commands)
    rules_command.add_command(commands)
    retrain_command.add_command(commands)
    options = parser.parse_args(arguments)
    return run(lambda log: options.command(options, log))


if __name__ == "__main__":
    sys.exit(main())
