"""The rules of branches and tags against the GitHub double: applied from the files, compared with them, in force."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci.rules.rulesets import apply, check
from clients.errors import ConfigurationError, GitHubFault
from clients.github import GitHub
from doubles.github.fixture import Double
from scripts.services import ROOT

FILES = ROOT / ".github" / "rulesets"
NAMES = ("dev", "master", "tags", "test")


@pytest.fixture
def github(github_double: Double) -> GitHub:
    return GitHub(github_double.settings(github_double.admin_token), patience_seconds=2.0)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A copy of the files, for a test to change."""
    return Path(shutil.copytree(FILES, tmp_path / "rulesets"))


def change(directory: Path, name: str, how: Callable[[dict[str, Any]], None]) -> None:
    path = directory / f"{name}.json"
    ruleset = json.loads(path.read_text())
    how(ruleset)
    path.write_text(json.dumps(ruleset))


def change_on_github(double: Double, name: str, how: Callable[[dict[str, Any]], None]) -> None:
    """As an administrator can, by hand."""
    found = next(each for each in double.request("GET", "rulesets").json() if each["name"] == name)
    ruleset = double.request("GET", f"rulesets/{found['id']}").json()
    kept = {key: ruleset[key] for key in ("name", "target", "enforcement", "conditions", "bypass_actors", "rules")}
    how(kept)
    double.request("PUT", f"rulesets/{found['id']}", kept).raise_for_status()


def rule(ruleset: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(each for each in ruleset["rules"] if each["type"] == kind)["parameters"]


def one_more(name: str, include: list[str], **changes: object) -> dict[str, object]:
    conditions = {"ref_name": {"include": include, "exclude": []}}
    ruleset = {"name": name, "target": "branch", "enforcement": "active", "conditions": conditions, "bypass_actors": []}
    return {**ruleset, "rules": [{"type": "required_linear_history"}], **changes}


def test_applied_rules_are_those_of_the_files(github: GitHub, github_double: Double) -> None:
    assert [shown.split(":")[0] for shown in check(github, FILES)] == list(NAMES)
    assert all(": made from " in shown for shown in apply(github, FILES))
    assert check(github, FILES) == []
    assert sorted(each["name"] for each in github_double.request("GET", "rulesets").json()) == list(NAMES)


def test_applying_twice_changes_nothing_the_second_time(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))
    before = len(github_double.requests())
    assert [shown.split(" ")[1] for shown in apply(github, FILES)] == ["as"] * len(NAMES)
    assert not [each for each in github_double.requests()[before:] if not each.startswith("GET ")]


def test_what_was_loosened_by_hand_is_shown_line_by_line_and_mended(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))

    def loosen(ruleset: dict[str, Any]) -> None:
        rule(ruleset, "pull_request")["required_approving_review_count"] = 0
        checks = rule(ruleset, "required_status_checks")
        checks["required_status_checks"] = checks["required_status_checks"][:1]
        ruleset["rules"] = [each for each in ruleset["rules"] if each["type"] != "non_fast_forward"]

    change_on_github(github_double, "test", loosen)
    (difference,) = check(github, FILES)
    lines = difference.splitlines()
    assert lines[:2] == [f"--- {FILES / 'test.json'}", "+++ the ruleset test on GitHub"]
    changed = {line[0] + line[1:].strip(" ,") for line in lines[2:] if line[0] in "+-"}
    assert {'-"required_approving_review_count": 1', '+"required_approving_review_count": 0'} <= changed
    assert {'-"context": "model-gate"', '-"non_fast_forward": {}'} <= changed
    assert ["brought" in shown for shown in apply(github, FILES)] == [False, False, False, True]
    assert check(github, FILES) == []


