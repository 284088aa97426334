"""Git as a store of records: a branch is read, and appended to, through a scratch repository and a remote.

Never prompts, never forces, never touches a checked-out branch or a working tree. No secret gets on a command line.
"""

from __future__ import annotations

import base64
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipelines.errors import ConfigurationError, PassingFault, StageError

GITHUB = "https://github.com/"
PUSH_ATTEMPTS = 8
"""How often somebody else may push in between before a stage gives up (and is retried by Airflow)."""
_REMOTE = "rps-records"
"""The remote's name on command lines; its address, which may hold a password, is given by the environment."""
_TIMEOUT_SECONDS = 120
_AUTHOR = ("RPS pipeline", "pipeline@rps.invalid")
_REFUSALS = (
    "authentication failed", "could not read username", "could not read password", "permission denied",
    "terminal prompts disabled", "does not appear to be a git repository", "not found",
    "does not exist", "dubious ownership", "access denied", "error: 401", "error: 403", "invalid credentials",
    "not authorized", "host key verification failed", "unable to find remote helper",
)  # fmt: skip


class GitFailed(Exception):
    """A git command ended with another code than 0; what it said is the message."""


@dataclass(frozen=True)
class Remote:
    """A repository's address, with and without the credentials that somebody may have put in it."""

    url: str

    @property
    def shown(self) -> str:
        parts = urlsplit(self.url) if "://" in self.url else None
        if parts is None or "@" not in parts.netloc or parts.scheme == "ssh":
            return self.url
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def data_repository() -> Remote:
    """Where dataset branches live: `RPS_REPOSITORY`, else the current repository's `origin`, else that repository.

    Raises ConfigurationError when there is none.
    """
    asked = os.environ.get("RPS_REPOSITORY", "")
    if asked:
        return Remote(_absolute(asked, Path.cwd()))
    try:
        root = Path(_git("rev-parse", "--show-toplevel", directory=Path.cwd()))
    except GitFailed as error:
        raise ConfigurationError(f"set RPS_REPOSITORY, or run in a Git repository: {error}") from error
    try:
        origin = _git("remote", "get-url", "origin", directory=root)
    except GitFailed:
        return Remote(str(root))
    return Remote(_absolute(origin, root))


def _absolute(url: str, base: Path) -> str:
    """A relative path means something else in the scratch repository; `host:path` and URLs do not."""
    is_path = "://" not in url and (":" not in url.split("/", maxsplit=1)[0])
    return str((base / url).resolve()) if is_path else url


