"""`deploy/` with a real Compose and engine: the file is taken; the databases and the store come up, and come back; what
watches comes up beside a pipeline that is away, and the secret between Alertmanager and the receiver is the one made.

Airflow, MLflow and what else the file starts are not built here, which takes minutes: deploy/README.md tells how to see
the whole stack up.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import docker
import httpx
import pytest
import yaml
from botocore.exceptions import ClientError
from dotenv import dotenv_values

from scripts.base_image import OWN_BASE
from scripts.services import ROOT, free_ports
from tests.conftest import wait_while

pytest_plugins = ["tests.docker_engine"]

DEPLOY = ROOT / "deploy"
OLDEST = (2, 20)
"""The oldest Compose that README.md promises."""
REQUIRED = (
    "AIRFLOW_DB_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET", "AIRFLOW_PASSWORD", "AIRFLOW_SECRET_KEY",
    "GITHUB_REPOSITORY", "GITHUB_TOKEN", "GRAFANA_PASSWORD", "MLFLOW_DB_PASSWORD", "MLFLOW_PASSWORD",
    "MLFLOW_SECRET_KEY", "POSTGRES_PASSWORD", "RPS_ALERTS_SECRET", "RPS_API_KEY", "RPS_IMAGE", "RPS_REPOSITORY",
    "S3_ACCESS_KEY", "S3_SECRET_KEY",
)  # fmt: skip
PASSED = ("PATH", "HOME", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT")
UP_SECONDS = 300
GIVEN = {
    "RPS_REPOSITORY": "https://git.example/team/rps.git",
    "RPS_IMAGE": "registry.example/team/rps",
    "GITHUB_TOKEN": "none",
    "GITHUB_REPOSITORY": "team/rps",
}
WATCHING = ("pipeline-metrics", "alerts", "alertmanager")
MESSAGE = {
    "version": "4",
    "groupKey": "{}",
    "status": "firing",
    "receiver": "rps",
    "alerts": [
        {
            "status": "firing",
            "labels": {
                "alertname": "RunFailed",
                "severity": "warning",
                "area": "pipeline",
                "dag_id": "retrain_weather",
            },
            "annotations": {"summary": "The last run of retrain_weather has failed."},
            "startsAt": "2026-11-23T12:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": "0123456789abcdef",
        }
    ],
}
"""As Alertmanager sends it."""


def compose_command(directory: Path) -> list[str]:
    """Compose as this machine has it: in the environment, or as the engine's plugin."""
    # Through a name without a space: the scripts take the words of COMPOSE apart.
    link = directory / "docker-compose"
    link.symlink_to(Path(sys.executable).parent / "docker-compose")
    for command in ([str(link)], ["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(OSError):
            shown = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            number = shown.stdout.strip().lstrip("v").split(".")
            if shown.returncode == 0 and tuple(int(part) for part in number[:2]) >= OLDEST:
                return command
    pytest.skip(f"no Docker Compose of {'.'.join(map(str, OLDEST))} or newer; install Docker's plugin")


@dataclass(frozen=True)
class Deployment:
    """A copy of what compose reads, with settings of its own."""

    root: Path
    environment: Mapping[str, str]

    @property
    def directory(self) -> Path:
        return self.root / "deploy"

    @property
    def settings(self) -> dict[str, str]:
        return {name: value or "" for name, value in dotenv_values(self.directory / ".env").items()}

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )

    def compose(self, *arguments: str, given: str = "") -> str:
        done = self.run(*self.environment["COMPOSE"].split(), *arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def psql(self, user: str, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        """Over TCP with the user's password, as Airflow and MLflow come."""
        password = self.settings[f"{user.upper()}_DB_PASSWORD"]
        script = (
            f"\\set ON_ERROR_STOP on\n\\connect 'postgresql://{user}:{password}@127.0.0.1/{database}'\n{statement};\n"
        )
        psql = ("exec", "-T", "postgres", "psql", "--username=postgres", "--quiet", "--tuples-only", "--no-align")
        return self.run(*self.environment["COMPOSE"].split(), *psql, given=script)


def deployment(root: Path, settings: Mapping[str, str], environment: Mapping[str, str]) -> Deployment:
    for path in ("deploy", "monitoring", "challenges", "clients", "forecasting", "records"):
        shutil.copytree(ROOT / path, root / path, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    (root / "requirements").mkdir()
    for name in ("s3.txt", "watch.txt"):
        shutil.copy(ROOT / "requirements" / name, root / "requirements")
    made = Deployment(root, {**{name: os.environ[name] for name in PASSED if name in os.environ}, **environment})
    done = made.run(sys.executable, "new_env.py")
    assert done.returncode == 0, done.stderr
    with (made.directory / ".env").open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in (GIVEN | dict(settings)).items())
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """What somebody has who follows the README to the first start."""
    return deployment(
        tmp_path_factory.mktemp("plain"), {}, {"COMPOSE": " ".join(compose_command(tmp_path_factory.mktemp("compose")))}
    )


def test_compose_takes_the_file_with_what_the_script_makes(plain: Deployment) -> None:
    taken = yaml.safe_load(plain.compose("--profile", "*", "config"))
    written = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert taken["services"].keys() == written["services"].keys()
    assert taken["services"]["service"]["image"] == "registry.example/team/rps:latest"
    published = [port for service in taken["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert len({port["published"] for port in published}) == len(published) == 7


def test_the_first_start_leaves_out_what_needs_a_release(plain: Deployment) -> None:
    everything = set(plain.compose("--profile", "*", "config", "--services").split())
    assert everything - set(plain.compose("config", "--services").split()) == {
        "service",
        "feed",
        "alertmanager",
    }


def test_another_bind_address_moves_all_but_what_has_no_password(plain: Deployment) -> None:
    moved = Deployment(plain.root, {**plain.environment, "RPS_BIND": "192.0.2.7"})
    services = yaml.safe_load(moved.compose("--profile", "*", "config"))["services"]
    hosts = {name: service["ports"][0]["host_ip"] for name, service in services.items() if "ports" in service}
    assert {hosts.pop(name) for name in ("prometheus", "alertmanager")} == {"127.0.0.1"}
    assert set(hosts.values()) == {"192.0.2.7"}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_setting_that_is_missing_is_reported_by_name_before_anything_starts(plain: Deployment, name: str) -> None:
    without = Deployment(plain.root, {**plain.environment, name: ""})
    done = without.run(*without.environment["COMPOSE"].split(), "config", "--quiet")
    assert done.returncode != 0
    assert f"set {name} in .env" in done.stderr


@pytest.fixture(scope="module")
def running(
    docker_host: str, docker_client: docker.DockerClient, base: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The databases and the store, healthy."""
    command = compose_command(tmp_path_factory.mktemp("compose"))
    mark = uuid.uuid4().hex[:8]
    settings = {
        "RPS_S3_PORT": str(free_ports(1)),
        "S3_IMAGE": f"rps-test-s3:{mark}",
        "RPS_BUILD_NETWORK": "host",  # an engine that is started for the tests has no way out
        "PYTHON_IMAGE": base,
        "POSTGRES_IMAGE": official_or_double(docker_client, base, "postgres"),
    }
    environment = {"COMPOSE": " ".join(command), "DOCKER_HOST": docker_host, "COMPOSE_PROJECT_NAME": f"rps-test-{mark}"}
    made = deployment(tmp_path_factory.mktemp("running"), settings, environment)
    try:
        made.compose("build", "s3")
        start(made)
        yield made
    finally:
        made.run(*command, "--profile", "*", "down", "--volumes", "--timeout", "5")
        with contextlib.suppress(docker.errors.DockerException):
            docker_client.images.remove(settings["S3_IMAGE"], force=True)


def official_or_double(client: docker.DockerClient, base: str, service: str) -> str:
    """The official image where it is, or can be had; else Debian's program on the base that is used here."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    official = str(services[service]["image"]).partition(":-")[2].rstrip("}")
    with contextlib.suppress(docker.errors.DockerException):
        if base != OWN_BASE:
            client.images.pull(official)
        client.images.get(official)
        return official
    double = f"rps-test-{service}:on-{base.replace(':', '-').replace('/', '-')}"
    path = str(ROOT / "doubles" / service)
    client.images.build(path=path, tag=double, buildargs={"BASE": base}, network_mode="host", rm=True)
    return double


def start(made: Deployment) -> None:
    made.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS), "postgres", "s3")


def objects(made: Deployment) -> dict[str, bytes]:
    client = s3_client(made)
    found = client.list_objects_v2(Bucket="rps").get("Contents", [])
    return {entry["Key"]: client.get_object(Bucket="rps", Key=entry["Key"])["Body"].read() for entry in found}


def s3_client(made: Deployment, **changes: str) -> boto3.client:
    keys = {
        "aws_access_key_id": made.settings["S3_ACCESS_KEY"],
        "aws_secret_access_key": made.settings["S3_SECRET_KEY"],
        **changes,
    }
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{made.settings['RPS_S3_PORT']}", region_name="us-east-1", **keys
    )


def test_each_user_reaches_its_own_database_and_no_other(running: Deployment) -> None:
    for user, other in (("airflow", "mlflow"), ("mlflow", "airflow")):
        own = running.psql(user, user, "SELECT current_user")
        assert (own.returncode, own.stdout.strip()) == (0, user), own.stderr
        for database in (other, "postgres"):
            refused = running.psql(user, database, "SELECT 1")
            assert refused.returncode != 0
            assert "permission denied" in refused.stderr


def test_the_store_has_its_buckets_and_asks_for_the_key(running: Deployment) -> None:
    assert {"rps", "mlflow"} <= {bucket["Name"] for bucket in s3_client(running).list_buckets()["Buckets"]}
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3_client(running, aws_secret_access_key="guessed").list_buckets()


def test_the_containers_run_with_the_rights_that_the_file_says(running: Deployment) -> None:
    require_few_rights(running, "postgres", "s3")


def require_few_rights(made: Deployment, *services: str) -> None:
    status = "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; id -u; touch /written 2>&1 || true"
    for service in services:
        said = made.compose("exec", "-T", service, "sh", "-c", status)
        assert "CapEff:\t0000000000000000" in said
        assert "NoNewPrivs:\t1" in said
        assert "\n0\n" not in said
        assert "Read-only file system" in said


@dataclass(frozen=True)
class Backup:
    """A backup, and what there was in the databases and the store when it was made."""

    path: Path
    objects: Mapping[str, bytes]


@pytest.fixture(scope="module")
def backup(running: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """One of a row and an object; what was stopped for it runs again."""
    path = tmp_path_factory.mktemp("backups") / "backup"
    made = running.psql("airflow", "airflow", "CREATE TABLE kept AS SELECT 'as it was' AS said")
    assert made.returncode == 0, made.stderr
    s3_client(running).put_object(Bucket="rps", Key="raw/kept", Body=b"as it was")
    done = running.run("./backup.sh", str(path))
    assert done.returncode == 0, done.stderr
    start(running)
    return Backup(path, {"raw/kept": b"as it was"})


def test_a_backup_is_for_its_owners_eyes_and_never_overwritten(running: Deployment, backup: Backup) -> None:
    before = {path: path.read_bytes() for path in backup.path.iterdir()}
    assert {path.stat().st_mode & 0o077 for path in before} == {0}
    assert running.run("./backup.sh", str(backup.path)).returncode != 0
    assert {path: path.read_bytes() for path in backup.path.iterdir()} == before


def test_a_backup_brings_back_databases_objects_and_settings_on_an_empty_host(
    running: Deployment, backup: Backup
) -> None:
    before = running.settings
    running.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
    (running.directory / ".env").unlink()
    done = running.run("./restore.sh", str(backup.path))
    assert done.returncode == 0, done.stderr
    assert running.settings == before
    start(running)
    assert running.psql("airflow", "airflow", "SELECT said FROM kept").stdout.strip() == "as it was"
    assert objects(running) == backup.objects
    refused = running.psql("mlflow", "airflow", "SELECT 1")
    assert "permission denied" in refused.stderr, "who may connect is part of the backup"


def test_a_restore_replaces_what_has_come_since(running: Deployment, backup: Backup) -> None:
    s3_client(running).put_object(Bucket="rps", Key="raw/later", Body=b"later")
    assert running.psql("mlflow", "mlflow", "CREATE TABLE later (said text)").returncode == 0
    done = running.run("./restore.sh", str(backup.path))
    assert done.returncode == 0, done.stderr
    start(running)
    assert objects(running) == backup.objects
    assert "does not exist" in running.psql("mlflow", "mlflow", "SELECT said FROM later").stderr


def test_a_damaged_backup_is_refused_before_anything_is_touched(
    running: Deployment, backup: Backup, tmp_path: Path
) -> None:
    damaged = shutil.copytree(backup.path, tmp_path / "backup")
    with (damaged / "s3.tar").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    done = running.run("./restore.sh", str(damaged))
    assert done.returncode != 0
    assert "s3.tar" in done.stdout + done.stderr
    assert set(running.compose("ps", "--services", "--status", "running").split()) == {"postgres", "s3"}


def start_watching(made: Deployment) -> None:
    """Until each is healthy; a busy machine may call one unhealthy before."""
    made.compose("up", "--detach", "--no-build", "--no-deps", *WATCHING)

    def health() -> list[str]:
        return made.compose("ps", "--all", "--format", "{{.Health}}", *WATCHING).splitlines()

    well = wait_while(lambda: health() != ["healthy"] * len(WATCHING), seconds=UP_SECONDS, pause=0.5)
    assert well, made.compose("logs", *WATCHING)


@pytest.fixture(scope="module")
def watching(
    docker_host: str, docker_client: docker.DockerClient, base: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """What measures and tells, healthy, though the pipeline and the service are not there."""
    command = compose_command(tmp_path_factory.mktemp("compose"))
    mark = uuid.uuid4().hex[:8]
    settings = {
        "RPS_ALERTMANAGER_PORT": str(free_ports(1)),
        "WATCH_IMAGE": f"rps-test-watch:{mark}",
        "RPS_BUILD_NETWORK": "host",
        "PYTHON_IMAGE": base,
        "ALERTMANAGER_IMAGE": official_or_double(docker_client, base, "alertmanager"),
        "RPS_LOOK_SECONDS": "1",
        "COMPOSE_PROFILES": "alertmanager",
    }
    environment = {"COMPOSE": " ".join(command), "DOCKER_HOST": docker_host, "COMPOSE_PROJECT_NAME": f"rps-test-{mark}"}
    made = deployment(tmp_path_factory.mktemp("watching"), settings, environment)
    try:
        made.compose("build", "pipeline-metrics")
        start_watching(made)
        yield made
    finally:
        made.run(*command, "--profile", "*", "down", "--volumes", "--timeout", "5")
        with contextlib.suppress(docker.errors.DockerException):
            docker_client.images.remove(settings["WATCH_IMAGE"], force=True)


def answer_of(made: Deployment, service: str, url: str) -> str:
    """What a service answers itself, inside its container."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
    return made.compose("exec", "-T", service, "python3", "-c", code, url)


def test_a_pipeline_that_is_away_is_reported_as_such(watching: Deployment) -> None:
    def shown() -> str:
        return answer_of(watching, "pipeline-metrics", "http://127.0.0.1:9106/metrics")

    assert wait_while(lambda: shown().count("rps_pipeline_up{") < 2, seconds=UP_SECONDS, pause=1.0)
    for system in ("airflow", "mlflow"):
        assert f'rps_pipeline_up{{system="{system}"}} 0.0' in shown()


def test_the_secret_that_was_made_is_what_alertmanager_sends_and_the_receiver_takes(watching: Deployment) -> None:
    """Not from container to container: the packet filter of a machine may keep an engine of the tests' own apart."""
    file = "/tmp/alerts_secret"
    found = watching.compose("exec", "-T", "alertmanager", "sh", "-c", f"stat -c %a {file}; cat {file}").split()
    assert found == ["600", watching.settings["RPS_ALERTS_SECRET"]]
    address = f"http://127.0.0.1:{watching.settings['RPS_ALERTMANAGER_PORT']}/api/v2/status"
    running = httpx.get(address, timeout=30).json()["config"]["original"]
    assert f"credentials_file: {file}" in running
    assert "http://alerts:9107/v1/alerts" in running

    def sent(secret: str) -> str:
        code = "import json, sys; from urllib.error import HTTPError; from urllib.request import Request, urlopen\n"
        code += "_, url, secret, body = sys.argv\n"
        code += "headers = {'authorization': 'Bearer ' + secret, 'content-type': 'application/json'}\n"
        code += "try: print(urlopen(Request(url, body.encode(), headers), timeout=30).status)\n"
        code += "except HTTPError as error: print(error.code)"
        url = "http://127.0.0.1:9107/v1/alerts"
        return watching.compose("exec", "-T", "alerts", "python3", "-c", code, url, secret, json.dumps(MESSAGE)).strip()

    assert sent("guessed") == "401"
    assert sent(found[1]) == "200"
    written = watching.compose("exec", "-T", "alerts", "sh", "-c", "cat /var/lib/rps/alerts.jsonl")
    assert "RunFailed" in written


def test_what_watches_runs_with_the_rights_that_the_file_says_and_ends_well(watching: Deployment) -> None:
    require_few_rights(watching, *WATCHING)
    commands = watching.compose("exec", "-T", "alertmanager", "sh", "-c", "cat /proc/[0-9]*/cmdline")
    assert "alertmanager.yml" in commands
    assert watching.settings["RPS_ALERTS_SECRET"] not in commands
    watching.compose("stop", *WATCHING)
    ended = watching.compose("ps", "--all", "--format", "{{.Service}} {{.ExitCode}}").split("\n")
    start_watching(watching)
    assert {line for line in ended if line} == {f"{service} 0" for service in WATCHING}