@pytest.mark.parametrize(
    "how",
    [
        lambda ruleset: ruleset.update(enforcement="disabled"),
        lambda ruleset: ruleset["conditions"]["ref_name"].update(include=["refs/heads/other"]),
        lambda ruleset: ruleset["conditions"]["ref_name"].update(exclude=["refs/heads/test"]),
        lambda ruleset: ruleset.update(
            bypass_actors=[{"actor_id": 5, "actor_type": "RepositoryRole", "bypass_mode": "always"}]
        ),
        lambda ruleset: rule(ruleset, "required_status_checks")["required_status_checks"][1].pop("integration_id"),
        lambda ruleset: rule(ruleset, "pull_request").update(allowed_merge_methods=["merge", "squash"]),
        lambda ruleset: rule(ruleset, "pull_request").update(dismiss_stale_reviews_on_push=False),
    ],
    ids=["disabled", "elsewhere", "excluded", "bypass", "anyone's status", "squash", "stale reviews"],
)
def test_every_way_to_switch_a_rule_off_is_a_difference(
    github: GitHub, github_double: Double, how: Callable[[dict[str, Any]], None]
) -> None:
    list(apply(github, FILES))
    change_on_github(github_double, "test", how)
    assert len(check(github, FILES)) == 1


def test_the_order_of_rules_and_checks_is_no_difference(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))

    def turn_round(ruleset: dict[str, Any]) -> None:
        ruleset["rules"].reverse()
        rule(ruleset, "required_status_checks")["required_status_checks"].reverse()

    change_on_github(github_double, "dev", turn_round)
    assert check(github, FILES) == []


def test_what_github_adds_and_that_is_off_is_no_difference_but_what_is_on_is(
    github: GitHub, github_double: Double
) -> None:
    list(apply(github, FILES))
    change_on_github(github_double, "dev", lambda it: rule(it, "pull_request").update(required_reviewers=[]))
    assert check(github, FILES) == []
    change_on_github(
        github_double, "dev", lambda it: rule(it, "required_status_checks").update(do_not_enforce_on_create=True)
    )
    (difference,) = check(github, FILES)
    assert '"do_not_enforce_on_create": true' in difference


@pytest.mark.parametrize("include", [["refs/heads/test"], ["~ALL"], ["refs/heads/*"], ["~DEFAULT_BRANCH"]])
def test_another_ruleset_for_the_same_branches_is_a_difference(
    github: GitHub, github_double: Double, include: list[str]
) -> None:
    list(apply(github, FILES))
    github_double.request("POST", "rulesets", one_more("extra", include)).raise_for_status()
    (difference,) = check(github, FILES)
    assert difference.startswith("extra: GitHub has this ruleset for refs/heads/")


def test_another_ruleset_for_the_releases_tags_is_a_difference(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))
    for name, include in (("extra", ["refs/tags/v*"]), ("all", ["~ALL"])):
        github_double.request("POST", "rulesets", one_more(name, include, target="tag")).raise_for_status()
    assert [shown.partition(",")[0] for shown in check(github, FILES)] == [
        "extra: GitHub has this ruleset for refs/tags/v*",
        "all: GitHub has this ruleset for refs/tags/v*",
    ]


def test_rulesets_for_other_branches_tags_or_switched_off_are_nobodys_business(
    github: GitHub, github_double: Double
) -> None:
    list(apply(github, FILES))
    for other in (
        one_more("data", ["refs/heads/data/*"]),
        one_more("off", ["refs/heads/test"], enforcement="disabled"),
        one_more("other tags", ["refs/tags/data*"], target="tag"),
        one_more("tags off", ["refs/tags/v*"], target="tag", enforcement="disabled"),
    ):
        github_double.request("POST", "rulesets", other).raise_for_status()
    assert check(github, FILES) == []


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        (lambda it: it.update(enforcment="active"), "enforcment"),
        (lambda it: it.pop("bypass_actors"), "bypass_actors"),
        (lambda it: it.update(target="push"), "$.target"),
        (lambda it: rule(it, "pull_request").update(required_approving_review_count="one"), "approving_review_count"),
        (lambda it: it["rules"].append({"type": "no_mondays"}), "no_mondays"),
        (lambda it: it["rules"].append({"type": "deletion"}), "each type once"),
        (lambda it: it.update(name="dev"), "name: expected one of its own"),
    ],
    ids=["unknown key", "missing key", "target", "type", "unknown rule", "twice", "name"],
)
def test_a_wrong_file_is_reported_by_file_and_key_before_anything_is_changed(
    github: GitHub, github_double: Double, rules: Path, how: Callable[[dict[str, Any]], None], shown: str
) -> None:
    change(rules, "test", how)
    with pytest.raises(ConfigurationError, match=r"test\.json: ") as raised:
        list(apply(github, rules))
    assert shown in str(raised.value)
    assert github_double.requests() == []


