"""A workspace is a clean checkout of the requested commit, and of no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clients.git import Git
from tests.git_host import git_host

ROOT = Path(__file__).resolve().parents[2]


def git(directory: Path, *arguments: str) -> str:
    return Git(directory, settings={"user.name": "Test", "user.email": "test@rps.invalid"}).text(*arguments)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits on `main`, whose pipeline needs no package."""
    path = tmp_path / "repository"
    (path / "requirements").mkdir(parents=True)
    (path / "requirements" / "pipelines.txt").write_text("# nothing is needed\n")
    git(path.parent, "init", "--quiet", "--initial-branch=main", str(path))
    for content in ("first", "second"):
        (path / "code.py").write_text(content)
        git(path, "add", ".")
        git(path, "commit", "--quiet", "-m", content)
    return path


def make(
    home: Path, repository: Path | str, sha: str, run_id: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.workspace", "--home", str(home), f"--sha={sha}", "--run-id", run_id]
    environment = {**os.environ, "HOME": str(home), "RPS_REPOSITORY": str(repository), **settings}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def made(home: Path, repository: Path, sha: str, run_id: str) -> Path:
    done = make(home, repository, sha, run_id)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout.splitlines()[-1])["directory"])


def test_the_workspace_holds_the_commit_that_was_asked_for(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD~1")
    directory = made(tmp_path / "home", repository, first, "a")
    assert (directory / "code.py").read_text() == "first"
    assert git(directory, "rev-parse", "HEAD") == first
    assert git(directory, "status", "--porcelain") == ""
    assert git(directory, "remote", "get-url", "origin") == str(repository)


def test_two_runs_never_share_a_workspace_even_with_ids_that_look_alike(repository: Path, tmp_path: Path) -> None:
    sha = git(repository, "rev-parse", "HEAD")
    directories = {made(tmp_path / "home", repository, sha, run_id) for run_id in ("a/b", "a:b", "a_b", "../a b")}
    assert len(directories) == 4
    assert {directory.parent for directory in directories} == {tmp_path / "home" / "runs"}


def test_a_run_finds_its_workspace_again_with_its_files(repository: Path, tmp_path: Path) -> None:
    sha = git(repository, "rev-parse", "HEAD")
    directory = made(tmp_path / "home", repository, sha, "a")
    (directory / "data").mkdir()
    assert made(tmp_path / "home", repository, sha, "a") == directory
    assert (directory / "data").is_dir()


def test_a_half_made_workspace_is_made_again(repository: Path, tmp_path: Path) -> None:
    sha = git(repository, "rev-parse", "HEAD")
    directory = made(tmp_path / "home", repository, sha, "a")
    (directory / ".git" / "rps-complete").unlink()
    (directory / "code.py").unlink()
    assert (made(tmp_path / "home", repository, sha, "a") / "code.py").read_text() == "second"


def test_head_is_the_newest_commit_of_the_repository_at_each_new_run(repository: Path, tmp_path: Path) -> None:
    assert (made(tmp_path / "home", repository, "HEAD", "a") / "code.py").read_text() == "second"
    (repository / "code.py").write_text("third")
    git(repository, "commit", "--quiet", "-am", "third")
    assert (made(tmp_path / "home", repository, "HEAD", "b") / "code.py").read_text() == "third"
    assert (made(tmp_path / "home", repository, "HEAD", "a") / "code.py").read_text() == "second"


@pytest.mark.parametrize("sha", ["0" * 40, "1234567", "main", "--upload-pack=x", "HEAD~1", "abc"])
def test_a_commit_that_does_not_exist_or_is_no_commit_is_refused_for_good(
    repository: Path, tmp_path: Path, sha: str
) -> None:
    done = make(tmp_path / "home", repository, sha, "a")
    assert done.returncode == 64
    assert sha in done.stderr


def test_a_commit_on_no_branch_is_refused_as_a_forks_would_be(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").write_text("from a fork")
    git(repository, "commit", "--quiet", "-am", "from a fork")
    fork = git(repository, "rev-parse", "HEAD")
    git(repository, "update-ref", "refs/pull/7/head", fork)
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    done = make(tmp_path / "home", repository, fork, "a")
    assert done.returncode == 64
    assert "is on no branch" in done.stderr


def test_another_commit_under_a_used_run_id_is_refused(repository: Path, tmp_path: Path) -> None:
    made(tmp_path / "home", repository, git(repository, "rev-parse", "HEAD"), "a")
    done = make(tmp_path / "home", repository, git(repository, "rev-parse", "HEAD~1"), "a")
    assert done.returncode == 64
    assert "use a new id" in done.stderr


def test_a_commit_without_pinned_requirements_is_refused(repository: Path, tmp_path: Path) -> None:
    git(repository, "rm", "--quiet", "requirements/pipelines.txt")
    git(repository, "commit", "--quiet", "-m", "no requirements")
    done = make(tmp_path / "home", repository, git(repository, "rev-parse", "HEAD"), "a")
    assert done.returncode == 64
    assert "requirements/pipelines.txt" in done.stderr


def test_a_repository_that_is_not_there_is_reported_by_name(tmp_path: Path) -> None:
    done = make(tmp_path / "home", tmp_path / "nowhere", "HEAD", "a")
    assert done.returncode == 64
    assert "nowhere" in done.stderr


def test_a_requirement_without_a_hash_is_refused_and_leaves_no_environment(repository: Path, tmp_path: Path) -> None:
    (repository / "requirements" / "pipelines.txt").write_text("six==1.16.0\n")
    git(repository, "commit", "--quiet", "-am", "no hash")
    done = make(tmp_path / "home", repository, git(repository, "rev-parse", "HEAD"), "a")
    assert done.returncode == 64
    assert "hash" in done.stderr.lower()
    assert not list((tmp_path / "home" / "envs").glob("*/rps-complete"))


def test_an_environment_is_built_once_per_content(repository: Path, tmp_path: Path) -> None:
    sha = git(repository, "rev-parse", "HEAD")
    first, second = (make(tmp_path / "home", repository, sha, run_id) for run_id in "ab")
    assert "this is done once" in first.stdout
    assert "this is done once" not in second.stdout


def test_the_workspace_of_a_shallow_clone_can_be_made(repository: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{repository}", shallow], check=True)
    sha = git(repository, "rev-parse", "HEAD")
    assert (made(tmp_path / "home", shallow, sha, "a") / "code.py").read_text() == "second"


def test_a_checkout_that_stands_on_no_branch_can_be_run(repository: Path, tmp_path: Path) -> None:
    git(repository, "switch", "--quiet", "--detach")
    (repository / "code.py").write_text("detached")
    git(repository, "commit", "--quiet", "-am", "detached")
    for sha in ("HEAD", git(repository, "rev-parse", "HEAD")):
        assert (made(tmp_path / "home", repository, sha, sha) / "code.py").read_text() == "detached"


@pytest.mark.parametrize("depth", [(), ("--depth=1",)])
def test_a_branch_named_as_our_own_references_does_no_harm(repository: Path, tmp_path: Path, depth: tuple[str]) -> None:
    (repository / "code.py").write_text("detached")
    git(repository, "commit", "--quiet", "-am", "detached")
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", *depth, f"file://{repository}", checkout], check=True)
    git(checkout, "branch", "rps")
    git(checkout, "switch", "--quiet", "--detach")
    (checkout / "code.py").write_text("on no branch")
    git(checkout, "commit", "--quiet", "-am", "on no branch")
    for sha in ("HEAD", git(checkout, "rev-parse", "HEAD")):
        assert (made(tmp_path / "home", checkout, sha, sha) / "code.py").read_text() == "on no branch"


def test_a_commit_of_a_detached_head_is_no_longer_run_once_the_checkout_has_left_it(
    repository: Path, tmp_path: Path
) -> None:
    git(repository, "switch", "--quiet", "--detach")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "on no branch")
    sha = git(repository, "rev-parse", "HEAD")
    made(tmp_path / "home", repository, sha, "a")
    git(repository, "switch", "--quiet", "main")
    assert make(tmp_path / "home", repository, sha, "b").returncode == 64


TOKEN = "ghs-1-TOKEN"


def shown(home: Path, done: subprocess.CompletedProcess[str], trace: Path) -> str:
    """What a run says, the command lines that it leads to, and what it leaves in Git's settings."""
    kept = [*home.glob("runs/*/.git/config"), home / "mirror.git" / "config"]
    return "\n".join([done.stdout, done.stderr, trace.read_text(), *(path.read_text() for path in kept)])


@pytest.mark.parametrize(
    ("sha", "code", "message"),
    [
        ("HEAD", 75, "of https://host/x.git failed"),
        ("0" * 40, 64, "is on no branch of https://host/x.git"),
    ],
)
def test_a_failure_shows_the_address_of_the_repository_without_credentials(
    repository: Path, tmp_path: Path, sha: str, code: int, message: str
) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    away = "http://127.0.0.1:9/" if sha == "HEAD" else f"file://{repository.parent}/"
    (repository.parent / "x.git").symlink_to(repository)
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{away}.insteadOf", "GIT_TRACE": str(trace)}
    address = f"https://bot:{TOKEN}@host/x.git"
    done = make(home, address, sha, "a", **settings, GIT_CONFIG_VALUE_0="https://host/")
    assert done.returncode == code
    assert message in done.stderr
    assert TOKEN not in shown(home, done, trace)


def test_credentials_of_the_address_fetch_the_repository_and_are_left_nowhere(repository: Path, tmp_path: Path) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    with git_host(tmp_path, login=f"bot:{TOKEN}") as host:
        address = f"{host.url.replace('//', f'//bot:{TOKEN}@')}/repository"
        done = make(home, address, "HEAD", "a", GIT_TRACE=str(trace), GITHUB_TOKEN="another")
    assert done.returncode == 0, done.stderr
    assert set(host.authorizations) == {host.required}
    assert f"url = {host.url}/repository" in shown(home, done, trace)
    assert TOKEN not in shown(home, done, trace)


def test_the_token_fetches_from_the_github_enterprise_that_is_named(repository: Path, tmp_path: Path) -> None:
    with git_host(tmp_path, login=f"x-access-token:{TOKEN}") as host:
        done = make(
            tmp_path / "home", f"{host.url}/repository", "HEAD", "a", GITHUB_TOKEN=TOKEN, GITHUB_SERVER_URL=host.url
        )
    assert done.returncode == 0, done.stderr
    assert set(host.authorizations) == {host.required}


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_wrong_configuration(tmp_path: Path, status: int) -> None:
    with git_host(tmp_path, refusal=status) as host:
        done = make(tmp_path / "home", f"{host.url}/x.git", "HEAD", "a", GITHUB_TOKEN=TOKEN, GITHUB_SERVER_URL=host.url)
    assert done.returncode == 64
    assert "GITHUB_TOKEN" in done.stderr
    assert TOKEN not in done.stderr
    assert host.authorizations[0].startswith("Basic ")


def test_a_workspace_needs_the_standard_library_and_what_the_image_of_airflow_holds(tmp_path: Path) -> None:
    for path in re.findall(r"\b(?:clients|pipelines)/\w+\.py", (ROOT / "deploy/airflow/Dockerfile").read_text()):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import pipelines.workspace"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