@dataclass(frozen=True)
class RecordBranch:
    """One branch of a remote, as a history of records; ``directory`` is a scratch repository (see `open_branch`).

    Methods raise ConfigurationError (refused) or PassingFault (unreachable, lost half-way).
    """

    remote: Remote
    name: str
    directory: Path

    def fetch(self) -> str | None:
        """Bring the branch's whole history here; its newest commit, or None when the branch is not there yet."""
        reference = f"refs/heads/{self.name}"
        if not self._remote("tell its branches", "ls-remote", _REMOTE, reference):
            return None
        self._remote("give its branch", "fetch", "--quiet", "--no-tags", _REMOTE, f"+{reference}:refs/rps/tip")
        return self._local("rev-parse", "refs/rps/tip")

    def commits_saying(self, line: str, tip: str) -> list[str]:
        """Commits up to ``tip`` whose message holds that text, newest first."""
        return self._local("log", "--format=%H", "--fixed-strings", f"--grep={line}", tip).split()

    def read(self, commit: str, path: str) -> bytes | None:
        """A file as of a commit, or None when it has none there."""
        try:
            return self._git("cat-file", "blob", f"{commit}:{path}").encode()
        except GitFailed:
            return None

    def append(self, files: Iterable[str], message: str, *, done_already: Callable[[str], str | None]) -> str:
        """Add one commit with these files of ``directory`` to whatever the branch holds, and push it; its SHA.

        done_already: given the branch's newest commit, the one that makes another needless, if there is one. It is
        asked again whenever somebody else has pushed in between; the commit is then made anew on top of theirs.
        """
        paths = list(files)
        for attempt in range(PUSH_ATTEMPTS):
            tip = self.fetch()
            done = done_already(tip) if tip else None
            if done:
                return done
            commit = self._commit(tip, paths, message)
            try:
                self._git("push", "--no-verify", _REMOTE, f"{commit}:refs/heads/{self.name}")
            except GitFailed as error:
                if not self._was_overtaken(tip, error):
                    raise self._told("take the commit", error) from error
                time.sleep(random.uniform(0.0, min(2.0, 0.1 * 2**attempt)))  # noqa: S311 - jitter, not a secret
            else:
                return commit
        raise PassingFault(f"{PUSH_ATTEMPTS} times somebody else pushed to {self.name} of {self.remote.shown} first.")

    def _commit(self, parent: str | None, paths: list[str], message: str) -> str:
        self._local("read-tree", parent or "--empty")
        self._local("add", "--force", "--", *paths)
        tree = self._local("write-tree")
        return self._local("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", message)

    def _was_overtaken(self, tip: str | None, error: GitFailed) -> bool:
        """Whether the push failed because of somebody else's, which another attempt mends."""
        said = str(error)
        if "exists; cannot create" in said:
            return False  # a branch `data` leaves no room for `data/…`
        if "cannot lock ref" in said or "failed to update ref" in said or "reference already exists" in said:
            return True
        return "rejected" in said and self.fetch() != tip

    def _remote(self, doing: str, *arguments: str) -> str:
        try:
            return self._git(*arguments)
        except GitFailed as error:
            raise self._told(doing, error) from error

    def _local(self, *arguments: str) -> str:
        try:
            return self._git(*arguments)
        except GitFailed as error:
            raise PassingFault(f"git in {self.directory} failed: {error}. Free or mend the disk, run again.") from error

    def _git(self, *arguments: str) -> str:
        return _git(*arguments, directory=self.directory, settings={f"remote.{_REMOTE}.url": self.remote.url})

    def _told(self, doing: str, error: GitFailed) -> StageError:
        said = " ".join(str(error).replace(self.remote.url, self.remote.shown).split()).rstrip(".")
        told = f"the repository {self.remote.shown} could not {doing}: {said}."
        if any(refusal in said.lower() for refusal in _REFUSALS):
            return ConfigurationError(f"{told} Check RPS_REPOSITORY (or the remote 'origin') and GITHUB_TOKEN.")
        if "rejected" in said and "unpacker error" not in said:
            return ConfigurationError(f"{told} Let the pipeline push to {self.name} (branch rules, hooks).")
        return PassingFault(told)


def open_branch(remote: Remote, name: str, directory: Path) -> RecordBranch:
    """The branch ``name`` of a remote, worked on in a new scratch repository at ``directory`` (an empty one)."""
    branch = RecordBranch(remote, name, directory)
    try:
        # Without templates: whatever hooks a machine installs in new repositories are not for this one.
        _git("init", "--quiet", "--template=", directory=directory)
    except GitFailed as error:
        raise PassingFault(f"git could not make {directory}: {error}. Free or mend the disk, run again.") from error
    return branch


def _git(*arguments: str, directory: Path, settings: Mapping[str, str] | None = None) -> str:
    """Run git there; its output without the last line's end. Raises GitFailed, or PassingFault when it hangs."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env=_environment(settings or {}),
        )
    except FileNotFoundError as error:
        raise ConfigurationError("git is not installed: install it, then run again.") from error
    except subprocess.TimeoutExpired as error:
        raise PassingFault(f"git {arguments[0]} was not done after {_TIMEOUT_SECONDS} s.") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} ended with {done.returncode}"
        raise GitFailed(said)
    return done.stdout.decode().rstrip("\n")


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    # Where a caller's repository is (set inside Git hooks) must not lead these commands there.
    kept = {name: value for name, value in os.environ.items() if name not in _LOCATIONS}
    name, email = _AUTHOR
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", name), ("EMAIL", email))
    }
    settings = {
        "core.hooksPath": os.devnull,
        "core.autocrlf": "false",
        "gc.auto": "0",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "30",
        **_token_header(),
        **settings,
    }
    count = int(kept.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(settings.items(), count):
        kept[f"GIT_CONFIG_KEY_{number}"] = key
        kept[f"GIT_CONFIG_VALUE_{number}"] = value
    ssh = kept.get("GIT_SSH_COMMAND") or "ssh -oBatchMode=yes -oConnectTimeout=10"
    return {
        **kept,
        **identity,
        "GIT_CONFIG_COUNT": str(count + len(settings)),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": ssh,
        "LC_ALL": "C",  # what git says is read above
    }


_LOCATIONS = {
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
}  # fmt: skip


def _token_header() -> dict[str, str]:
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token:
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {f"http.{GITHUB}.extraHeader": f"Authorization: Basic {basic}"}
