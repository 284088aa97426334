"""Starts the MLflow server with passwords: writes the file that its authentication reads, then becomes the server.

MLflow takes the address of the users' database, which has a password in it, from a file only.
"""

from __future__ import annotations

import configparser
import os
import sys
import tempfile

NEEDED = (
    "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD",
)  # fmt: skip


def main() -> int:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        print(f"start: set {', '.join(missing)} in the environment", file=sys.stderr)
        return 64
    settings = configparser.ConfigParser(interpolation=None)
    settings["mlflow"] = {"default_permission": "READ", "database_uri": os.environ["MLFLOW_BACKEND_STORE_URI"]}
    with tempfile.NamedTemporaryFile("w", prefix="mlflow-auth-", suffix=".ini", delete=False) as file:
        settings.write(file)  # readable by its owner alone
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = file.name
    server = ["-m", "mlflow", "server", "--app-name", "basic-auth", *sys.argv[1:]]
    return os.execv(sys.executable, [sys.executable, *server])  # noqa: S606 - the container's process is the server


if __name__ == "__main__":
    sys.exit(main())
