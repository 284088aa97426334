"""GitHub releases against the double: one holder for each number, tags and releases that a second try finds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest

from ci.release.code_history import History
from clients.errors import ConfigurationError, GitHubFault, NotReleased
from clients.git import Git
from clients.github import GitHub
from clients.github_releases import Attachment, Release, Releases, Tag
from doubles.github.fixture import Double
from scripts.services import ROOT

NUMBER = "refs/rps/releases/v1.0.0"
LOST = [{"kind": "cut"}, {"kind": "server_error"}, {"kind": "unreadable"}]
FILES = {
    "sbom.spdx.json": Attachment(b'{"spdxVersion": "SPDX-2.3"}', "application/spdx+json"),
    "provenance.intoto.jsonl": Attachment(b"{}\n", "application/vnd.in-toto+json"),
}


def releases_for(double: Double, token: str | None = None, *, patience_seconds: float = 20.0) -> Releases:
    github = GitHub(double.settings(token), patience_seconds=patience_seconds, note=lambda _shown: None)
    return Releases(github)


@pytest.fixture
def releases(github_double: Double) -> Releases:
    return releases_for(github_double)


@pytest.fixture
def sha(github_double: Double) -> str:
    return github_double.head("master")


def put(releases: Releases, tag: str = "v1.0.0", **changes: Any) -> Release:
    given = {"name": f"Release {tag}", "body": "What has changed.", "files": FILES, "latest": True}
    return releases.put_release(tag, **{**given, **changes})


def shown(double: Double) -> list[dict[str, Any]]:
    return double.request("GET", "releases").json()


def content(double: Double, asset: dict[str, Any]) -> tuple[str, bytes]:
    headers = {"Authorization": f"Bearer {double.token}", "Accept": "application/octet-stream"}
    answer = httpx.get(asset["url"], headers=headers, verify=False)
    return answer.headers["content-type"], answer.content


def contents(double: Double) -> dict[str, bytes]:
    (release,) = shown(double)
    return {asset["name"]: content(double, asset)[1] for asset in release["assets"]}


def git(double: Double, *arguments: str) -> str:
    return Git(double.git).text(*arguments)


def posted(double: Double, ending: str) -> list[str]:
    """What came of each POST to a path that ends so."""
    message = [request.split(" ") for request in double.requests()]
    return [came for method, path, came in message if method == "POST" and path.endswith(ending)]


def test_a_number_is_reserved_in_git_for_a_commit_with_what_is_written_to_it(
    releases: Releases, github_double: Double, sha: str
) -> None:
    made = releases.reserve(NUMBER, sha, "Model-Version: 7\n")

    assert made.ours
    assert made.tag == Tag(NUMBER, sha, "Model-Version: 7")
    assert git(github_double, "rev-parse", f"{NUMBER}^{{commit}}") == sha
    assert git(github_double, "for-each-ref", "--format=%(contents)", NUMBER) == "Model-Version: 7"
    assert releases.reservations() == [made.tag]
    assert releases.tags() == []


def test_who_comes_second_is_told_who_has_the_number(releases: Releases, github_double: Double, sha: str) -> None:
    first = releases.reserve(NUMBER, sha, "Model-Version: 7")
    second = releases_for(github_double).reserve(NUMBER, sha, "Model-Version: 8")
    moved = github_double.commit("master", {"a": "b"})
    third = releases_for(github_double).reserve(NUMBER, moved, "Model-Version: 7")

    assert [each.ours for each in (first, second, third)] == [True, False, False]
    assert second.tag == third.tag == first.tag
    assert posted(github_double, "/git/tags") == ["201"]


def test_a_later_attempt_at_the_same_release_finds_its_number(
    releases: Releases, github_double: Double, sha: str
) -> None:
    releases.reserve(NUMBER, sha, "Model-Version: 7")

    assert releases_for(github_double).reserve(NUMBER, sha, "Model-Version: 7").ours
    assert posted(github_double, "/git/refs") == ["201"]


def test_of_many_at_once_exactly_one_gets_the_number(github_double: Double, sha: str) -> None:
    start = Barrier(6)

    def attempt(model: int) -> bool:
        own = releases_for(github_double, patience_seconds=60.0)
        start.wait()
        return own.reserve(NUMBER, sha, f"Model-Version: {model}").ours

    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(attempt, range(6)))

    assert sorted(got) == [False] * 5 + [True]
    assert releases_for(github_double).reservations()[0].message == f"Model-Version: {got.index(True)}"


def test_who_asked_before_the_other_had_it_is_still_reported(
    releases: Releases, github_double: Double, sha: str
) -> None:
    """The other one comes between looking and making."""
    other, between = releases_for(github_double), []

    def the_other_comes(method: str, path: str) -> None:
        if method == "POST" and path.endswith("/git/refs") and not between:
            between.append("come")
            between.append(other.reserve(NUMBER, sha, "Model-Version: 8").ours)

    github_double.server.meanwhile = the_other_comes
    late = releases.reserve(NUMBER, sha, "Model-Version: 7")

    assert between == ["come", True]
    assert (late.ours, late.tag.message) == (False, "Model-Version: 8")
    assert "422" in posted(github_double, "/git/refs")


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault["kind"])
@pytest.mark.parametrize("path", ["/git/refs", "/git/tags"])
def test_after_a_lost_answer_the_number_is_seen_to_be_ones_own(
    releases: Releases, github_double: Double, sha: str, fault: dict[str, str], path: str
) -> None:
    github_double.fault(**fault, times=1, performed=True, methods=["POST"], path=path)

    assert releases.reserve(NUMBER, sha, "Model-Version: 7").ours
    assert posted(github_double, path)[0] == fault["kind"]
    assert len(releases.reservations()) == 1


def test_a_rate_limit_that_ends_soon_is_waited_for_and_one_that_does_not_is_reported(
    github_double: Double, sha: str
) -> None:
    github_double.fault("primary_limit", seconds=1)
    assert releases_for(github_double).reserve(NUMBER, sha, "Model-Version: 7").ours

    github_double.fault("secondary_limit", seconds=3600)
    with pytest.raises(GitHubFault, match=r"making the ref refs/tags/v1\.0\.0: GitHub's secondary rate limit"):
        releases_for(github_double, patience_seconds=2.0).create_tag("v1.0.0", sha, "Model-Version: 7")
    github_double.clear_faults()
    assert releases_for(github_double).tags() == []


@pytest.mark.parametrize("fault", [None, *LOST], ids=lambda fault: fault["kind"] if fault else "none")
def test_a_number_that_is_given_back_is_free_and_giving_it_back_twice_is_no_failure(
    releases: Releases, github_double: Double, sha: str, fault: dict[str, str] | None
) -> None:
    releases.reserve(NUMBER, sha, "Model-Version: 7")
    if fault:
        github_double.fault(**fault, times=1, performed=True, methods=["DELETE"])
    releases.delete(NUMBER)
    releases.delete(NUMBER)

    assert releases.reservations() == []
    assert releases.reserve(NUMBER, sha, "Model-Version: 8").ours


def test_a_ref_that_the_rules_keep_is_not_deleted_and_that_is_reported(
    releases: Releases, github_double: Double, sha: str
) -> None:
    releases.create_tag("v1.0.0", sha, "x")
    definition = (ROOT / ".github" / "rulesets" / "tags.json").read_bytes()
    github_double.request("POST", "rulesets", json.loads(definition)).raise_for_status()

    with pytest.raises(GitHubFault, match="Repository rule violations found Cannot delete this protected ref"):
        releases.delete("refs/tags/v1.0.0")


def test_a_number_below_which_there_is_another_ref_is_refused_in_githubs_words(
    releases: Releases, github_double: Double, sha: str
) -> None:
    releases.reserve(f"{NUMBER}/extra", sha, "x")

    with pytest.raises(GitHubFault, match=r"422 \(Reference update failed"):
        releases.reserve(NUMBER, sha, "Model-Version: 7")


def test_a_tag_is_made_once_for_a_commit_with_its_annotation(
    releases: Releases, github_double: Double, sha: str
) -> None:
    message = "v1.0.0: weather 7\n\nModel-Version: 7\nImage: ana/weather@sha256:0a\n"
    first = releases.create_tag("v1.0.0", sha, message)
    again = releases_for(github_double).create_tag("v1.0.0", sha, message)

    assert first == again == Tag("refs/tags/v1.0.0", sha, message.rstrip())
    assert git(github_double, "cat-file", "-t", "v1.0.0") == "tag"
    assert git(github_double, "for-each-ref", "--format=%(contents)", "refs/tags/v1.0.0") == message.rstrip()
    assert git(github_double, "for-each-ref", "--format=%(contents:trailers:key=Image,valueonly)", "refs/tags/v1.0.0")


def test_a_tag_that_is_another_is_left_and_reported(releases: Releases, github_double: Double, sha: str) -> None:
    releases.create_tag("v1.0.0", sha, "v1.0.0: weather 7")
    git(github_double, "tag", "v2.0.0", "master")
    moved = github_double.commit("master", {"a": "b"})

    with pytest.raises(NotReleased, match=rf"expected .* commit {moved}.* found commit {sha}"):
        releases.create_tag("v1.0.0", moved, "v1.0.0: weather 7")
    with pytest.raises(NotReleased, match=r"'v1.0.0: weather 8'; found .* 'v1.0.0: weather 7'\. A tag is never moved"):
        releases.create_tag("v1.0.0", sha, "v1.0.0: weather 8")
    with pytest.raises(NotReleased, match=r"found commit .* 'no annotation'"):
        releases.create_tag("v2.0.0", sha, "v2.0.0: weather 7")
    assert git(github_double, "rev-parse", "v1.0.0^{commit}") == sha


def test_all_tags_are_read_with_their_commits_annotated_or_not(
    releases: Releases, github_double: Double, sha: str
) -> None:
    releases.create_tag("v1.0.0", sha, "v1.0.0: weather 7")
    moved = github_double.commit("master", {"a": "b"})
    for arguments in (["v1.1.0", "master"], ["other", "master"]):
        git(github_double, "tag", *arguments)
    git(github_double, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "tag", "-am", "Twice", "v1.2.0", "v1.0.0")

    assert releases.tags() == [
        Tag("refs/tags/v1.0.0", sha, "v1.0.0: weather 7"),
        Tag("refs/tags/v1.1.0", moved, ""),
        Tag("refs/tags/v1.2.0", sha, "Twice"),
    ]
    names = [tag.ref.removeprefix("refs/tags/") for tag in releases.tags("refs/tags/")]
    assert names == ["other", "v1.0.0", "v1.1.0", "v1.2.0"]


def test_a_release_is_published_last_with_all_its_files(releases: Releases, github_double: Double, sha: str) -> None:
    releases.create_tag("v1.0.0", sha, "v1.0.0")
    made = put(releases)

    (release,) = shown(github_double)
    assert (made.tag, made.draft, made.files) == ("v1.0.0", False, tuple(sorted(FILES)))
    assert made.url == release["html_url"] == f"{github_double.url}/{github_double.name}/releases/tag/v1.0.0"
    assert (release["name"], release["body"], release["draft"]) == ("Release v1.0.0", "What has changed.", False)
    found = {asset["name"]: content(github_double, asset) for asset in release["assets"]}
    assert found == {name: (file.content_type, file.content) for name, file in FILES.items()}
    assert github_double.request("GET", "releases/latest").json()["tag_name"] == "v1.0.0"
    requests = [request for request in github_double.requests() if not request.startswith("GET")]
    assert requests[-1].startswith("PATCH ")
    assert releases.release_of("v1.0.0") == made


def test_a_release_again_changes_its_words_alone(releases: Releases, github_double: Double) -> None:
    first = put(releases)
    ids = [asset["id"] for asset in shown(github_double)[0]["assets"]]
    other = {name: Attachment(b"built anew", file.content_type) for name, file in FILES.items()}
    again = put(releases_for(github_double), body="Said better.", files=other)

    (release,) = shown(github_double)
    assert (again.id, again.body, release["body"]) == (first.id, "Said better.", "Said better.")
    assert [asset["id"] for asset in release["assets"]] == ids
    assert contents(github_double) == {name: file.content for name, file in FILES.items()}


def test_which_release_is_the_latest_is_as_asked(releases: Releases, github_double: Double) -> None:
    put(releases, "v1.0.0")
    put(releases, "v2.0.0")
    put(releases, "v1.0.1", latest=False)

    assert github_double.request("GET", "releases/latest").json()["tag_name"] == "v2.0.0"
    assert releases.release_of("v3.0.0") is None


def test_a_killed_attempts_draft_is_carried_on_and_its_other_drafts_go(
    releases: Releases, github_double: Double
) -> None:
    """One file of it is whole, one of other content, of one only the beginning has come; a second draft is empty."""
    kept = github_double.request("POST", "releases", {"tag_name": "v1.0.0", "draft": True}).json()
    github_double.request("POST", "releases", {"tag_name": "v1.0.0", "draft": True})
    github_double.request("POST", "releases", {"tag_name": "v9.0.0", "draft": True})
    uploads = kept["upload_url"].partition("{")[0]
    headers = {"Authorization": f"Bearer {github_double.token}", "Content-Type": "text/plain"}

    def upload(name: str, content: bytes) -> int:
        answer = httpx.post(uploads, params={"name": name}, content=content, headers=headers, verify=False)
        return answer.json()["id"]

    whole = upload("whole.txt", b"the same")
    upload("changed.txt", b"of before")
    github_double.server.halve_upload(upload("half.txt", b"12345"))
    found = releases.release_of("v1.0.0")
    assert found is not None
    assert (found.id, found.tag, found.draft, found.url) == (kept["id"], "v1.0.0", True, kept["html_url"])
    assert found.files == ("changed.txt", "whole.txt")
    files = {"whole.txt": b"the same", "changed.txt": b"of now --", "half.txt": b"12345", "new.txt": b"new"}
    made = put(releases, files={name: Attachment(content) for name, content in files.items()})

    assert made.id == kept["id"]
    all_of_them = {(release["tag_name"], release["draft"]): release for release in shown(github_double)}
    assert set(all_of_them) == {("v1.0.0", False), ("v9.0.0", True)}
    assets = {asset["name"]: asset for asset in all_of_them["v1.0.0", False]["assets"]}
    assert {name: content(github_double, asset)[1] for name, asset in assets.items()} == files
    assert assets["whole.txt"]["id"] == whole


def test_an_upload_that_is_left_half_is_made_again(releases: Releases, github_double: Double) -> None:
    github_double.fault("half_uploaded", times=2, methods=["POST"], path="/assets")

    assert put(releases).files == tuple(sorted(FILES))
    assert posted(github_double, "/assets").count("half_uploaded") == 2
    assert contents(github_double) == {name: file.content for name, file in FILES.items()}


def test_a_published_release_gets_what_it_lacks(releases: Releases, github_double: Double) -> None:
    put(releases, files=dict(list(FILES.items())[:1]))
    github_double.server.halve_upload(shown(github_double)[0]["assets"][0]["id"])

    assert put(releases).files == tuple(sorted(FILES))
    assert contents(github_double) == {name: file.content for name, file in FILES.items()}


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault["kind"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/releases"), ("POST", "/assets"), ("PATCH", "/releases/")])
def test_after_a_lost_answer_there_is_one_release_with_each_file_once(
    releases: Releases, github_double: Double, fault: dict[str, str], method: str, path: str
) -> None:
    github_double.fault(**fault, times=1, performed=True, methods=[method], path=path)
    made = put(releases)

    assert github_double.server.faults.shown() == []
    assert not made.draft
    assert contents(github_double) == {name: file.content for name, file in FILES.items()}


def test_two_at_once_make_one_release(github_double: Double) -> None:
    start = Barrier(3)

    def attempt(_: int) -> Release:
        own = releases_for(github_double, patience_seconds=60.0)
        start.wait()
        return put(own)

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(attempt, range(3)))

    assert len({release.id for release in made}) == 1
    assert contents(github_double) == {name: file.content for name, file in FILES.items()}


def test_another_attempts_upload_in_between_is_no_failure(releases: Releases, github_double: Double) -> None:
    other, between = releases_for(github_double), []

    def the_other_comes(method: str, path: str) -> None:
        if method == "POST" and path.endswith("/assets") and not between:
            between.append("come")
            between.append(put(other).files)

    github_double.server.meanwhile = the_other_comes

    assert put(releases).files == tuple(sorted(FILES))
    assert between == ["come", tuple(sorted(FILES))]
    assert "422" in posted(github_double, "/assets")


@pytest.mark.parametrize(
    "do",
    [
        lambda releases, sha: releases.reserve(NUMBER, sha, "x"),
        lambda releases, sha: releases.create_tag("v1.0.0", sha, "x"),
        lambda releases, sha: put(releases),
    ],
    ids=["reserve", "create_tag", "put_release"],
)
def test_a_token_that_may_only_read_is_told_which_permission_it_lacks(github_double: Double, sha: str, do: Any) -> None:
    with pytest.raises(ConfigurationError, match="GITHUB_TOKEN lacks a permission on ana/weather; it needs contents="):
        do(releases_for(github_double, github_double.read_token), sha)
    with pytest.raises(ConfigurationError, match="it needs contents: write"):
        do(releases_for(github_double, github_double.outsider_token), sha)


def test_a_workflows_token_does_not_tag_workflow_files_that_are_on_no_branch(
    releases: Releases, github_double: Double
) -> None:
    before = github_double.commit("master", {".github/workflows/ci.yml": "before\n"})
    github_double.commit("master", {".github/workflows/ci.yml": "after\n"})

    with pytest.raises(ConfigurationError, match="workflows=write"):
        releases.create_tag("v1.0.0", before, "x")
    assert releases.create_tag("v1.0.0", github_double.head("master"), "x")
    assert releases_for(github_double, github_double.peer_token).create_tag("v1.0.1", before, "x")


def test_what_github_does_not_take_is_reported(releases: Releases, github_double: Double) -> None:
    with pytest.raises(GitHubFault, match="body is too long"):
        put(releases, body="x" * 125_001)
    with pytest.raises(GitHubFault, match=r"422 \(Could not verify object"):
        releases.create_tag("v1.0.0", "f" * 40, "x")
    with pytest.raises(ConfigurationError, match="404"):
        releases.dispatch_workflow("none.yml", "master", {})
    for name in ("a b.txt", "", "a.", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="expected a name of letters"):
            put(releases, files={name: Attachment(b"")})


def test_workflows_are_started_by_name(releases: Releases, github_double: Double) -> None:
    github_double.commit("master", {".github/workflows/release.yml": "on: workflow_dispatch\n"})
    releases.dispatch_workflow("release.yml", "master", {"model_version": "3"})

    message = httpx.get(f"{github_double.url}/_double/dispatches", verify=False).json()["dispatches"]
    assert message == [
        {"workflow": "release.yml", "ref": "master", "event_type": "", "payload": {"model_version": "3"}},
    ]


def test_github_com_and_enterprise_are_reached_by_their_addresses(github_double: Double, sha: str) -> None:
    settings = github_double.settings()
    for number, address in enumerate((github_double.url, f"{github_double.url}/api/v3"), start=1):
        own = Releases(GitHub(type(settings)(address, settings.server_url, settings.repository, settings.token)))
        own.create_tag(f"v{number}.0.0", sha, "x")
        assert put(own, f"v{number}.0.0").files == tuple(sorted(FILES))


def test_an_annotation_that_the_checkout_has_is_not_asked_for(github_double: Double) -> None:
    sha = github_double.head("master")
    message = "weather v1.0.0\n\nChallenge: weather\nModel-Version: 3\n"
    Releases(GitHub(github_double.settings())).create_tag("v1.0.0", sha, message)
    asked = len(github_double.requests())
    releases = Releases(GitHub(github_double.settings()), History(github_double.git).tag_object)
    assert [(tag.sha, tag.message) for tag in releases.tags()] == [(sha, message.rstrip())]
    assert not [line for line in github_double.requests()[asked:] if "/git/tags/" in line]
