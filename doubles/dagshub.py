"""A stand-in for DagsHub: MLflow 2.7.1 under `/<owner>/<repo>.mlflow`, S3 under `/<owner>/<repo>.s3`, one token.

Nginx is in front, as DagsHub's proxy is: basic authentication for MLflow, the token as access key and secret for S3.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock

from scripts.services import ROOT, Service, Stack, answers, service_named

PREFIX = "ana/weather-fork"
USER, TOKEN = "ana", "3d2a7c0f5be14e9c8a6f"
REQUIREMENTS = ROOT / "requirements" / "dagshub.txt"
_PYTHONS = ("3.10", "3.11")
"""MLflow 2.7.1's pinned requirements install on these."""


class NotOnThisMachine(Exception):
    """The stand-in needs something that this machine lacks; the message names it."""


@dataclass(frozen=True)
class Address:
    """Where nginx listens; the environment that a fork on DagsHub would have."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        base = f"http://127.0.0.1:{self.port}/{PREFIX}"
        return {
            "MLFLOW_TRACKING_URI": f"{base}.mlflow",
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": TOKEN,
            "RPS_STORE": "s3://dvc",
            "AWS_ENDPOINT_URL": f"{base}.s3",
            "AWS_ACCESS_KEY_ID": TOKEN,
            "AWS_SECRET_ACCESS_KEY": TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def require_nginx() -> str:
    """The path of nginx. Raises NotOnThisMachine."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise NotOnThisMachine("nginx is not installed (Debian: apt-get install nginx-light)")
    return found


def old_mlflow() -> Path:
    """The interpreter of an environment with MLflow 2.7.1, made once per requirements. Raises NotOnThisMachine."""
    python = _old_python()
    identity = hashlib.sha256(REQUIREMENTS.read_bytes() + python.encode()).hexdigest()[:12]
    environment = ROOT / ".rps" / "envs" / f"dagshub-{identity}"
    environment.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(environment.with_suffix(".lock")):
        if not (environment / "complete").exists():
            shutil.rmtree(environment, ignore_errors=True)
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--python", python, str(environment)], check=True)
            install = ["pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "-r", str(REQUIREMENTS)]
            subprocess.run([*uv, *install, "--python", str(environment / "bin" / "python")], check=True)
            (environment / "complete").touch()
    return environment / "bin" / "python"


def mlflow_service(python: Path, home: Path, port: int) -> Service:
    """MLflow from the environment of ``python``, artifacts through itself."""
    address = f"http://127.0.0.1:{port}"
    state = home / "mlflow"
    state.mkdir()
    command = [
        str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{state}/mlflow.db", "--artifacts-destination", str(state / "artifacts"),
    ]  # fmt: skip
    path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}  # it starts gunicorn by name
    return Service("old-mlflow", command, address, lambda: answers(f"{address}/health"), path)


def s3_service(home: Path, port: int) -> Service:
    """S3 with the token as key and secret and the bucket `dvc`; it knows that it is reached through a prefix."""
    mini = service_named("s3", Stack(home, {"RPS_S3_PORT": str(port)}))
    command = [word if word != "rps" else "dvc" for word in mini.command]
    keys = {"AWS_ACCESS_KEY_ID": TOKEN, "AWS_SECRET_ACCESS_KEY": TOKEN}
    return Service("s3", command, mini.address, lambda: _status(mini.address) is not None, keys)


def proxy_service(home: Path, port: int, mlflow_address: str, s3_address: str) -> Service:
    """Nginx with DagsHub's addresses in front of both; unprivileged, all its files in ``home``."""
    (home / "users").write_text(f"{USER}:{{PLAIN}}{TOKEN}\n")
    scratch = "".join(
        f"  {kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = home / "nginx.conf"
    configuration.write_text(
        f"""daemon off;
master_process off;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{}}
http {{
  access_log {home}/nginx-access.log;
{scratch}  client_max_body_size 0;
  proxy_http_version 1.1;
  server {{
    listen 127.0.0.1:{port};
    location /{PREFIX}.mlflow/ {{
      auth_basic "DagsHub";
      auth_basic_user_file {home}/users;
      proxy_pass {mlflow_address}/;
    }}
    location /{PREFIX}.s3/ {{
      proxy_pass {s3_address}/;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Prefix /{PREFIX}.s3;
    }}
  }}
}}
"""
    )
    address = f"http://127.0.0.1:{port}"
    command = [require_nginx(), "-p", str(home), "-c", str(configuration)]
    return Service("nginx", command, address, lambda: _status(f"{address}/{PREFIX}.mlflow/health") == 401)


def _old_python() -> str:
    """An interpreter that MLflow 2.7.1 runs on. Raises NotOnThisMachine."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in _PYTHONS:
        places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        for candidate in filter(None, places):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                asked = [str(candidate), "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
                done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
                found, executable = done.stdout.split()
                if found == version:
                    return executable
    raise NotOnThisMachine(f"no Python {' or '.join(_PYTHONS)} for MLflow 2.7.1")


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=2.0).status_code
    except httpx.HTTPError:
        return None
