"""What the workflow files must keep to, whatever they come to do: their policy, read from the YAML itself."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.rules.rulesets import read_rulesets
from scripts.services import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
GITHUB_ACTIONS_APP = 15368
COMMAND = re.compile(r' -m ci (gate|release|retrain|verify) "\$')
"""What starts work that lasts, with secrets."""


def read(path: Path) -> dict[str, Any]:
    """As text throughout, so that `on` stays a word and versions stay as they are written."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield path.stem, name, job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for workflow, name, job in jobs():
        yield from ((f"{workflow}/{name}", step) for step in job["steps"])
    for path in ACTIONS:
        yield from ((path.parent.name, step) for step in read(path)["runs"]["steps"])


def check_names(job: str, definition: dict[str, Any]) -> set[str]:
    """The names under which GitHub shows the checks of a job: one for each combination of its matrix."""
    name = definition.get("name", job)
    matrix = definition.get("strategy", {}).get("matrix", {})
    if not matrix or not all(isinstance(values, list) for values in matrix.values()):
        return {name}
    names = set()
    for values in itertools.product(*matrix.values()):
        filled = name
        for key, value in zip(matrix, values, strict=True):
            filled = re.sub(rf"\$\{{\{{\s*matrix\.{key}\s*\}}\}}", value, filled)
        names.add(filled)
    return names


def required_checks() -> dict[str, list[dict[str, Any]]]:
    found = {}
    for ruleset in read_rulesets(GITHUB / "rulesets").values():
        for rule in ruleset["rules"]:
            if rule["type"] == "required_status_checks":
                found[ruleset["name"]] = rule["parameters"]["required_status_checks"]
    return found


def test_every_action_of_others_is_pinned_by_commit_with_its_version_beside_it() -> None:
    for path in (*WORKFLOWS, *ACTIONS):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"\buses: (?!\./)", line):
                assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+)*$", line), f"{path.name}: {line}"


