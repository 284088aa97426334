"""Who Git signs in as and where, what its failures mean, and that no credential gets where it can be read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.git import Git, Remote, data_repository, open_branch
from tests.git_host import git_host

TOKEN = "TOKEN"


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a host, with an empty repository `x.git` that may be pushed to."""
    for name in ("GITHUB_TOKEN", "GITHUB_SERVER_URL", "GITHUB_API_URL"):
        monkeypatch.delenv(name, raising=False)
    bare = tmp_path / "hosted" / "x.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    return bare.parent


def recorded(directory: Path) -> str:
    """A commit on a branch of RPS_REPOSITORY."""
    directory.mkdir()
    (directory / "file").write_text("content\n\n")
    branch = open_branch(data_repository(), "data/weather", directory)
    commit = branch.append(["file"], "Record", done_already=lambda _: None)
    assert branch.fetch() == commit
    assert branch.read(commit, "file") == b"content\n\n"
    return commit


@pytest.mark.parametrize(
    ("text", "url", "credentials"),
    [
        ("https://bot:TOKEN@host/x.git", "https://host/x.git", "bot:TOKEN"),
        ("https://TOKEN@host:8443/x", "https://host:8443/x", "TOKEN:"),
        ("https://a%40b:p%2Fw@host/x", "https://host/x", "a@b:p/w"),
        ("https://host/x@y", "https://host/x@y", ""),
        ("ssh://git@host/x.git", "ssh://git@host/x.git", ""),
        ("ssh://git:TOKEN@host/x.git", "ssh://git@host/x.git", ""),
        ("git@host:x.git", "git@host:x.git", ""),
        ("../x", "/srv/x", ""),
        (".", "/srv/here", ""),
    ],
)
def test_an_address_is_kept_apart_from_its_credentials(text: str, url: str, credentials: str) -> None:
    remote = Remote.parse(text, Path("/srv/here"))
    assert (remote.url, remote.credentials) == (url, credentials)
    assert TOKEN not in repr(remote)


def test_credentials_of_the_address_sign_in_and_are_written_nowhere(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    monkeypatch.setenv("GITHUB_TOKEN", "another")
    with git_host(hosted, login="bot:TOKEN") as host:
        monkeypatch.setenv("GITHUB_SERVER_URL", host.url)
        monkeypatch.setenv("RPS_REPOSITORY", f"{host.url.replace('//', '//bot:TOKEN@')}/x.git")
        recorded(tmp_path / "scratch")
    assert set(host.authorizations) == {host.required}
    assert "git-remote-http rps" in trace.read_text()
    assert TOKEN not in trace.read_text()
    assert TOKEN not in (tmp_path / "scratch" / ".git" / "config").read_text()


@pytest.mark.parametrize(("setting", "path"), [("GITHUB_SERVER_URL", ""), ("GITHUB_API_URL", "/api/v3")])
def test_the_token_signs_in_at_the_github_enterprise_that_is_named(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, path: str
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    with git_host(hosted, login=f"x-access-token:{TOKEN}") as host:
        monkeypatch.setenv(setting, f"{host.url}{path}")
        monkeypatch.setenv("RPS_REPOSITORY", f"{host.url}/x.git")
        recorded(tmp_path / "scratch")
    assert set(host.authorizations) == {host.required}


def test_the_token_goes_to_no_other_host(hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    with git_host(hosted) as host:
        monkeypatch.setenv("RPS_REPOSITORY", f"{host.url}/x.git")
        recorded(tmp_path / "scratch")
    assert set(host.authorizations) == {""}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ConfigurationError), (403, ConfigurationError), (404, ConfigurationError), (503, PassingFault)],
)
def test_a_refusal_lasts_and_an_outage_passes(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[RpsError]
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    with git_host(hosted, refusal=status) as host:
        monkeypatch.setenv("GITHUB_SERVER_URL", host.url)
        monkeypatch.setenv("RPS_REPOSITORY", f"{host.url}/x.git")
        with pytest.raises(kind, match=f"git ls-remote of {host.url}/x.git failed"):
            open_branch(data_repository(), "data/weather", tmp_path).fetch()
    assert host.authorizations[0].startswith("Basic ")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: unable to access 'https://host/x.git/': Could not resolve host: host", PassingFault),
        ("error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502", PassingFault),
        ("fatal: unable to access 'x': Received HTTP code 407 from proxy after CONNECT", ConfigurationError),
        ("fatal: Authentication failed for 'https://host/x.git/'", ConfigurationError),
        ("fatal: could not read Username for 'https://host': terminal prompts disabled", ConfigurationError),
        ("ERROR: Repository not found.", ConfigurationError),
        ("remote: Repository not found. fatal: repository 'https://host/x.git/' not found", ConfigurationError),
        ("git@host: Permission denied (publickey).", ConfigurationError),
        ("Host key verification failed.", ConfigurationError),
        ("fatal: unable to access 'x': server certificate verification failed. CAfile: none", ConfigurationError),
        (" ! [remote rejected] x -> data/weather (protected branch hook declined)", ConfigurationError),
        (" ! [remote rejected] x -> data/weather (unpacker error)", PassingFault),
        ("error: file write error: No space left on device", PassingFault),
        ("fatal: Not a valid object name x:file", ConfigurationError),
        ("something new", PassingFault),
    ],
)
def test_what_git_says_decides_whether_to_try_again(tmp_path: Path, said: str, kind: type[RpsError]) -> None:
    done = subprocess.CompletedProcess(["git", "-C", str(tmp_path), "fetch"], 128, b"", said.encode())
    assert type(Git(tmp_path).fault(done)) is kind


def test_git_is_run_in_its_directory_even_from_a_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ours", "hooks"):
        subprocess.run(["git", "init", "--quiet", tmp_path / name], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooks" / ".git"))
    assert Git(tmp_path / "ours").text("rev-parse", "--show-toplevel") == str(tmp_path / "ours")


def test_no_hook_is_run(tmp_path: Path) -> None:
    git = Git(tmp_path, settings={"user.name": "n", "user.email": "e@x"})
    git.text("init", "--quiet")
    hook = tmp_path / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    assert git.succeeds("commit", "--quiet", "--allow-empty", "-m", "x")


@pytest.mark.parametrize(
    ("host", "sent"), [("github.com", True), ("git.example", False), ("github.com.example", False)]
)
def test_without_another_host_in_the_environment_the_token_is_for_github(
    host: str, sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_SERVER_URL", "GITHUB_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_TOKEN", "ghp-token")
    url = f"https://{host}/ana/weather.git"
    found = Git(tmp_path, Remote(url)).run("config", "--get-urlmatch", "http.extraHeader", url)
    assert (found.returncode == 0) is sent
    assert found.stdout.startswith(b"Authorization: Basic ") is sent
