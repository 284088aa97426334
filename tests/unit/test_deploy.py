"""What the files of `deploy/` must keep to: no secret, no open port, limits and checks for all, settings told."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.base_image import default_base, made_base
from scripts.services import ROOT

DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TEMPLATE = (DEPLOY / ".env.example").read_text(encoding="utf-8")
DOCKERFILES = sorted(DEPLOY.glob("*/Dockerfile"))
RUNS_TO_ITS_END = {"airflow-prepare"}
CHECKED_BY_ITS_IMAGE = {"service"}
GIVEN_BY_PEOPLE = {"RPS_REPOSITORY", "RPS_IMAGE", "GITHUB_TOKEN", "GITHUB_REPOSITORY"}
COMPOSE_OWN = {"COMPOSE_PROFILES"}
SMALLEST_HOST_CORES = 2

each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)


def without_comments(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text)


def references() -> Iterator[tuple[str, str, str]]:
    """Name, operator (`:-`, `:?` or `:+`) and what follows it of every `${…}`, the nested ones too."""
    text = without_comments(TEXT)
    for match in re.finditer(r"\$\{(\w+)(:[-?+])", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield match[1], match[2], text[match.end() : end - 1]


def passed_on() -> set[str]:
    """Variables that are handed to a container, or a build, as they are; absent when they are not set."""
    own = COMPOSE["x-own-image"]["args"].items()
    given = [item for service in SERVICES.values() for item in service.get("environment", {}).items()]
    return {name for name, value in (*own, *given) if value is None}


def required() -> set[str]:
    return {name for name, operator, _ in references() if operator == ":?"}


def settings_in_template() -> dict[str, tuple[bool, str]]:
    """Name → whether the line is active, and its value."""
    lines = re.findall(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", TEMPLATE, re.MULTILINE)
    return {name: (not mark, value) for mark, name, value in lines}


def new_env() -> Any:
    spec = importlib.util.spec_from_file_location("new_env", DEPLOY / "new_env.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_service
def test_every_service_has_a_health_check_or_a_reason_to_have_none(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in RUNS_TO_ITS_END:
        assert check == {"disable": True}
        assert SERVICES[name]["restart"] == "no"
        return
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    if name in CHECKED_BY_ITS_IMAGE:
        assert "test" not in check
        assert re.search(r"^HEALTHCHECK ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert check["test"][0] == "CMD"


@each_service
def test_every_service_has_limits_that_the_smallest_host_can_give(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    cores = re.sub(r"\$\{\w+:-([\d.]+)\}", r"\1", limits["cpus"])
    assert float(cores) <= SMALLEST_HOST_CORES  # the engine refuses more than it has


@each_service
def test_every_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"} & service.keys()
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


@each_service
def test_every_service_starts_again_and_turns_its_log_over(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in RUNS_TO_ITS_END else "unless-stopped")
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@each_service
def test_every_secret_comes_from_the_environment_and_is_needed(name: str) -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|CONN|KEY|STORE_URI")
    for variable, value in SERVICES[name].get("environment", {}).items():
        if secret.search(variable) and value is not None:
            assert re.search(r"\$\{\w+:\?set \w+ in \.env\}", value), variable


@each_service
def test_no_port_is_published_past_the_bind_address(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"(\$\{RPS_BIND:-127\.0\.0\.1\}|127\.0\.0\.1):\$\{RPS_\w+_PORT:-\d+\}:\d+", port)


@each_service
def test_every_image_has_an_exact_version_and_can_be_another(name: str) -> None:
    image = SERVICES[name]["image"]
    if name == "service":
        assert image == "${RPS_IMAGE:?set RPS_IMAGE in .env}:${RPS_TAG:-latest}"
        return
    match = re.fullmatch(r"\$\{[A-Z0-9]+_IMAGE:-([a-z0-9/-]+):([\w.-]+)\}", image)
    assert match, image
    ours = match[2] == "local"
    assert match[1].startswith("rps-") if ours else re.match(r"v?\d+\.\d+", match[2])


def test_what_faces_clients_has_no_way_to_the_databases_and_the_store() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert networks["postgres"] == {"database"}
    assert networks["s3"] == {"storage"}
    assert networks["service"] == networks["feed"] == {"online"}
    assert networks["prometheus"] == {"online", "watching"}
    assert networks["pipeline-metrics"] == {"pipeline", "watching"}
    for name in ("alerts", "alertmanager", "grafana"):
        assert networks[name] == {"watching"}
    inside = {name for name, of in networks.items() if "storage" in of}
    assert inside == {"s3", "mlflow", "airflow-scheduler"}  # the store's own parts trust whoever reaches them


def test_every_volume_is_declared_and_used() -> None:
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == COMPOSE["volumes"].keys()


def test_what_is_mounted_from_the_checkout_is_there_and_cannot_be_written() -> None:
    written = [volume for each in SERVICES.values() for volume in each.get("volumes", []) if volume.startswith(".")]
    assert written
    for volume in written:
        for chosen in (r"", r"\1"):  # a file beside another, for a variable that is set
            source, _, mode = re.sub(r"\$\{\w+:\+([^}]*)\}", chosen, volume).split(":")
            assert (DEPLOY / source).exists(), source
            assert mode == "ro"


def test_the_template_names_every_setting_and_no_other() -> None:
    read = {name for name, _, _ in references()} | passed_on() | COMPOSE_OWN
    assert settings_in_template().keys() == read


def test_the_template_asks_for_what_is_needed_and_shows_the_defaults_of_the_rest() -> None:
    template = settings_in_template()
    active = {name for name, (is_active, _) in template.items() if is_active}
    assert active == required() | COMPOSE_OWN
    assert all(template[name][1] == "" for name in active)
    for name, operator, default in references():
        if operator == ":-":
            plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", default)
            assert template[name] == (False, plain), name


def test_every_secret_and_nothing_else_is_made() -> None:
    first, second = new_env().made_secrets(), new_env().made_secrets()
    assert first.keys() == required() - GIVEN_BY_PEOPLE
    assert all(first[name] != second[name] and len(first[name]) >= 20 for name in first)
    part_of_an_address = {name for name in first if name.endswith("_DB_PASSWORD")}
    assert len(part_of_an_address) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}", first[name]) for name in part_of_an_address)


def test_the_made_file_is_complete_private_and_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "made.env"

    def make() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(DEPLOY / "new_env.py"), str(target)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = make()
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    text = target.read_text(encoding="utf-8")
    empty = set(re.findall(r"^([A-Z0-9_]+)=$", text, re.MULTILINE))
    assert empty == GIVEN_BY_PEOPLE | COMPOSE_OWN
    again = make()
    assert again.returncode == 1
    assert "not overwritten" in again.stderr
    assert target.read_text(encoding="utf-8") == text


def test_the_made_file_is_not_taken_into_git() -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "deploy/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


@each_dockerfile
def test_our_images_are_built_from_the_same_base_and_pinned_packages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert default_base(path) == default_base(ROOT / "Dockerfile")
    assert f"${{PYTHON_IMAGE:-{default_base(path)}}}" in TEXT
    assert "--require-hashes" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert not re.search(r"^(ADD|VOLUME) ", text, re.MULTILINE)


@each_dockerfile
def test_our_images_are_given_what_they_copy_and_nothing_else(path: Path) -> None:
    rules = [
        line
        for line in path.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_every_image_that_is_built_has_its_dockerfile() -> None:
    built = {service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service}
    assert built == {str(path.relative_to(ROOT)) for path in DOCKERFILES}


@pytest.mark.parametrize("name", ["airflow", "mlflow", "s3", "feed", "watch"])
def test_our_images_have_the_versions_that_are_tested(name: str) -> None:
    def pins(file: str) -> dict[str, str]:
        text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
        return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))

    ours, tested = pins(f"{name}.txt"), pins("dev.txt")
    assert ours
    assert {package: (ours[package], tested[package]) for package in ours.keys() & tested.keys()} == {
        package: (ours[package], ours[package]) for package in ours.keys() & tested.keys()
    }


def test_prometheus_and_grafana_ask_services_that_are_there() -> None:
    monitoring = ROOT / "monitoring"
    jobs = yaml.safe_load((monitoring / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    targets = [target for job in jobs for config in job["static_configs"] for target in config["targets"]]
    hosts = {target.partition(":")[0] for target in targets}
    assert hosts == {"service", "pipeline-metrics", "alerts", "alertmanager", "localhost"}
    assert hosts <= SERVICES.keys() | {"localhost"}
    reached = {name for name in hosts - {"localhost"} if not set(SERVICES[name]["networks"]) & {"online", "watching"}}
    assert not reached, "Prometheus has no network in common with them"
    provisioned = monitoring / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    for source in yaml.safe_load(provisioned.read_text(encoding="utf-8"))["datasources"]:
        assert source["url"] == "http://prometheus:9090"


def test_what_tells_of_alerts_knows_the_receiver_and_its_secret() -> None:
    address, secret_file = "http://alerts:9107/v1/alerts", "/tmp/alerts_secret"
    monitoring = ROOT / "monitoring"
    for folder in ("provisioning", "provisioning-slack"):
        text = (monitoring / "grafana" / folder / "alerting" / "contacts.yml").read_text(encoding="utf-8")
        (webhook,) = [
            receiver["settings"]
            for point in yaml.safe_load(text)["contactPoints"]
            for receiver in point["receivers"]
            if receiver["type"] == "webhook"
        ]
        assert webhook["url"] == address
        assert set(re.findall(r"\$(\w+)", text)) - {"labels"} <= SERVICES["grafana"]["environment"].keys()
    script = SERVICES["alertmanager"]["entrypoint"][2]
    for name in ("alertmanager.yml", "with-slack.yml"):
        text = (monitoring / "alertmanager" / name).read_text(encoding="utf-8")
        assert address in text
        assert set(re.findall(r"/tmp/\w+", text)) <= set(re.findall(r"/tmp/\w+", script))
        assert secret_file in text
        assert name in script


Answers = Callable[[int, str], str]


@pytest.fixture
def answering() -> Iterator[Answers]:
    """Starts a server that always gives one answer; its address."""
    with_status: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = with_status[-1]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def answer(status: int, body: str) -> str:
        with_status.append((status, body))
        return f"http://127.0.0.1:{server.server_port}/health"

    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def checked(url: str, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(DEPLOY / "healthcheck.py"), url, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "body", "options", "well"),
    [
        (200, "", (), True),
        (503, "", (), False),
        (200, json.dumps({"dag_processor": {"status": "healthy"}}), ("--json", "dag_processor.status=healthy"), True),
        (200, json.dumps({"dag_processor": {"status": None}}), ("--json", "dag_processor.status=healthy"), False),
        (200, json.dumps({"dag_processor": None}), ("--json", "dag_processor.status=healthy"), False),
        (200, "{}", ("--json", "dag_processor.status=healthy"), False),
        (200, "<html>", ("--json", "dag_processor.status=healthy"), False),
        (200, 'seen_total{of="newest"} 0.0\nseen_total{of="late"} 3.0\n', ("--metric", "seen_total"), True),
        (200, 'seen_total{of="newest"} 0.0\n', ("--metric", "seen_total"), False),
        (200, "seen_total_created 1.7e9\n", ("--metric", "seen_total"), False),
        (200, "", ("--metric", "seen_total"), False),
    ],
)
def test_the_health_check_tells_well_from_unwell(
    answering: Answers, status: int, body: str, options: tuple[str, ...], *, well: bool
) -> None:
    code, said = checked(answering(status, body), *options)
    assert code == (0 if well else 1), said
    assert bool(said) is not well
    assert "Traceback" not in said


def test_the_health_check_of_what_does_not_listen_says_so() -> None:
    code, said = checked("http://127.0.0.1:1/")
    assert code == 1
    assert "refused" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run debootstrap")
def test_a_base_is_made_though_the_home_has_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    debootstrap = programs / "debootstrap"  # as the real one does, it fails in a path with a space
    refuses = 'for root; do :; done\ncase "$root" in *" "*) exit 1 ;; esac\nmkdir -p "$root/etc/ssl/certs"'
    debootstrap.write_text(f'#!/bin/sh\n{refuses} && echo bookworm > "$root/etc/debian_version"\n')
    debootstrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a home" / ".cache"))
    with tarfile.open(made_base("no base is there")) as base:
        assert "./etc/debian_version" in base.getnames()
