"""What the double of GitHub does with refs, tags, releases and dispatches is what GitHub does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import githubkit
import httpx
import pytest

from doubles.github.fixture import Double, serving

CREATED, NOT_FOUND, INVALID = 201, 404, 422


def create_ref(double: Double, name: str, sha: str, token: str | None = None) -> httpx.Response:
    return double.request("POST", "git/refs", {"ref": name, "sha": sha}, token=token)


def create_release(double: Double, tag: str, **options: object) -> httpx.Response:
    return double.request("POST", "releases", {"tag_name": tag, **options})


def upload(double: Double, release: dict, name: str, content: bytes, *, url: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {double.token}", "Content-Type": "text/plain"}
    address = url or release["upload_url"].partition("{")[0]
    return httpx.post(address, params={"name": name}, content=content, headers=headers, verify=False)


def test_a_ref_is_made_where_git_has_it_and_only_once(github_double: Double) -> None:
    sha = github_double.head("master")
    made = create_ref(github_double, "refs/rps/releases/v1.0.0", sha)
    again = create_ref(github_double, "refs/rps/releases/v1.0.0", sha)

    assert (made.status_code, made.json()["object"]["sha"]) == (CREATED, sha)
    assert (again.status_code, again.json()["message"]) == (INVALID, "Reference already exists")
    command = ["git", "-C", github_double.git, "rev-parse", "refs/rps/releases/v1.0.0"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == sha


@pytest.mark.parametrize("name", ["heads/x", "refs/x", "x", "refs/heads/a..b", "refs/heads/a b", "refs/heads/"])
def test_a_ref_has_a_whole_name(github_double: Double, name: str) -> None:
    assert create_ref(github_double, name, github_double.head("master")).status_code == INVALID


def test_a_ref_names_an_object_that_is_there(github_double: Double) -> None:
    assert create_ref(github_double, "refs/tags/v1", "f" * 40).json()["message"] == "Object does not exist"


def test_refs_are_listed_by_how_their_names_start(github_double: Double) -> None:
    for name in ("v1.0.0", "v1.1.0", "w"):
        create_ref(github_double, f"refs/tags/{name}", github_double.head("master"))

    def listed(path: str) -> list[str]:
        return [each["ref"] for each in github_double.request("GET", f"git/matching-refs/{path}").json()]

    assert listed("tags/v1") == ["refs/tags/v1.0.0", "refs/tags/v1.1.0"]
    assert listed("heads/de") == ["refs/heads/dev"]
    assert listed("none") == []
    assert github_double.request("GET", "git/ref/tags/v1").status_code == NOT_FOUND
    assert github_double.request("GET", "git/ref/tags/v1.0.0").status_code == 200


def test_a_ref_is_moved_forward_by_force_anywhere_and_deleted_once(github_double: Double) -> None:
    first = github_double.head("master")
    later = github_double.commit("master", {"a": "b"})
    create_ref(github_double, "refs/tags/v1", first)

    def move(sha: str, **options: object) -> httpx.Response:
        return github_double.request("PATCH", "git/refs/tags/v1", {"sha": sha, **options})

    assert move(later).json()["object"]["sha"] == later
    assert move(first).json()["message"] == "Update is not a fast forward"
    assert move(first, force=True).json()["object"]["sha"] == first
    assert github_double.request("DELETE", "git/refs/tags/v1").status_code == 204
    assert github_double.request("DELETE", "git/refs/tags/v1").json()["message"] == "Reference does not exist"
    assert move(first).json()["message"] == "Reference does not exist"


def test_an_annotation_is_gits_own_and_says_who_and_when(github_double: Double) -> None:
    tag = {"tag": "v1", "message": "Höher\n\nImage: a\n", "object": github_double.head("master"), "type": "commit"}
    tagger = {"name": "Ana", "email": "ana@example.org", "date": "2026-01-02T03:04:05+01:00"}
    made = github_double.request("POST", "git/tags", {**tag, "tagger": tagger}).json()
    default = github_double.request("POST", "git/tags", tag, token=github_double.token).json()

    assert made == github_double.request("GET", f"git/tags/{made['sha']}").json()
    assert made["tagger"] == {**tagger, "date": "2026-01-02T02:04:05Z"}
    assert (made["message"], default["tagger"]["name"]) == (tag["message"], "github-actions[bot]")
    assert github_double.request("GET", "git/matching-refs/tags").json() == []
    assert github_double.request("GET", f"git/tags/{tag['object']}").status_code == NOT_FOUND


def test_a_draft_is_found_in_the_list_alone_by_those_who_may_write(github_double: Double) -> None:
    first = create_release(github_double, "v1.0.0", draft=True).json()
    second = create_release(github_double, "v1.0.0", draft=True).json()

    def ids(token: str) -> list[int]:
        return [each["id"] for each in github_double.request("GET", "releases", token=token).json()]

    assert ids(github_double.token) == [second["id"], first["id"]]
    assert ids(github_double.read_token) == []
    assert github_double.request("GET", "releases/tags/v1.0.0").status_code == NOT_FOUND
    assert github_double.request("GET", "git/ref/tags/v1.0.0").status_code == NOT_FOUND
    hidden = github_double.request("GET", f"releases/{first['id']}", token=github_double.read_token)
    assert hidden.status_code == NOT_FOUND


def test_publishing_makes_the_tag_and_is_refused_for_a_tag_that_has_a_release(github_double: Double) -> None:
    drafts = [create_release(github_double, "v1.0.0", draft=True).json() for _ in range(2)]
    answers = [github_double.request("PATCH", f"releases/{each['id']}", {"draft": False}) for each in drafts]
    published = create_release(github_double, "v1.0.0")

    assert [answer.status_code for answer in (*answers, published)] == [200, INVALID, INVALID]
    assert published.json()["errors"][0]["code"] == "already_exists"
    assert github_double.request("GET", "git/ref/tags/v1.0.0").json()["object"]["sha"] == github_double.head("master")
    assert github_double.request("GET", "releases/tags/v1.0.0").json()["id"] == drafts[0]["id"]


def test_the_latest_release_is_the_one_that_was_made_it(github_double: Double) -> None:
    assert github_double.request("GET", "releases/latest").status_code == NOT_FOUND
    first = create_release(github_double, "v1.0.0").json()
    create_release(github_double, "v1.0.1", make_latest="false")
    create_release(github_double, "v2.0.0-rc", prerelease=True)
    assert github_double.request("GET", "releases/latest").json()["id"] == first["id"]
    second = create_release(github_double, "v2.0.0").json()
    assert github_double.request("GET", "releases/latest").json()["id"] == second["id"]
    assert github_double.request("DELETE", f"releases/{second['id']}").status_code == 204
    assert github_double.request("GET", "releases/latest").json()["tag_name"] == "v1.0.1"


def test_files_are_uploaded_to_their_own_address_listed_read_and_deleted(github_double: Double) -> None:
    release = create_release(github_double, "v1.0.0", draft=True).json()
    asset = upload(github_double, release, "a b.txt", b"\x00\xff").json()
    again = upload(github_double, release, "a.b.txt", b"x")
    download = httpx.get(
        asset["url"],
        headers={"Authorization": f"Bearer {github_double.token}", "Accept": "application/octet-stream"},
        verify=False,
    )

    assert (asset["name"], asset["size"], asset["state"]) == ("a.b.txt", 2, "uploaded")
    assert (again.status_code, again.json()["errors"][0]["code"]) == (INVALID, "already_exists")
    assert (download.content, download.headers["content-type"]) == (b"\x00\xff", "text/plain")
    listed = github_double.request("GET", f"releases/{release['id']}/assets").json()
    assert [each["id"] for each in listed] == [asset["id"]]
    assert github_double.request("DELETE", f"releases/assets/{asset['id']}").status_code == 204
    assert github_double.request("GET", f"releases/assets/{asset['id']}").status_code == NOT_FOUND


def test_the_address_of_the_api_takes_no_file(github_double: Double) -> None:
    github_double.expected_violations.append("has no such operation")
    release = create_release(github_double, "v1.0.0", draft=True).json()

    assert upload(github_double, release, "a.txt", b"x", url=f"{release['url']}/assets").status_code == NOT_FOUND


def test_an_upload_that_fails_behind_the_door_leaves_an_empty_file(github_double: Double) -> None:
    release = create_release(github_double, "v1.0.0", draft=True).json()
    github_double.fault("half_uploaded", times=1, path="/assets")

    assert upload(github_double, release, "a.txt", b"x").status_code == 502
    (asset,) = github_double.request("GET", f"releases/{release['id']}/assets").json()
    assert (asset["state"], asset["size"], asset["digest"]) == ("starter", 0, None)
    assert upload(github_double, release, "a.txt", b"x").status_code == INVALID


def test_a_reader_makes_none_of_it(github_double: Double) -> None:
    sha, token = github_double.head("master"), github_double.read_token
    asked = {
        "git/refs": {"ref": "refs/tags/v1", "sha": sha},
        "git/tags": {"tag": "v1", "message": "x", "object": sha, "type": "commit"},
        "releases": {"tag_name": "v1"},
        "dispatches": {"event_type": "drift"},
    }
    for path, body in asked.items():
        answer = github_double.request("POST", path, body, token=token)
        assert (answer.status_code, "contents=write" in answer.headers["x-accepted-github-permissions"]) == (403, True)


def test_what_is_started_is_kept_and_what_is_not_there_is_not_started(github_double: Double) -> None:
    github_double.commit("dev", {".github/workflows/release.yml": "on: workflow_dispatch\n"})
    path = "actions/workflows/release.yml/dispatches"

    assert github_double.request("POST", path, {"ref": "dev", "inputs": {"a": "b"}}).status_code == 204
    assert github_double.request("POST", path, {"ref": "master"}).status_code == NOT_FOUND
    assert github_double.request("POST", path, {"ref": "none"}).json()["message"] == "No ref found for: none"
    shown = httpx.get(f"{github_double.url}/_double/dispatches", verify=False).json()["dispatches"]
    assert shown == [{"workflow": "release.yml", "ref": "dev", "event_type": "", "payload": {"a": "b"}}]


def test_githubs_own_client_understands_the_answers(github_double: Double) -> None:
    client = githubkit.GitHub(github_double.token, base_url=github_double.url, http_cache=False)
    owner, name = github_double.name.split("/")
    release = client.rest.repos.create_release(owner, name, tag_name="v1.0.0").parsed_data
    upload(github_double, {"upload_url": release.upload_url}, "a.txt", b"x")

    (asset,) = client.rest.repos.list_release_assets(owner, name, release.id).parsed_data
    assert (asset.name, client.rest.repos.get_latest_release(owner, name).parsed_data.id) == ("a.txt", release.id)
    (reference,) = client.rest.git.list_matching_refs(owner, name, "tags").parsed_data
    assert reference.object_.sha == github_double.head("master")


def test_releases_outlive_the_process(github_double: Double, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with serving(github_double.git, state_file=state) as first:
        release = create_release(first, "v1.0.0").json()
        upload(first, release, "a.txt", b"\x00\xff")
    with serving(github_double.git, state_file=state) as second:
        (asset,) = second.request("GET", "releases/latest").json()["assets"]
        headers = {"Authorization": f"Bearer {second.token}", "Accept": "application/octet-stream"}
        assert httpx.get(asset["url"], headers=headers, verify=False).content == b"\x00\xff"