def test_one_action_has_one_commit_everywhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (*WORKFLOWS, *ACTIONS))
    pins = set(re.findall(r"uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40})", text))
    assert len(pins) == len({action for action, _ in pins}) >= 4


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_no_permission_and_cancels_what_is_overtaken(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    if path.stem not in {"release", "retrain"}:
        assert workflow["concurrency"]["cancel-in-progress"] == "true"
    if "pull_request" in workflow["on"]:
        assert "github.event.pull_request.number" in workflow["concurrency"]["group"]


def test_releases_come_one_after_the_other_and_none_is_cut_short() -> None:
    workflow = read(GITHUB / "workflows" / "release.yml")
    assert workflow["concurrency"] == {"group": "release", "cancel-in-progress": "false"}
    assert set(workflow["on"]) == {"push", "workflow_dispatch"}
    assert workflow["on"]["push"] == {"branches": ["master"]}


def test_a_challenge_is_retrained_once_at_a_time_and_none_is_cut_short() -> None:
    workflow = read(GITHUB / "workflows" / "retrain.yml")
    assert "concurrency" not in workflow  # of events for two challenges, none must push the other out
    concurrency = workflow["jobs"]["retrain"]["concurrency"]
    assert concurrency == {"group": "retrain-${{ matrix.challenge }}", "cancel-in-progress": "false"}
    assert workflow["on"]["repository_dispatch"] == {"types": ["model-drift"]}
    assert workflow["jobs"]["plan"]["if"] == "github.event_name != 'schedule' || vars.AIRFLOW_API_URL"


def test_masters_commit_is_retrained_with_its_history_at_hand() -> None:
    for name, job in read(GITHUB / "workflows" / "retrain.yml")["jobs"].items():
        (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert checkout["with"]["ref"] == "master"
        assert (checkout["with"].get("fetch-depth") == "0") == (name == "retrain")


def test_a_job_is_given_what_it_needs_for_a_limited_time() -> None:
    written = {}
    for workflow, name, job in jobs():
        assert 0 < int(job["timeout-minutes"]) <= 75
        permissions = job.get("permissions", {})
        assert "write-all" not in permissions
        written[f"{workflow}/{name}"] = {key for key, value in permissions.items() if value == "write"}
    assert {name: given for name, given in written.items() if given} == {
        "model-gate/plan": {"statuses"},
        "model-gate/gate": {"statuses", "pull-requests"},
        "model-gate/conclude": {"statuses"},
        "release/release": {"contents"},
        "retrain/retrain": {"issues", "actions"},
    }


def test_nothing_is_interpolated_into_a_shell_line() -> None:
    for where, step in steps():
        assert "${{" not in step.get("run", ""), where


def test_no_event_runs_a_fork_with_our_secrets() -> None:
    for path in WORKFLOWS:
        # Only who may write to the repository can send it an event.
        known = {"pull_request", "push", "schedule", "workflow_dispatch", "repository_dispatch"}
        assert set(read(path)["on"]) <= known, path.name


def test_secrets_are_given_to_the_steps_that_judge_release_retrain_and_verify_and_to_no_other() -> None:
    given = {}
    for where, step in steps():
        if secrets := set(re.findall(r"secrets\.(\w+)", json.dumps(step))):
            assert COMMAND.search(step["run"]), where
            given[where] = secrets
    assert given == {
        "model-gate/gate": {"AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "MLFLOW_TRACKING_PASSWORD"},
        "release/release": {"MLFLOW_TRACKING_PASSWORD", "REGISTRY_PASSWORD"},
        "retrain/retrain": {"AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "MLFLOW_TRACKING_PASSWORD"},
        "verify/verify": {"REGISTRY_PASSWORD"},
    }
    for _, _, job in jobs():
        assert "secrets." not in json.dumps({key: value for key, value in job.items() if key != "steps"})


def test_the_environment_production_guards_the_release_and_nothing_else() -> None:
    assert {f"{workflow}/{name}": job["environment"] for workflow, name, job in jobs() if "environment" in job} == {
        "release/release": "production"
    }


def test_every_setting_that_the_steps_take_is_told_of_in_the_how_to() -> None:
    shown = (ROOT / "docs" / "how-to" / "github.md").read_text(encoding="utf-8")
    for where, step in steps():
        for name in re.findall(r"(?:vars|secrets)\.(\w+)", json.dumps(step)):
            assert f"`{name}`" in shown, f"{where}: {name}"


def test_no_checkout_leaves_its_credentials_behind() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert {step["with"]["persist-credentials"] for step in checkouts} == {"false"}


def test_the_gate_runs_the_base_branchs_code_with_every_branch_at_hand() -> None:
    base = read(GITHUB / "workflows" / "model-gate.yml")["on"]["pull_request"]["branches"]
    for workflow, name, job in jobs():
        for step in job["steps"]:
            if workflow == "model-gate" and step.get("uses", "").startswith("actions/checkout@"):
                assert [step["with"]["ref"]] == base, name
                assert step["with"]["fetch-depth"] == "0", name


def test_the_release_is_of_the_commit_that_was_pushed_with_every_tag_at_hand() -> None:
    (job,) = read(GITHUB / "workflows" / "release.yml")["jobs"].values()
    (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"] == {"ref": "${{ github.sha }}", "fetch-depth": "0", "persist-credentials": "false"}
    (step,) = [step for step in job["steps"] if " -m ci release " in step.get("run", "")]
    assert step["env"]["SHA"] == "${{ github.sha }}"


def test_only_master_is_released_and_that_is_seen_to_first() -> None:
    first = read(GITHUB / "workflows" / "release.yml")["jobs"]["release"]["steps"][0]
    assert first["env"] == {"REF": "${{ github.ref }}"}

    def tried(ref: str) -> tuple[int, str]:
        done = run_step(first, {"REF": ref})
        return done.returncode, done.stdout

    assert tried("refs/heads/master") == (0, "")
    for other in ("refs/heads/dev", "refs/tags/master", "refs/heads/master2", ""):
        code, shown = tried(other)
        assert code == 1
        assert shown.startswith(f"::error::only master is released; found {other}. ")


@pytest.mark.parametrize("workflow", ["model-gate", "release", "retrain", "verify"])
def test_a_cancelled_jobs_signals_reach_the_command(workflow: str) -> None:
    commands = [
        step["run"]
        for where, step in steps()
        if where.startswith(f"{workflow}/") and COMMAND.search(step.get("run", ""))
    ]
    assert len(commands) == 1
    assert commands[0].strip().splitlines()[-1].startswith("exec ")


HOSTILE = "$(touch trap) `touch trap`; touch trap --x"


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, []),
        ({"CHALLENGE": "weather"}, ["--challenge", "weather"]),
        ({"MODEL_VERSION": "3"}, ["--model-version", "3"]),
        ({"MODEL_VERSION": HOSTILE, "CHALLENGE": HOSTILE}, ["--challenge", HOSTILE, "--model-version", HOSTILE]),
    ],
)
def test_the_release_is_asked_for_as_the_inputs_say(
    tmp_path: Path, given: dict[str, str], arguments: list[str]
) -> None:
    called = command_of("release", tmp_path, {"SHA": "abc", **given})
    assert called == ["-m", "ci", "release", "--sha", "abc", "--output", f"{tmp_path}/release", *arguments]
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (
            {"EVENT_NAME": "repository_dispatch", "DRIFT": "concept", "SUMMARY": HOSTILE, "STARTED": "--by-hand"},
            ["--reason=drift", "--drift=concept", "--alert=", f"--summary={HOSTILE}", "--model-version=",
             "--started=--by-hand"],
        ),
        ({"EVENT_NAME": "schedule", "REASON": HOSTILE}, ["--reason=schedule"]),
        ({"EVENT_NAME": "workflow_dispatch", "REASON": HOSTILE}, [f"--reason={HOSTILE}", "--by-hand"]),
    ],
)  # fmt: skip
def test_a_retraining_is_asked_for_as_the_event_says(
    tmp_path: Path, given: dict[str, str], arguments: list[str]
) -> None:
    called = command_of('retrain "', tmp_path, {"CHALLENGE": "weather", "EVENT": "run-7", **given})
    asked = ["-m", "ci", "retrain", "--challenge=weather", "--event=run-7", f"--output={tmp_path}/retrain"]
    assert called == [*asked, *arguments]
    assert not (tmp_path / "trap").exists()


