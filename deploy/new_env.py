"""Makes `deploy/.env` from `.env.example` with random secrets, readable by its owner alone. It never overwrites one.

`python3 deploy/new_env.py` needs the standard library of any Python 3.8 or newer.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIVEN = ("RPS_REPOSITORY", "GITHUB_TOKEN", "GITHUB_REPOSITORY", "RPS_IMAGE")
_PASSWORDS = (
    "POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "AIRFLOW_PASSWORD", "AIRFLOW_JWT_SECRET",
    "AIRFLOW_SECRET_KEY", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD", "RPS_API_KEY",
    "RPS_ALERTS_SECRET",
)  # fmt: skip


def made_secrets() -> dict[str, str]:
    """A new value for each secret: 256 random bits, fewer for the name of S3's key."""
    made = {name: secrets.token_hex(32) for name in _PASSWORDS}
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()  # the form that Airflow's encryption asks for
    return {**made, "S3_ACCESS_KEY": secrets.token_hex(10), "AIRFLOW_FERNET_KEY": fernet}


def filled(template: str, values: dict[str, str]) -> str:
    """The template with these values behind their names."""
    return re.sub(r"^([A-Z0-9_]+)=$", lambda line: f"{line[1]}={values.get(line[1], '')}", template, flags=re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 deploy/new_env.py", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=HERE / ".env", help="default: .env beside this script")
    path = parser.parse_args().path
    text = filled((HERE / ".env.example").read_text(encoding="utf-8"), made_secrets())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"new_env: {path} exists and is not overwritten: its secrets may be in use", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"new_env: {path}: {error.strerror}", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{path} is made. Set in it what is still empty: {', '.join(GIVEN)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