def test_a_directory_without_rules_is_reported(github: GitHub, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a JSON file for each ruleset; found none"):
        check(github, tmp_path)
    (tmp_path / "dev.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"dev\.json"):
        check(github, tmp_path)


def test_a_token_that_may_not_administer_is_told_what_it_needs(github_double: Double) -> None:
    weak = GitHub(github_double.settings(github_double.token), patience_seconds=2.0)
    with pytest.raises((ConfigurationError, GitHubFault), match="administration"):
        list(apply(weak, FILES))


def test_the_command_exits_with_1_and_the_difference_and_with_0_once_applied(github_double: Double) -> None:
    def rules_command(action: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **github_double.environment(github_double.admin_token)}
        command = [sys.executable, "-m", "ci", "rules", action]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    checked = rules_command("check")
    assert checked.returncode == 1
    assert "test: GitHub has no such ruleset" in checked.stdout
    applied = rules_command("apply")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert "test: made from .github/rulesets/test.json" in applied.stdout
    assert rules_command("check").returncode == 0


def test_the_rules_hold_a_pull_request_until_it_is_green_and_approved(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))
    sha = github_double.commit("dev", {"a.txt": "1"})
    number = github_double.open_pull_request("dev", "test")

    def merge(method: str = "merge") -> tuple[int, str]:
        answer = github_double.request("PUT", f"pulls/{number}/merge", {"merge_method": method})
        return answer.status_code, answer.json()["message"]

    def passed(context: str) -> None:
        github.set_status(sha, state="success", context=context, description="", target_url="")

    passed("branch-flow")
    github_double.approve(number)
    assert merge()[0] == 405
    assert "model-gate" in merge()[1]
    github.set_status(sha, state="error", context="model-gate", description="", target_url="")
    assert merge()[0] == 405
    passed("model-gate")
    assert merge("squash")[0] == 405
    assert merge()[0] == 200


def test_a_releases_tag_is_neither_moved_nor_deleted_by_anybody(github: GitHub, github_double: Double) -> None:
    list(apply(github, FILES))
    first = github_double.head("master")
    for name in ("tags/v1.0.0", "tags/data"):
        github_double.request("POST", "git/refs", {"ref": f"refs/{name}", "sha": first}).raise_for_status()
    later = github_double.commit("master", {"a.txt": "1"})

    def tried(name: str) -> list[int]:
        moved = github_double.request("PATCH", f"git/refs/{name}", {"sha": later, "force": True})
        return [moved.status_code, github_double.request("DELETE", f"git/refs/{name}").status_code]

    assert tried("tags/v1.0.0") == [422, 422]
    assert tried("tags/data") == [200, 204]


def test_github_takes_the_files_as_they_are(github: GitHub, github_double: Double) -> None:
    """The double checks every request against GitHub's own description; nothing is added on the way."""
    list(apply(github, FILES))
    sent = {ruleset["name"]: copy.deepcopy(ruleset) for ruleset in github.rulesets()}
    for path in FILES.glob("*.json"):
        file = json.loads(path.read_text())
        assert {key: sent[file["name"]][key] for key in ("target", "enforcement", "conditions")} == {
            key: file[key] for key in ("target", "enforcement", "conditions")
        }