def test_an_event_without_a_challenge_is_refused_and_a_schedule_is_for_all_of_them(tmp_path: Path) -> None:
    planned = command_of("retrain --plan", tmp_path, {"EVENT_NAME": "schedule"})
    assert planned == ["-m", "ci", "retrain", "--plan", "--challenge="]
    done = run_step(step_of("retrain --plan"), {"PYTHON": "false", "EVENT_NAME": "repository_dispatch"}, tmp_path)
    assert done.returncode == 1
    assert "expected a challenge in the payload" in done.stdout


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ({"IMAGE": "registry.example/ana/rps@sha256:0a", "RPS_IMAGE": "ana/rps"}, "registry.example/ana/rps@sha256:0a"),
        ({"RPS_IMAGE": "ana/rps"}, "ana/rps:latest"),
        ({"RPS_IMAGE": "ana/rps-{challenge}", "CHALLENGE": "weather"}, "ana/rps-weather:latest"),
        ({"IMAGE": HOSTILE}, HOSTILE),
    ],
)
def test_the_image_to_verify_is_the_one_that_was_named_or_the_released_one(
    tmp_path: Path, given: dict[str, str], image: str
) -> None:
    assert command_of("verify", tmp_path, given) == ["-m", "ci", "verify", image]
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("given", "shown"),
    [({}, "the variable RPS_IMAGE"), ({"RPS_IMAGE": "ana/{challenge}"}, "the variable RPS_CHALLENGE")],
)
def test_without_an_image_to_verify_it_is_told_what_to_set(tmp_path: Path, given: dict[str, str], shown: str) -> None:
    done = run_step(step_of("verify"), {"PYTHON": "false", **given}, tmp_path)
    assert done.returncode == 1
    assert shown in done.stdout


