"""Before Airflow starts: bring its database to this version, and make the user that the environment names its admin.

Run again it changes nothing but the password, which is then the environment's.
"""

from __future__ import annotations

import os
import subprocess
import sys

USERNAME = "AIRFLOW_USERNAME"
PASSWORD = "AIRFLOW_PASSWORD"


def main() -> int:
    missing = [name for name in (USERNAME, PASSWORD) if not os.environ.get(name)]
    if missing:
        print(f"prepare: set {', '.join(missing)} in the environment", file=sys.stderr)
        return 64
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)
    make_admin(os.environ[USERNAME], os.environ[PASSWORD])
    return 0


def make_admin(username: str, password: str) -> None:
    """Not by `airflow users create`, which takes the password on its command line only."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        users = builder.sm
        known = users.find_user(username)
        if known:
            done = users.reset_password(known.id, password)
        else:
            role = users.find_role("Admin")
            done = users.add_user(username, username, "operator", f"{username}@rps.invalid", role, password)
        if not done:
            raise SystemExit(f"prepare: Airflow did not take the user {username}; its log above says why")
    print(f"the user {username} {'is there, with the password of now' if known else 'is made'}")


if __name__ == "__main__":
    sys.exit(main())
