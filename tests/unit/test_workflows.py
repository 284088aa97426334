"""What the workflow files must keep to, whatever they come to do: their policy, read from the YAML itself."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.rules import read_rulesets
from scripts.services import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
GITHUB_ACTIONS_APP = 15368


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
    assert workflow["concurrency"]["cancel-in-progress"] == "true"
    assert "github.event.pull_request.number" in workflow["concurrency"]["group"]


def test_a_job_is_given_what_it_needs_for_a_limited_time() -> None:
    written = {}
    for workflow, name, job in jobs():
        assert 0 < int(job["timeout-minutes"]) <= 75
        permissions = job.get("permissions", {})
        assert "write-all" not in permissions
        assert permissions.get("contents", "read") == "read"
        written[f"{workflow}/{name}"] = {key for key, value in permissions.items() if value == "write"}
    assert {name: given for name, given in written.items() if given} == {
        "model-gate/plan": {"statuses"},
        "model-gate/gate": {"statuses", "pull-requests"},
        "model-gate/conclude": {"statuses"},
    }


def test_nothing_is_interpolated_into_a_shell_line() -> None:
    for where, step in steps():
        assert "${{" not in step.get("run", ""), where


def test_no_event_runs_a_fork_with_our_secrets() -> None:
    for path in WORKFLOWS:
        assert set(read(path)["on"]) <= {"pull_request", "push", "workflow_dispatch"}, path.name


def test_secrets_are_given_to_the_step_that_judges_and_to_no_other() -> None:
    for where, step in steps():
        if "secrets." in json.dumps(step):
            assert where == "model-gate/gate"
            assert " -m ci gate " in step["run"]
    for _, _, job in jobs():
        assert "secrets." not in json.dumps({key: value for key, value in job.items() if key != "steps"})


def test_no_checkout_leaves_its_credentials_behind() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert {step["with"]["persist-credentials"] for step in checkouts} == {"false"}


def test_the_gate_runs_the_base_branchs_code_with_every_branch_at_hand() -> None:
    base = read(GITHUB / "workflows" / "model-gate.yml")["on"]["pull_request"]["branches"]
    for _, name, job in jobs():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@") and " -m ci " in json.dumps(job):
                assert [step["with"]["ref"]] == base, name
                assert step["with"]["fetch-depth"] == "0", name


def test_a_cancelled_jobs_signals_reach_the_gate() -> None:
    judging = [step["run"] for _, step in steps() if " -m ci gate " in step.get("run", "")]
    assert len(judging) == 1
    assert judging[0].strip().splitlines()[-1].startswith("exec ")


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


def test_test_and_master_keep_the_commits_that_were_judged() -> None:
    """A squashed or rebased commit is another one than the gate has judged, and a release looks for that one."""
    for ruleset in read_rulesets(GITHUB / "rulesets").values():
        rules = {rule["type"]: rule.get("parameters", {}) for rule in ruleset["rules"]}
        assert {"deletion", "non_fast_forward", "pull_request"} <= set(rules)
        assert ruleset["bypass_actors"] == []
        if ruleset["name"] in {"test", "master"}:
            assert rules["pull_request"]["allowed_merge_methods"] == ["merge"]
            assert rules["pull_request"]["required_approving_review_count"] == 1
            assert rules["pull_request"]["require_last_push_approval"]