@pytest.mark.parametrize(
    ("base", "head", "repository", "code", "message"),
    [
        ("test", "dev", "ana/weather", 0, "dev may be merged into test"),
        ("master", "test", "ana/weather", 0, "test may be merged into master"),
        ("test", "feature;touch trapped", "ana/weather", 1, "::error::only dev is merged into test"),
        ("master", "$(touch trapped)", "ana/weather", 1, "::error::only test is merged into master"),
        ("test", "dev", "bea/weather", 1, "::error::expected the branch dev of ana/weather"),
        ("test", "dev", "", 1, "a fork that is gone"),
        ("dev", "feature", "ana/weather", 1, "::error::expected a pull request into test or master"),
    ],
)
def test_a_branch_that_may_not_be_merged_is_refused_with_the_way_to_go(
    base: str, head: str, repository: str, code: int, message: str, tmp_path: Path
) -> None:
    (step,) = read(GITHUB / "workflows" / "branch-flow.yml")["jobs"]["branch-flow"]["steps"]
    given = {"BASE": base, "HEAD": head, "HEAD_REPOSITORY": repository, "GITHUB_REPOSITORY": "ana/weather"}
    done = run_step(step, given, tmp_path)
    assert (done.returncode, message in done.stdout) == (code, True)
    assert list(tmp_path.iterdir()) == []


def step_of(command: str) -> dict[str, Any]:
    (found,) = [step for _, step in steps() if f" -m ci {command}" in step.get("run", "")]
    return found


def run_step(
    step: dict[str, Any], environment: dict[str, str], directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a step's lines as the runner does, with what its `env` names: empty when it is not given."""
    given = {"PATH": os.environ["PATH"], **dict.fromkeys(step["env"], ""), **environment}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, env=given, cwd=directory, capture_output=True, text=True, check=False)


def command_of(command: str, directory: Path, environment: dict[str, str]) -> list[str]:
    """The arguments with which a step would start Python."""
    python = directory / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    done = run_step(step_of(command), {"PYTHON": str(python), "RUNNER_TEMP": str(directory), **environment}, directory)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("branch", ["dev", "test", "master"])
def test_every_check_that_a_branch_requires_is_set_by_some_job(branch: str) -> None:
    names = set().union(*(check_names(name, job) for _, name, job in jobs()))
    set_by_command = {"model-gate"}
    required = {check["context"] for check in required_checks()[branch]}
    assert required
    assert required <= names | set_by_command
    # A status of this name by anyone else, a person with a token say, does not count.
    assert {check["integration_id"] for check in required_checks()[branch]} == {GITHUB_ACTIONS_APP}


def test_no_job_that_can_be_skipped_stands_for_a_required_check() -> None:
    """GitHub takes a skipped job for a passed check."""
    required = {check["context"] for checks in required_checks().values() for check in checks}
    for workflow, name, job in jobs():
        skippable = "if" in job or "needs" in job
        assert not (skippable and check_names(name, job) & required), f"{workflow}/{name}"


def test_the_unit_tests_run_on_every_supported_python() -> None:
    supported = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert supported
    versions = [f"3.{minor}" for minor in range(int(supported[1]), int(supported[2]))]
    unit = read(GITHUB / "workflows" / "ci.yml")["jobs"]["unit"]
    assert unit["strategy"]["matrix"]["python"] == versions
    assert check_names("unit", unit) <= {check["context"] for check in required_checks()["dev"]}


