"""`python -m doubles.github`: serve the double until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from doubles.github.double_server import GitHubDouble
from doubles.github.state import Account
from doubles.threaded_server import serve_until_signal

APP = "github-actions[bot]"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m doubles.github", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--repository", type=Path, required=True, help="the Git repository, bare or not")
    parser.add_argument("--name", required=True, help="owner/name")
    parser.add_argument("--token", required=True, help="what a workflow of the repository has as GITHUB_TOKEN")
    parser.add_argument("--read-token", help="what a workflow of a fork's pull request has as GITHUB_TOKEN")
    parser.add_argument("--admin-token", help="an administrator's")
    parser.add_argument("--user", action="append", default=[], metavar="LOGIN:TOKEN", help="somebody who may write")
    parser.add_argument("--state", type=Path, help="a file in which what happened outlives the process")
    options = parser.parse_args()
    try:
        server = GitHubDouble(
            directory=options.repository,
            name=options.name,
            tokens=accounts(options.name, options.token, options.read_token, options.admin_token, options.user),
            port=options.port,
            state_file=options.state,
        )
    except OSError as error:
        print(f"github double: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 75

    serve_until_signal(server, f"GitHub double on {server.url}, {options.name}")
    return 0


def accounts(
    name: str, token: str, read_token: str | None, admin_token: str | None, users: list[str]
) -> dict[str, Account]:
    """The accounts by their tokens. users: `login:token`."""
    made = {token: Account(APP, 41898282, "Bot", "write")}
    if read_token:
        made[read_token] = Account(APP, 41898282, "Bot", "read")
    if admin_token:
        made[admin_token] = Account(name.partition("/")[0], 1, "User", "admin")
    for number, user in enumerate(users, start=2):
        login, _, own = user.partition(":")
        made[own] = Account(login, number, "User", "write")
    return made


if __name__ == "__main__":
    sys.exit(main())
