"""The double of GitHub does what GitHub does, or says that it cannot; what others build on it depends on that."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import githubkit
import httpx
import pytest

from doubles.github.fixture import Double, add_commit, serving
from doubles.github.state import Comment, Status

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {
    "name": "test",
    "target": "branch",
    "enforcement": "active",
    "conditions": {"ref_name": {"include": ["refs/heads/test"], "exclude": []}},
    "rules": [
        {"type": "deletion"},
        {
            "type": "required_status_checks",
            "parameters": {
                "strict_required_status_checks_policy": False,
                "required_status_checks": [{"context": "model-gate"}],
            },
        },
        {
            "type": "pull_request",
            "parameters": {
                "required_approving_review_count": 1,
                "dismiss_stale_reviews_on_push": True,
                "require_code_owner_review": False,
                "require_last_push_approval": False,
                "required_review_thread_resolution": False,
            },
        },
    ],
}


def pull_request(double: Double, **files: str) -> tuple[int, str]:
    """One from dev to test; its number and head."""
    sha = double.commit("dev", files or {"model.py": "better\n"})
    return double.open_pull_request("dev", "test"), sha


def set_status(double: Double, sha: str, state: str, context: str = "model-gate") -> None:
    answer = double.request("POST", f"statuses/{sha}", {"state": state, "context": context}, token=double.token)
    assert answer.status_code == 201, answer.text


def merge(double: Double, number: int, **body: object) -> httpx.Response:
    return double.request("PUT", f"pulls/{number}/merge", body)


@pytest.mark.parametrize(("token", "message"), [("", "Requires authentication"), ("wrong", "Bad credentials")])
def test_without_a_known_token_nothing_is_shown(github_double: Double, token: str, message: str) -> None:
    answer = github_double.request("GET", "pulls", token=token)

    assert (answer.status_code, answer.json()["message"]) == (401, message)


def test_a_forks_token_reads_and_writes_nothing(github_double: Double) -> None:
    number, sha = pull_request(github_double)
    token = github_double.read_token

    assert github_double.request("GET", f"pulls/{number}", token=token).status_code == 200
    for path, body in ((f"statuses/{sha}", {"state": "success"}), (f"issues/{number}/comments", {"body": "x"})):
        answer = github_double.request("POST", path, body, token=token)
        assert (answer.status_code, answer.json()["message"]) == (403, "Resource not accessible by integration")
        assert answer.headers["x-accepted-github-permissions"]


def test_another_repository_is_not_found(github_double: Double) -> None:
    assert github_double.request("GET", "/repos/ana/other/pulls").status_code == 404


def test_a_push_moves_the_pull_requests_head(github_double: Double) -> None:
    number, sha = pull_request(github_double)
    before = github_double.request("GET", f"pulls/{number}").json()
    pushed = github_double.commit("dev", {"model.py": "better still\n"})
    after = github_double.request("GET", f"pulls/{number}").json()

    assert (before["head"]["sha"], after["head"]["sha"]) == (sha, pushed)
    assert (after["commits"], after["changed_files"], after["base"]["sha"]) == (2, 1, github_double.head("test"))


def test_githubs_own_client_understands_the_answers(github_double: Double) -> None:
    number, sha = pull_request(github_double)
    set_status(github_double, sha, "success")
    github_double.approve(number)
    client = githubkit.GitHub(github_double.admin_token, base_url=github_double.url, http_cache=False)
    owner, name = github_double.name.split("/")

    assert client.rest.pulls.get(owner, name, number).parsed_data.head.sha == sha
    assert client.rest.repos.get(owner, name).parsed_data.default_branch == "master"
    assert client.rest.repos.get_combined_status_for_ref(owner, name, sha).parsed_data.state == "success"
    assert client.rest.pulls.list_reviews(owner, name, number).parsed_data[0].state == "APPROVED"
    assert client.rest.users.get_authenticated().parsed_data.login == owner


def test_a_deleted_head_branch_closes_the_pull_request(github_double: Double) -> None:
    number, _ = pull_request(github_double)
    subprocess.run(["git", "-C", github_double.git, "update-ref", "-d", "refs/heads/dev"], check=True)

    assert github_double.request("GET", f"pulls/{number}").json()["state"] == "closed"


def test_a_second_pull_request_of_the_same_branches_is_refused(github_double: Double) -> None:
    pull_request(github_double)

    answer = github_double.request("POST", "pulls", {"title": "Again", "head": "dev", "base": "test"})

    assert answer.status_code == 422
    assert "already exists" in answer.json()["errors"][0]["message"]


def test_a_pull_request_of_a_fork_has_the_forks_head(github_double: Double, tmp_path: Path) -> None:
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", github_double.git, fork], check=True)
    sha = add_commit(fork, "better", {"model.py": "mine\n"}, start="test")
    github_double.server.add_fork("carl/weather", fork)

    number = github_double.open_pull_request("carl:better", "test", token=github_double.outsider_token)
    shown = github_double.request("GET", f"pulls/{number}").json()

    assert (shown["head"]["sha"], shown["head"]["repo"]["full_name"]) == (sha, "carl/weather")
    assert (shown["user"]["login"], shown["mergeable"]) == ("carl", True)


def test_the_rules_of_a_branch_hold_a_merge_back_until_they_are_met(github_double: Double) -> None:
    assert github_double.request("POST", "rulesets", REQUIRED).status_code == 201
    number, sha = pull_request(github_double)

    missing = merge(github_double, number)
    set_status(github_double, sha, "failure")
    github_double.approve(number)
    failing = merge(github_double, number)
    blocked = github_double.request("GET", f"pulls/{number}").json()["mergeable_state"]
    set_status(github_double, sha, "success")
    done = merge(github_double, number, sha=sha)

    assert (missing.status_code, failing.status_code, blocked, done.status_code) == (405, 405, "blocked", 200)
    assert 'Required status check "model-gate" is expected.' in missing.json()["message"]
    assert "At least 1 approving review is required" in missing.json()["message"]
    assert 'Required status check "model-gate" is failing.' in failing.json()["message"]
    assert "approving review" not in failing.json()["message"]
    assert github_double.head("test") == done.json()["sha"]
    merged = github_double.request("GET", f"pulls/{number}").json()
    assert (merged["state"], merged["merged"], merged["merged_by"]["login"]) == ("closed", True, "ana")


def test_a_push_after_the_approval_needs_another(github_double: Double) -> None:
    github_double.request("POST", "rulesets", REQUIRED)
    number, _ = pull_request(github_double)
    github_double.approve(number)
    pushed = github_double.commit("dev", {"model.py": "worse\n"})
    set_status(github_double, pushed, "success")

    assert "approving review" in merge(github_double, number).json()["message"]


def test_approvals_of_the_author_a_workflow_or_a_stranger_do_not_count(github_double: Double) -> None:
    github_double.request("POST", "rulesets", REQUIRED)
    number, sha = pull_request(github_double)
    set_status(github_double, sha, "success")
    path, body = f"pulls/{number}/reviews", {"event": "APPROVE"}

    by_author = github_double.request("POST", path, body)
    by_workflow = github_double.request("POST", path, body, token=github_double.token)
    github_double.approve(number, github_double.outsider_token)

    assert (by_author.status_code, by_workflow.status_code) == (422, 422)
    assert merge(github_double, number).status_code == 405


def test_a_merge_of_another_commit_than_the_head_is_a_conflict(github_double: Double) -> None:
    number, sha = pull_request(github_double)
    github_double.commit("dev", {"model.py": "moved on\n"})

    assert merge(github_double, number, sha=sha).status_code == 409


def test_what_git_cannot_merge_is_not_merged(github_double: Double) -> None:
    number, _ = pull_request(github_double, **{"README.md": "ours\n"})
    github_double.commit("test", {"README.md": "theirs\n"})

    assert github_double.request("GET", f"pulls/{number}").json()["mergeable_state"] == "dirty"
    assert merge(github_double, number).status_code == 405


def test_a_comment_is_at_most_65536_characters_long(github_double: Double) -> None:
    number, _ = pull_request(github_double)
    path = f"issues/{number}/comments"

    longest = github_double.request("POST", path, {"body": "é" * 65_536})
    too_long = github_double.request("POST", path, {"body": "é" * 65_537})

    assert longest.status_code == 201
    assert (too_long.status_code, too_long.json()["message"]) == (422, "Validation Failed")
    assert too_long.json()["errors"][0]["message"] == "Body is too long (maximum is 65536 characters)"


def test_comments_come_in_pages_with_links_to_the_others(github_double: Double) -> None:
    number, _ = pull_request(github_double)
    for place in range(5):
        github_double.request("POST", f"issues/{number}/comments", {"body": f"{place}"})

    address, seen, pages = f"issues/{number}/comments", [], 0
    answer = github_double.request("GET", address, per_page=2)
    while True:
        seen += [comment["body"] for comment in answer.json()]
        pages += 1
        if "next" not in answer.links:
            break
        path = answer.links["next"]["url"].removeprefix(github_double.url)
        answer = github_double.request("GET", path)

    assert (seen, pages) == (["0", "1", "2", "3", "4"], 3)


def test_the_newest_status_of_a_context_is_the_one_that_counts(github_double: Double) -> None:
    _, sha = pull_request(github_double)
    for state in ("pending", "failure", "success"):
        set_status(github_double, sha, state)

    combined = github_double.request("GET", f"commits/{sha}/status").json()

    assert [(one["context"], one["state"]) for one in combined["statuses"]] == [("model-gate", "success")]
    assert [one["state"] for one in github_double.statuses(sha)] == ["success", "failure", "pending"]


def test_statuses_have_githubs_limits(github_double: Double) -> None:
    _, sha = pull_request(github_double)
    full = Status(1, sha, "pending", "full", None, None, "ana", "2026-01-01T00:00:00Z")
    github_double.server.world.state.statuses += [full] * 1000
    refused = {
        "description is too long (maximum is 140 characters)": {"state": "success", "description": "x" * 141},
        "target_url must use http(s) scheme": {"state": "success", "target_url": "ftp://127.0.0.1"},
        "This SHA and context has reached the maximum number of statuses.": {"state": "success", "context": "Full"},
    }

    for message, body in refused.items():
        answer = github_double.request("POST", f"statuses/{sha}", body)
        assert (answer.status_code, answer.json()["errors"][0]["message"]) == (422, message)
    unknown = github_double.request("POST", f"statuses/{'f' * 40}", {"state": "success"})
    assert unknown.json()["message"] == f"No commit found for SHA: {'f' * 40}"


def test_rulesets_are_completed_and_only_an_administrator_changes_them(github_double: Double) -> None:
    by_workflow = github_double.request("POST", "rulesets", REQUIRED, token=github_double.token)
    made = github_double.request("POST", "rulesets", REQUIRED).json()
    again = github_double.request("POST", "rulesets", REQUIRED)
    listed = github_double.request("GET", "rulesets").json()
    seen = github_double.request("GET", f"rulesets/{made['id']}", token=github_double.token).json()
    rules = github_double.request("GET", "rules/branches/test").json()

    assert (by_workflow.status_code, again.status_code) == (403, 422)
    assert made["rules"][2]["parameters"]["allowed_merge_methods"] == ["merge", "squash", "rebase"]
    assert ("rules" in listed[0], "bypass_actors" in made, "bypass_actors" in seen) == (False, True, False)
    assert [rule["type"] for rule in rules] == ["deletion", "required_status_checks", "pull_request"]
    assert github_double.request("GET", "rules/branches/dev").json() == []
    assert github_double.request("DELETE", f"rulesets/{made['id']}").status_code == 204


def test_issues_are_opened_labelled_found_and_closed(github_double: Double) -> None:
    made = github_double.request("POST", "issues", {"title": "Drift", "body": "rises", "labels": ["drift"]}).json()
    pull_request(github_double)

    found = github_double.request("GET", "issues", labels="drift").json()
    closed = github_double.request("PATCH", f"issues/{made['number']}", {"state": "closed"}).json()

    assert [issue["number"] for issue in found] == [made["number"]]
    assert (closed["state"], closed["state_reason"]) == ("closed", "completed")
    assert ["pull_request" in issue for issue in github_double.request("GET", "issues").json()] == [True]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "pulls", {"title": "x", "head": "dev"}, 422, "'base' is a required property"),
        ("POST", "statuses/dev", {"state": "green"}, 422, "'green' is not one of"),
        ("POST", "issues/1/comments", {"body": "x", "colour": "red"}, 422, "colour is not described"),
        ("GET", "pulls?stat=open", None, 422, "stat is not described"),
        ("GET", "contents/README.md", None, 404, "no such operation"),
    ],
)
def test_what_the_description_does_not_allow_is_refused_and_reported(
    github_double: Double, method: str, path: str, body: object, status: int, message: str
) -> None:
    github_double.expected_violations.append(message)

    answer = httpx.request(
        method,
        f"{github_double.url}/repos/{github_double.name}/{path}",
        json=body,
        headers={"Authorization": f"token {github_double.token}"},
        verify=False,
    )

    assert answer.status_code == status
    assert any(message in violation for violation in github_double.server.violations)


def test_a_request_that_is_not_allowed_fails_the_test_at_its_end(github_double: Double) -> None:
    with pytest.raises(AssertionError, match="description does not allow"), serving(github_double.git) as other:
        other.request("POST", "pulls", {"title": "without branches"})


def test_an_answer_that_github_would_not_give_fails_the_test_at_its_end(github_double: Double) -> None:
    def provoke() -> int:
        with serving(github_double.git) as other:
            number, _ = pull_request(other)
            other.server.world.state.comments.append(Comment(1, number, "ana", "x", "yesterday", 7))
            return other.request("GET", "issues/comments/1").status_code

    with pytest.raises(AssertionError, match="answered what GitHub does not"):
        provoke()


@pytest.mark.parametrize("status", [403, 429])
def test_the_rate_limits_tell_how_long_they_hold_and_end(github_double: Double, status: int) -> None:
    github_double.fault("primary_limit", seconds=1, status=status)
    primary = github_double.request("GET", "pulls")
    github_double.clear_faults()
    github_double.fault("secondary_limit", seconds=1, status=status)
    secondary = github_double.request("GET", "pulls")
    time.sleep(1.1)

    assert (primary.status_code, secondary.status_code) == (status, status)
    assert primary.headers["x-ratelimit-remaining"] == "0"
    assert 0 <= int(primary.headers["x-ratelimit-reset"]) - time.time() + 2 <= 4
    assert secondary.headers["retry-after"] == "1"
    assert github_double.request("GET", "pulls").status_code == 200


def test_faults_hold_for_so_many_answers_and_some_lose_only_the_answer(github_double: Double) -> None:
    number, _ = pull_request(github_double)
    path, body = f"issues/{number}/comments", {"body": "x"}

    github_double.fault("server_error", times=1, status=503, methods=["POST"])
    refused = github_double.request("POST", path, body)
    github_double.fault("server_error", times=1, performed=True)
    lost = github_double.request("POST", path, body)
    github_double.fault("cut", times=1, performed=True)
    with pytest.raises(httpx.RemoteProtocolError):
        github_double.request("POST", path, body)

    assert (refused.status_code, lost.status_code) == (503, 502)
    assert len(github_double.comments(number)) == 2


def test_an_unknown_fault_is_refused(github_double: Double) -> None:
    answer = httpx.put(f"{github_double.url}/_double/faults", json={"kind": "flood"}, verify=False)

    assert (answer.status_code, "kind: expected one of" in answer.text) == (400, True)


def test_as_a_process_it_keeps_its_state_and_serves_an_enterprise_servers_paths(
    github_double: Double, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    github_double.commit("dev", {"model.py": "better\n"})
    command = [
        *(
            sys.executable,
            "-m",
            "doubles.github",
            "--repository",
            str(github_double.git),
            "--name",
            "ana/weather",
        ),
        *("--token", "bot", "--admin-token", "ana", "--user", "bea:peer", "--state", str(state)),
    ]

    def asked(method: str, path: str, body: object = None) -> httpx.Response:
        """Of a process that lives for this request only."""
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().split(" on ", 1)[1].split(",", 1)[0]
                headers = {"Authorization": "token ana"}
                return httpx.request(method, f"{url}/api/v3/repos/ana/weather/{path}", json=body, headers=headers)
            finally:
                process.terminate()
                assert process.wait(timeout=10) == 0

    made = asked("POST", "pulls", {"title": "Kept", "head": "dev", "base": "test"})
    kept = asked("GET", "pulls/1")

    assert made.status_code == 201
    assert (kept.json()["title"], kept.json()["head"]["sha"]) == ("Kept", github_double.head("dev"))
    assert json.loads(state.read_bytes())["last_number"] == 1