def test_every_directory_of_tests_is_run_by_some_workflow_and_by_make_test() -> None:
    directories = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    by_target = {
        target: set(re.findall(r"\btests/(\w+)", recipe))
        for target, recipe in re.findall(r"^(\w+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    }
    called = [re.search(r"^make (\w+)$", step.get("run", "")) for _, step in steps()]
    by_workflows = set().union(*(by_target[call[1]] for call in called if call))
    matrix = system_tests()["strategy"]["matrix"]
    assert by_workflows | set(matrix["lane"]) == directories
    (by_default,) = re.findall(r"^TESTS \?= (.*)$", makefile, re.MULTILINE)  # an environment's TESTS goes before it
    assert {f"tests/{name}" for name in directories} == set(by_default.split())


def test_what_the_tests_need_is_listed_once_and_installed_by_what_ci_runs() -> None:
    (step,) = [step for step in system_tests()["steps"] if "run" in step]
    assert "exec /rps/.ci/run" in step["run"]
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".ci").iterdir()}
    scripts |= {where: step["run"] for where, step in steps() if "run" in step}
    assert [name for name, text in scripts.items() if "apt-get install" in text] == ["run"]


def test_the_system_tests_start_on_pull_requests_into_dev_and_every_night() -> None:
    started = read(GITHUB / "workflows" / "system-tests.yml")["on"]
    assert started["pull_request"] == {"branches": ["dev"]}
    assert [re.fullmatch(r"\d+ \d+ \* \* \*", each["cron"]) is not None for each in started["schedule"]] == [True]
    assert "workflow_dispatch" in started


def test_the_system_tests_which_anybodys_pull_request_runs_get_a_machine_to_throw_away_and_nothing_else() -> None:
    job = system_tests()
    assert job["runs-on"] == "ubuntu-latest"
    assert job["permissions"] == {"contents": "read"}
    assert "if" not in job
    used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert used == ["actions/checkout"]  # and no cache, which a job with secrets might read
    (step,) = [step for step in job["steps"] if "run" in step]
    assert step["env"] == {"TESTS": "tests/${{ matrix.lane }}"}
    assert re.findall(r"--env (\S+)", step["run"]) == ["TESTS"]
    # Neither the runner's engine nor a checkout that the tests could write to.
    assert re.findall(r"--volume (\S+)", step["run"]) == ["/tmp", '"$PWD:/source:ro"']


def system_tests() -> dict[str, Any]:
    (job,) = read(GITHUB / "workflows" / "system-tests.yml")["jobs"].values()
    return job


def test_test_and_master_keep_the_commits_that_were_judged() -> None:
    """A squashed or rebased commit is not the commit the gate judged, and a release looks for that one."""
    for ruleset in read_rulesets(GITHUB / "rulesets").values():
        assert ruleset["bypass_actors"] == []
        rules = {rule["type"]: rule.get("parameters", {}) for rule in ruleset["rules"]}
        if ruleset["target"] == "tag":
            continue
        assert {"deletion", "non_fast_forward", "pull_request"} <= set(rules)
        if ruleset["name"] in {"test", "master"}:
            assert rules["pull_request"]["allowed_merge_methods"] == ["merge"]
            assert rules["pull_request"]["required_approving_review_count"] == 1
            assert rules["pull_request"]["require_last_push_approval"]


def test_a_releases_tag_is_not_moved_or_deleted() -> None:
    (ruleset,) = [each for each in read_rulesets(GITHUB / "rulesets").values() if each["target"] == "tag"]
    assert ruleset["conditions"]["ref_name"] == {"include": ["refs/tags/v*"], "exclude": []}
    # Making one is not forbidden: the release does it with the workflow's own token, which could not bypass the rule.
    assert [rule["type"] for rule in ruleset["rules"]] == ["deletion", "non_fast_forward", "update"]
