"""The one issue that is kept up to date, against the double of GitHub."""

from __future__ import annotations

import threading

import pytest

from clients.errors import ConfigurationError, GitHubFault
from clients.github import GitHub
from clients.github_issues import Issue, Issues, Wanted, Written
from doubles.github.fixture import Double

MARKER, TITLE, LABEL = "<!-- mark -->", "Drift: weather", "drift"


def wanted(text: str = "state", *, is_open: bool = True, aside: str = "") -> Wanted:
    def write(_before: str) -> Written:
        return Written(f"{MARKER}\n{text}", aside)

    return Wanted(marker=MARKER, title=TITLE, label=LABEL, is_open=is_open, write=write)


def issues(double: Double, *, patience_seconds: float = 20.0, token: str | None = None) -> Issues:
    return Issues(GitHub(double.settings(token), patience_seconds=patience_seconds, note=lambda _: None))


def put(double: Double, want: Wanted | None = None, *, create: bool = True) -> Issue | None:
    return issues(double).put(want or wanted(), create=create)


def listed(double: Double) -> list[dict]:
    return double.request("GET", "issues", state="all", direction="asc", per_page=100).json()


def test_it_is_made_once_and_then_brought_up_to_date_in_place(github_double: Double) -> None:
    first = put(github_double)
    second = put(github_double, wanted("another state"))
    assert first is not None
    assert second is not None
    assert first.number == second.number
    (issue,) = listed(github_double)
    assert issue["title"] == TITLE
    assert issue["body"] == f"{MARKER}\nanother state"
    assert [label["name"] for label in issue["labels"]] == [LABEL]


def test_what_is_so_already_is_not_written_again(github_double: Double) -> None:
    put(github_double)
    put(github_double)
    assert not [asked for asked in github_double.requests() if asked.startswith("PATCH")]


def test_none_is_made_where_none_is_asked_for(github_double: Double) -> None:
    assert put(github_double, create=False) is None
    assert listed(github_double) == []


def test_it_is_closed_and_opened_again(github_double: Double) -> None:
    put(github_double, wanted(is_open=False))
    assert [(one["state"], one["state_reason"]) for one in listed(github_double)] == [("closed", "completed")]
    put(github_double)
    assert [one["state"] for one in listed(github_double)] == ["open"]


def test_it_is_found_when_people_have_renamed_relabelled_or_rewritten_it(github_double: Double) -> None:
    made = put(github_double)
    assert made is not None
    for change in ({"title": "Ours now"}, {"labels": ["bug"]}, {"state": "closed"}, {"body": "gone", "title": TITLE}):
        assert github_double.request("PATCH", f"issues/{made.number}", change).status_code == 200
        found = put(github_double)
        assert found is not None
        assert found.number == made.number
    (issue,) = listed(github_double)
    assert [label["name"] for label in issue["labels"]] == ["bug", LABEL]
    assert MARKER in issue["body"]


def test_a_title_that_people_have_given_it_stays(github_double: Double) -> None:
    made = put(github_double)
    assert made is not None
    github_double.request("PATCH", f"issues/{made.number}", {"title": "Sensor 3 is broken"})
    put(github_double, wanted("more"))
    assert [one["title"] for one in listed(github_double)] == ["Sensor 3 is broken"]


def test_issues_of_others_are_left_alone_whatever_they_say(github_double: Double) -> None:
    copy = {"title": TITLE, "body": f"{MARKER}\nmine", "labels": [LABEL]}
    for token in (github_double.peer_token, github_double.outsider_token):
        assert github_double.request("POST", "issues", copy, token=token).status_code == 201
    made = put(github_double)
    assert made is not None
    assert [one["body"] for one in listed(github_double)][:2] == [f"{MARKER}\nmine"] * 2
    assert len(listed(github_double)) == 3


def test_of_two_of_ours_the_older_is_kept_and_the_other_closed_with_a_word(github_double: Double) -> None:
    older = github_double.request(
        "POST", "issues", {"title": TITLE, "body": MARKER, "labels": [LABEL]}, token=github_double.token
    ).json()
    younger = github_double.request(
        "POST", "issues", {"title": TITLE, "body": f"{MARKER}\nnotes", "labels": [LABEL]}, token=github_double.token
    ).json()
    for _ in range(2):
        found = put(github_double)
        assert found is not None
        assert found.number == older["number"]
    other = next(one for one in listed(github_double) if one["number"] == younger["number"])
    assert (other["state"], other["state_reason"]) == ("closed", "not_planned")
    assert f"goes on in #{older['number']}" in other["body"]
    assert "notes" in other["body"]
    assert MARKER not in other["body"]


def test_two_at_once_end_with_one(github_double: Double) -> None:
    barrier = threading.Barrier(2, timeout=30)

    def meanwhile(method: str, path: str) -> None:
        if method == "POST" and path.endswith("/issues"):
            barrier.wait()  # both have looked, and found none

    github_double.server.meanwhile = meanwhile
    threads = [threading.Thread(target=put, args=(github_double, wanted(text))) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    marked = [one for one in listed(github_double) if MARKER in one["body"]]
    assert len(listed(github_double)) == 2
    assert [one["state"] for one in marked] == ["open"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_answer_that_is_lost_makes_no_second_one(github_double: Double, method: str) -> None:
    if method == "PATCH":
        put(github_double)
    github_double.fault("cut", times=1, performed=True, methods=[method])
    put(github_double, wanted("after the fault"))
    assert [one["body"] for one in listed(github_double)] == [f"{MARKER}\nafter the fault"]


def test_pull_requests_and_hundreds_of_issues_are_looked_through(github_double: Double) -> None:
    made = put(github_double)
    assert made is not None
    github_double.request("PATCH", f"issues/{made.number}", {"labels": []})
    for number in range(120):
        github_double.request("POST", "issues", {"title": f"Another {number}"})
    github_double.commit("dev", {"a.txt": "a"})
    github_double.open_pull_request("dev", "test", TITLE, token=github_double.token)
    found = put(github_double)
    assert found is not None
    assert found.number == made.number


def test_what_has_no_room_is_kept_as_a_comment_first(github_double: Double) -> None:
    made = put(github_double)
    assert made is not None
    put(github_double, wanted("more", aside="Their notes."))
    assert [one["body"] for one in github_double.comments(made.number)] == ["Their notes."]


def test_issues_that_are_switched_off_are_reported_with_where_to_switch_them_on(github_double: Double) -> None:
    github_double.fault("server_error", status=410, path="/issues")
    with pytest.raises(ConfigurationError, match="switched off: switch them on under Settings"):
        put(github_double)


def test_a_token_that_may_not_write_issues_is_reported(github_double: Double) -> None:
    with pytest.raises(ConfigurationError, match="needs issues"):
        issues(github_double, token=github_double.read_token).put(wanted())


def test_a_github_that_is_away_is_waited_for_and_given_up_in_the_end(github_double: Double) -> None:
    github_double.fault("server_error", times=2)
    assert put(github_double) is not None
    github_double.fault("server_error")
    with pytest.raises(GitHubFault, match="updating the issue"):
        issues(github_double, patience_seconds=1.0).put(wanted("later"))
