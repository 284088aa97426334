"""`clients.github` against the double: what it reads and sets, how it waits for faults to pass, and how it gives up."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from clients.errors import ConfigurationError, GitHubFault
from clients.github import GitHub, Status
from clients.settings import GitHubSettings
from doubles.github.fixture import Double, add_commit

MARK = "<!-- mark -->"


def marked(body: str) -> bool:
    return MARK in body


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def github(github_double: Double, notes: list[str]) -> GitHub:
    return GitHub(github_double.settings(), patience_seconds=10, note=notes.append)


@pytest.fixture
def number(github_double: Double) -> int:
    github_double.commit("dev", {"model.py": "better\n"})
    return github_double.open_pull_request("dev", "test", "Better `model` $(now)")


def posted(double: Double, number: int) -> list[str]:
    return [comment["body"] for comment in double.comments(number)]


def test_a_pull_request_is_reported_as_it_is_now(github: GitHub, github_double: Double, number: int) -> None:
    opened = github.pull_request(number)
    pushed = github_double.commit("dev", {"model.py": "better still\n"})
    moved = github.pull_request(number)
    github_double.request("PUT", f"pulls/{number}/merge", {})
    merged = github.pull_request(number)

    assert (opened.title, opened.state, opened.merged) == ("Better `model` $(now)", "open", False)
    assert (opened.head.ref, opened.base.ref, opened.head.repo.full_name) == ("dev", "test", github_double.name)
    assert opened.base.sha == github_double.head("master")
    assert moved.head.sha == pushed
    assert (merged.state, merged.merged) == ("closed", True)


def test_a_forks_pull_request_names_the_fork(github: GitHub, github_double: Double, tmp_path: Path) -> None:
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", github_double.git, fork], check=True)
    add_commit(fork, "better", {"model.py": "mine\n"}, start="test")
    github_double.server.add_fork("carl/weather", fork)
    number = github_double.open_pull_request("carl:better", "test", token=github_double.outsider_token)

    assert github.pull_request(number).head.repo.full_name == "carl/weather"


@pytest.mark.parametrize("prefix", ["", "/api/v3"])
def test_github_and_an_enterprise_server_are_reached_by_their_addresses(
    github_double: Double, number: int, prefix: str
) -> None:
    settings = GitHubSettings(
        f"{github_double.url}{prefix}", github_double.url, github_double.name, github_double.token
    )

    assert GitHub(settings).pull_request(number).number == number


def test_a_status_is_set_with_a_description_that_github_takes(github: GitHub, github_double: Double) -> None:
    sha = github_double.head("dev")
    for state, link in (("pending", ""), ("failure", "https://example.org/1")):
        github.set_status(sha, state=state, context="model-gate", description="x" * 141, target_url=link)

    assert github.statuses(sha) == {"model-gate": Status("failure", "x" * 139 + "…", "https://example.org/1")}


def test_the_statuses_of_many_contexts_are_all_read(github: GitHub, github_double: Double) -> None:
    sha = github_double.head("dev")
    for place in range(101):
        body = {"state": "success", "context": f"model-gate/{place}"}
        github_double.request("POST", f"statuses/{sha}", body, token=github_double.token)

    assert len(github.statuses(sha)) == 101


def test_a_comment_is_made_once_and_then_brought_up_to_date(github: GitHub, github_double: Double, number: int) -> None:
    first = github.upsert_comment(number, f"one {MARK}", marked)
    second = github.upsert_comment(number, f"two {MARK}", marked)

    assert first == second == github_double.comments(number)[0]["html_url"]
    assert posted(github_double, number) == [f"two {MARK}"]


def test_a_comment_is_found_behind_a_page_of_others(github: GitHub, github_double: Double, number: int) -> None:
    for place in range(100):
        github_double.request("POST", f"issues/{number}/comments", {"body": f"{place}"})
    github.upsert_comment(number, f"one {MARK}", marked)
    github.upsert_comment(number, f"two {MARK}", marked)

    assert [body for body in (one.body for one in github.comments(number)) if marked(body)] == [f"two {MARK}"]


@pytest.mark.parametrize("by_a_person", [False, True])
def test_somebody_elses_comment_is_not_touched_though_it_bears_the_mark(
    github_double: Double, number: int, by_a_person: bool
) -> None:
    forged = f"approved! {MARK}"
    github_double.request("POST", f"issues/{number}/comments", {"body": forged}, token=github_double.outsider_token)
    github = GitHub(github_double.settings(github_double.peer_token if by_a_person else None))

    github.upsert_comment(number, f"blocked {MARK}", marked)
    github.upsert_comment(number, f"still blocked {MARK}", marked)

    assert posted(github_double, number) == [forged, f"still blocked {MARK}"]


@pytest.mark.parametrize(
    "fault",
    [{"kind": "cut"}, {"kind": "server_error"}, {"kind": "unreadable"}],
    ids=lambda fault: fault["kind"],
)
def test_a_lost_answer_does_not_make_a_second_comment(
    github: GitHub, github_double: Double, number: int, fault: dict[str, str]
) -> None:
    github_double.fault(**fault, times=1, performed=True, methods=["POST"])

    github.upsert_comment(number, f"one {MARK}", marked)

    made = [request for request in github_double.requests() if request.startswith("POST") and "comments" in request]
    assert len(made) == 1
    assert posted(github_double, number) == [f"one {MARK}"]


def test_two_gates_at_once_leave_one_comment(github_double: Double, number: int) -> None:
    # Both look before either has posted.
    github_double.fault("slow", delay=0.5, times=2, methods=["POST"])
    bodies = [f"{place} {MARK}" for place in range(2)]
    gates = [
        threading.Thread(target=GitHub(github_double.settings()).upsert_comment, args=(number, body, marked))
        for body in bodies
    ]
    for gate in gates:
        gate.start()
    for gate in gates:
        gate.join()

    made = [request for request in github_double.requests() if request.startswith("POST") and "comments" in request]
    assert len(made) == 2
    assert len(posted(github_double, number)) == 1
    assert posted(github_double, number)[0] in bodies


@pytest.mark.parametrize("kind", ["cut", "server_error", "unreadable"])
def test_a_fault_that_passes_is_waited_out(github: GitHub, github_double: Double, number: int, kind: str) -> None:
    github_double.fault(kind, times=1)

    assert github.pull_request(number).number == number


def test_a_rate_limit_that_ends_in_time_is_waited_out_and_noted(
    github: GitHub, github_double: Double, number: int, notes: list[str]
) -> None:
    github_double.fault("primary_limit", seconds=8)
    before = len(github_double.requests())

    assert github.pull_request(number).number == number
    assert len(github_double.requests()) - before == 2
    assert re.search(
        rf"reading pull request #{number}: GitHub's primary rate limit holds; trying again in \d+ s", notes[0]
    )


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("kind", ["primary_limit", "secondary_limit"])
def test_a_rate_limit_that_outlasts_our_patience_is_reported_at_once(
    github: GitHub, github_double: Double, number: int, kind: str, status: int
) -> None:
    github_double.fault(kind, status=status, seconds=3600)
    started = time.monotonic()

    with pytest.raises(GitHubFault, match=r"rate limit holds until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, longer than"):
        github.pull_request(number)

    assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [403, 429])
def test_a_rate_limit_that_does_not_say_how_long_is_not_taken_for_a_missing_permission(
    github: GitHub, github_double: Double, number: int, status: int
) -> None:
    github_double.fault("secondary_limit", status=status, headers=False)

    with pytest.raises(GitHubFault, match="limits our rate until"):
        github.pull_request(number)


def test_a_limit_while_we_ask_who_we_are_does_not_make_us_an_app(github_double: Double, number: int) -> None:
    github = GitHub(github_double.settings(github_double.peer_token), patience_seconds=5)
    github.upsert_comment(number, f"one {MARK}", marked)
    again = GitHub(github_double.settings(github_double.peer_token), patience_seconds=5)
    github_double.fault("secondary_limit", seconds=1, path="/user")

    again.upsert_comment(number, f"two {MARK}", marked)

    assert posted(github_double, number) == [f"two {MARK}"]


def test_a_proxy_may_tell_the_end_of_a_limit_as_a_date(github: GitHub, github_double: Double, number: int) -> None:
    github_double.fault("secondary_limit", status=429, seconds=2, as_date=True)

    assert github.pull_request(number).number == number


def test_a_server_that_stays_broken_is_given_up_on(github_double: Double, number: int) -> None:
    github_double.fault("server_error", status=503)
    started = time.monotonic()

    with pytest.raises(GitHubFault, match=rf"reading pull request #{number}: GitHub answers 503, longer than the 2 s"):
        GitHub(github_double.settings(), patience_seconds=2).pull_request(number)

    assert 1.9 < time.monotonic() - started < 6


def test_a_server_that_does_not_answer_in_time_is_given_up_on(github_double: Double, number: int) -> None:
    github_double.fault("slow", delay=20)
    started = time.monotonic()

    with pytest.raises(GitHubFault, match="does not answer"):
        GitHub(github_double.settings(), patience_seconds=1).pull_request(number)

    assert time.monotonic() - started < 6
    github_double.clear_faults()


def test_nobody_at_the_address_is_a_fault(github_double: Double) -> None:
    settings = GitHubSettings("http://127.0.0.1:9", github_double.url, github_double.name, github_double.token)

    with pytest.raises(GitHubFault, match=r"does not answer at http://127\.0\.0\.1:9"):
        GitHub(settings, patience_seconds=1).pull_request(1)


def test_an_address_that_is_none_is_reported(github_double: Double) -> None:
    settings = GitHubSettings("api.github.com", github_double.url, github_double.name, github_double.token)

    with pytest.raises(ConfigurationError, match="GITHUB_API_URL"):
        GitHub(settings).pull_request(1)


def test_a_refused_token_is_reported_and_not_shown(github_double: Double, number: int) -> None:
    with pytest.raises(ConfigurationError, match=r"401 \(Bad credentials\): GITHUB_TOKEN is wrong") as error:
        GitHub(github_double.settings("ghs_secret")).pull_request(number)

    assert "ghs_secret" not in str(error.value)


def test_a_missing_permission_is_named(github_double: Double, number: int) -> None:
    github = GitHub(github_double.settings(github_double.read_token))
    sha = github_double.head("dev")

    with pytest.raises(ConfigurationError, match="lacks a permission on ana/weather; it needs statuses=write"):
        github.set_status(sha, state="success", context="model-gate", description="", target_url="")
    with pytest.raises(ConfigurationError, match="it needs issues=write; pull_requests=write"):
        github.upsert_comment(number, MARK, marked)


def test_what_is_not_there_is_reported_with_the_repository(github: GitHub) -> None:
    with pytest.raises(ConfigurationError, match=r"reading pull request #77: GitHub answers 404 .* ana/weather"):
        github.pull_request(77)


def test_what_github_refuses_is_reported_in_its_own_words(github: GitHub, number: int) -> None:
    with pytest.raises(GitHubFault, match=r"422 \(Validation Failed; Body is too long \(maximum is 65536 characters"):
        github.upsert_comment(number, "x" * 65_537, marked)
    with pytest.raises(GitHubFault, match="No commit found for SHA: ffff"):
        github.set_status("f" * 40, state="success", context="model-gate", description="", target_url="")


@pytest.mark.parametrize("performed", [False, True])
def test_a_ruleset_is_made_once_and_then_brought_up_to_date(github_double: Double, performed: bool) -> None:
    github = GitHub(github_double.settings(github_double.admin_token))
    definition = {
        "name": "test",
        "target": "branch",
        "enforcement": "active",
        "conditions": {"ref_name": {"include": ["refs/heads/test"], "exclude": []}},
        "rules": [{"type": "deletion"}],
    }
    github_double.fault("server_error", times=1, performed=performed, methods=["POST"])

    github.put_ruleset(definition)
    github.put_ruleset({**definition, "rules": [{"type": "deletion"}, {"type": "non_fast_forward"}]})

    (made,) = github.rulesets()
    assert [rule["type"] for rule in made["rules"]] == ["deletion", "non_fast_forward"]
