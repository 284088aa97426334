"""Git: one way to run it, in a directory and with at most one remote; and a remote's branch as a history of records.

Never prompts, runs no hook, and never forces a push. Credentials reach Git through its environment alone: no command
line, message or `.git/config` holds one. Needs the standard library alone.
"""

from __future__ import annotations

import base64
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.settings import address

REMOTE = "rps"
"""The remote's name on command lines; its address is in the environment."""
PUSH_ATTEMPTS = 8
"""How often another push may come first before a stage gives up (and Airflow retries it)."""
_PIPELINE = {"user.name": "RPS pipeline", "user.email": "pipeline@rps.invalid"}
_REFUSED = re.compile(
    "returned error: 40[1347]|code 407|authentication failed|could not read (username|password)|access denied"
    "|terminal prompts disabled|permission denied|invalid credentials|not authorized|dubious ownership"
    "|repository .*not found|does not appear to be a git repository|unable to find remote helper"
    "|host key verification failed|certificate (verification failed|problem)",
    re.IGNORECASE,
)
_NOT_THERE = re.compile(
    "not a git repository|cannot change to|not a valid object name|bad object|unknown revision|bad revision"
    "|needed a single revision|did not match any file|does not exist",
    re.IGNORECASE,
)
_ADDRESS = "Check the repository's address (RPS_REPOSITORY, or the remote 'origin') and GITHUB_TOKEN."
_MEANINGS = (
    (re.compile("unpacker error|no space left on device", re.IGNORECASE), PassingFault, "Free or repair the disk."),
    (_REFUSED, ConfigurationError, _ADDRESS),
    (re.compile("rejected"), ConfigurationError, "Let the pipeline push there (branch rules, hooks)."),
    (_NOT_THERE, ConfigurationError, ""),
    (re.compile(""), PassingFault, ""),
)
"""Git's message, its meaning, and the next step. The first row that matches holds; an unknown fault may pass."""


