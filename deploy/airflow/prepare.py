"""Before Airflow starts: migrate its database, and make the environment's user its administrator.

Another run only sets the password to the environment's.
"""

from __future__ import annotations

import os
import subprocess
import sys

NEEDED = ("AIRFLOW_USERNAME", "AIRFLOW_PASSWORD")


def main() -> int:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        print(f"prepare: set {', '.join(missing)} in the environment", file=sys.stderr)
        return 64
    migrated = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=False)
    if migrated.returncode:
        print("prepare: the database is not migrated; see Airflow's output above", file=sys.stderr)
        return migrated.returncode
    make_admin(*(os.environ[name] for name in NEEDED))
    return 0


def make_admin(username: str, password: str) -> None:
    """Without `airflow users create`, which takes the password on its command line only."""
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
    print(f"{'set the password of' if known else 'made'} the user {username}")


if __name__ == "__main__":
    sys.exit(main())