@dataclass(frozen=True)
class Remote:
    """A repository's address, and apart from it the credentials that it came with."""

    url: str
    credentials: str = field(default="", repr=False)
    """`user:password` for HTTP."""

    @classmethod
    def parse(cls, text: str, base: Path) -> Remote:
        """A URL, `host:path` or a path from ``base``, perhaps with credentials in it."""
        found = re.fullmatch(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/?#]*)@(?P<rest>.+)", text, re.IGNORECASE)
        if found:
            scheme, (name, _, password), rest = found["scheme"], found["user"].partition(":"), found["rest"]
            if scheme.lower() in {"http", "https"}:
                return cls(f"{scheme}://{rest}", f"{unquote(name)}:{unquote(password)}")
            return cls(f"{scheme}://{name}@{rest}")
        is_path = "://" not in text and ":" not in text.split("/", maxsplit=1)[0]
        return cls(str((base / text).resolve()) if is_path else text)


@dataclass(frozen=True)
class Git:
    """Git in a directory. Commands that work with ``remote`` call it REMOTE.

    Methods raise ConfigurationError or PassingFault, by what Git says.
    """

    directory: Path
    remote: Remote | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings, as in Git's configuration."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables, such as GIT_COMMITTER_DATE."""
    seconds: float = 120.0
    """How long one command may take."""

    def clone(self, directory: Path, *options: str) -> Git:
        """A new clone of this repository in ``directory``."""
        self.text("clone", "--quiet", *options, str(self.directory.absolute()), str(directory.absolute()))
        return replace(self, directory=directory)

    def text(self, *arguments: str, given: str = "") -> str:
        """What a command prints, without white space around it. given: its standard input."""
        return self.output(*arguments, given=given).decode(errors="replace").strip()

    def output(self, *arguments: str, given: str = "") -> bytes:
        """What a command prints."""
        done = self.run(*arguments, given=given)
        if done.returncode:
            raise self.fault(done)
        return done.stdout

    def succeeds(self, *arguments: str) -> bool:
        """Whether a command exits 0."""
        return self.run(*arguments).returncode == 0

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run a command, whatever its exit code. Raises ConfigurationError when it cannot, PassingFault when late."""
        command = ["git", "-C", str(self.directory), *arguments]
        environment = self._environment()
        try:
            return subprocess.run(
                command, input=given.encode(), capture_output=True, timeout=self.seconds, check=False, env=environment
            )
        except FileNotFoundError as error:
            raise ConfigurationError("git is not installed: install it, then run again.") from error
        except ValueError as error:  # a NUL, or half a character, in a name
            raise ConfigurationError(f"git cannot take {arguments!r}: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise PassingFault(f"{self._named(arguments)} took longer than {self.seconds:.0f} s.") from error

    def fault(self, done: subprocess.CompletedProcess[bytes]) -> RpsError:
        """What it means that a command failed."""
        said = message_of(done)
        meaning, hint = next((meaning, hint) for pattern, meaning, hint in _MEANINGS if pattern.search(said))
        return meaning(f"{self._named(done.args[3:])} failed: {said.rstrip('.')}. {hint}".rstrip())

    def _named(self, arguments: Iterable[str]) -> str:
        verb, *others = arguments
        where = f"of {self.remote.url}" if self.remote and REMOTE in others else f"in {self.directory}"
        return f"git {verb} {where}"

    def _environment(self) -> dict[str, str]:
        # A hook that started us sets where its repository is, and who commits: neither is meant for these commands.
        kept = {name: value for name, value in os.environ.items() if not _CALLERS.match(name)}
        settings = {
            "core.hooksPath": os.devnull,
            "core.attributesFile": os.devnull,  # files are as they were committed, whatever this machine prefers
            "core.autocrlf": "false",
            "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": "30",
            **(_remote_settings(self.remote) if self.remote else {}),
            **self.settings,
        }
        count = int(kept.get("GIT_CONFIG_COUNT") or 0)
        for number, (key, value) in enumerate(settings.items(), count):
            kept[f"GIT_CONFIG_KEY_{number}"] = key
            kept[f"GIT_CONFIG_VALUE_{number}"] = value
        return {
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=10",
            **kept,
            "GIT_CONFIG_COUNT": str(count + len(settings)),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",  # what Git says is read above
            **self.environment,
        }


_CALLERS = re.compile(
    "GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|NAMESPACE|PREFIX"
    "|QUARANTINE_PATH|(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE))$"
)


def message_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a failed command said, on one line."""
    return " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"


def _remote_settings(remote: Remote) -> dict[str, str]:
    """The remote's address, and the header for its host: with its own credentials, or GitHub's with GITHUB_TOKEN."""
    settings = {f"remote.{REMOTE}.url": remote.url}
    host = re.match(r"https?://[^/?#]+", remote.url.lower())
    token = os.environ.get("GITHUB_TOKEN", "")
    credentials = remote.credentials
    if host and token and not credentials and host[0] in _github_hosts():
        credentials = f"x-access-token:{token}"
    if host and credentials:
        basic = base64.b64encode(credentials.encode()).decode()
        settings[f"http.{host[0]}/.extraHeader"] = f"Authorization: Basic {basic}"
    return settings


def _github_hosts() -> set[str]:
    """`https://host` of GitHub, or of the GitHub Enterprise that the environment names."""
    names = [name for name in ("GITHUB_SERVER_URL", "GITHUB_API_URL") if os.environ.get(name)]
    parts = [urlsplit(address(os.environ, name, "GITHUB_TOKEN").lower()) for name in names]
    return {f"{part.scheme}://{part.netloc.removeprefix('api.')}" for part in parts} or {"https://github.com"}


def data_repository() -> Remote:
    """Where dataset branches live: `RPS_REPOSITORY`, else the current repository's `origin`, else that repository.

    Raises ConfigurationError when there is none.
    """
    asked = os.environ.get("RPS_REPOSITORY", "")
    if asked:
        return Remote.parse(asked, Path.cwd())
    try:
        root = Path(Git(Path.cwd()).text("rev-parse", "--show-toplevel"))
    except RpsError as error:
        raise ConfigurationError(f"set RPS_REPOSITORY, or run in a Git repository: {error}") from error
    origin = Git(root).run("remote", "get-url", "origin")
    return Remote.parse(origin.stdout.decode().strip() if origin.returncode == 0 else ".", root)


@dataclass(frozen=True)
class RecordBranch:
    """One branch of a remote, as a history of records; ``git`` works in a scratch repository (see `open_branch`).

    Methods raise ConfigurationError (refused) or PassingFault (unreachable, lost half-way).
    """

    git: Git
    name: str

    def fetch(self) -> str | None:
        """Bring the branch's whole history here; its newest commit, or None when the branch is not there yet."""
        reference = f"refs/heads/{self.name}"
        if not self.git.text("ls-remote", REMOTE, reference):
            return None
        self.git.text("fetch", "--quiet", "--no-tags", REMOTE, f"+{reference}:refs/rps/tip")
        return self.git.text("rev-parse", "refs/rps/tip")

    def commits_saying(self, line: str, tip: str) -> list[str]:
        """Commits up to ``tip`` whose message holds that text, newest first."""
        return self.git.text("log", "--format=%H", "--fixed-strings", f"--grep={line}", tip).split()

    def read(self, commit: str, path: str) -> bytes | None:
        """A file as of a commit, or None when it has none there."""
        done = self.git.run("cat-file", "blob", f"{commit}:{path}")
        return None if done.returncode else done.stdout

    def append(self, files: Iterable[str], message: str, *, done_already: Callable[[str], str | None]) -> str:
        """Add one commit with these files of the directory to whatever the branch holds, and push it; its SHA.

        done_already: given the branch's newest commit, the one that makes another needless, if there is one. It is
        asked again whenever another push came first; the commit is then made anew on top of that.
        """
        paths = list(files)
        for attempt in range(PUSH_ATTEMPTS):
            tip = self.fetch()
            done = done_already(tip) if tip else None
            if done:
                return done
            commit = self._commit(tip, paths, message)
            pushed = self.git.run("push", "--no-verify", REMOTE, f"{commit}:refs/heads/{self.name}")
            if pushed.returncode == 0:
                return commit
            if not self._was_overtaken(tip, message_of(pushed)):
                raise self.git.fault(pushed)
            time.sleep(random.uniform(0.0, min(2.0, 0.1 * 2**attempt)))  # noqa: S311 - jitter, not a secret
        url = self.git.remote.url if self.git.remote else ""
        raise PassingFault(f"{PUSH_ATTEMPTS} times somebody else pushed to {self.name} of {url} first.")

    def _commit(self, parent: str | None, paths: list[str], message: str) -> str:
        self.git.text("read-tree", parent or "--empty")
        self.git.text("add", "--force", "--", *paths)
        tree = self.git.text("write-tree")
        return self.git.text("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", message)

    def _was_overtaken(self, tip: str | None, said: str) -> bool:
        """Whether the push failed because another one came first, so that the next attempt may succeed."""
        if "exists; cannot create" in said:
            return False  # a branch `data` leaves no room for `data/…`
        if "cannot lock ref" in said or "failed to update ref" in said or "reference already exists" in said:
            return True
        return "rejected" in said and self.fetch() != tip


def open_branch(remote: Remote, name: str, directory: Path) -> RecordBranch:
    """The branch ``name`` of a remote, worked on in a new scratch repository at ``directory`` (an empty one)."""
    git = Git(directory, remote, {**_PIPELINE, "gc.auto": "0"})
    # Without templates: whatever hooks a machine installs in new repositories are not for this one.
    git.text("init", "--quiet", "--template=")
    return RecordBranch(git, name)
