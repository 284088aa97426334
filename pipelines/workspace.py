"""The first task of every run: a clean checkout of one commit, with the environment that its requirements name.

It runs before any environment exists, so it needs the standard library, git and uv alone:
`python pipelines/workspace.py --sha SHA --run-id ID`. Its last line of output is a JSON object: directory, python, sha.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

USAGE, PASSING_FAULT = 64, 75
REQUIREMENTS = Path("requirements") / "pipelines.txt"
KEPT_DAYS = 7
"""How long the workspace of an ended run, and an environment that no run has used, are kept for inspection."""
DAY_SECONDS = 86_400


class WorkspaceError(Exception):
    """No workspace can be made; carries the exit code (BSD sysexits)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def make_workspace(home: Path, repository: str, sha: str, run_id: str) -> dict[str, str]:
    """Make, or find again, the workspace of one run.

    home: where mirror, workspaces and environments are kept; repository: a Git URL or path; sha: a commit of one of
    the repository's branches (or `HEAD`); run_id: any text, one workspace each.
    Raises WorkspaceError.
    """
    mirror = home / "mirror.git"
    directory = home / "runs" / _directory_name(run_id)
    with _locked(home / "mirror.lock", "the mirror of the repository"):
        _refresh(mirror, repository)
        commit = _resolve(mirror, repository, sha)
        if not (directory / ".git" / "rps-complete").exists():
            _check_out(mirror, repository, commit, directory)
    found = _git("rev-parse", "HEAD", directory=directory)
    if found != commit and sha != "HEAD":
        raise WorkspaceError(
            f"run {run_id!r} has a workspace at {found} already, not at {commit}: use a new id.", USAGE
        )
    python = _environment(home, directory)
    _forget_old(home, keep=directory)
    return {"directory": str(directory), "python": str(python), "sha": found}


def _directory_name(run_id: str) -> str:
    """A file name that only this id gives, and that people recognise."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", run_id).strip("._-")[:80]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def _refresh(mirror: Path, repository: str) -> None:
    if not (mirror / "HEAD").exists():
        shutil.rmtree(mirror, ignore_errors=True)
        _git("init", "--quiet", "--bare", str(mirror))
    # Branches only: hosts offer the commits of forks' pull requests under other names, and those must never run.
    references = ["+refs/heads/*:refs/heads/*"]
    if _is_detached(repository):
        references.append("+HEAD:refs/heads/rps/detached-head")
    _git(
        "fetch",
        "--quiet",
        "--prune",
        "--force",
        "--no-tags",
        "--update-shallow",
        repository,
        *references,
        directory=mirror,
    )


def _is_detached(repository: str) -> bool:
    """Whether it is a checkout on this machine that stands on no branch, as CI's do; its HEAD is its owner's choice."""
    if not Path(repository).is_dir():
        return False
    command = ["git", "-C", repository, "symbolic-ref", "--quiet", "HEAD"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 1


def _resolve(mirror: Path, repository: str, sha: str) -> str:
    if sha == "HEAD":
        told = _git("ls-remote", repository, "HEAD").split()
        if not told:
            raise WorkspaceError(f"{repository} has no HEAD: is it empty?", USAGE)
        return told[0]
    if not re.fullmatch(r"[0-9a-f]{7,40}", sha):
        raise WorkspaceError(f"git_sha: expected HEAD or 7 to 40 hexadecimal digits; found {sha!r}", USAGE)
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}", directory=mirror)
        branches = _git("branch", "--contains", commit, "--format=%(refname)", directory=mirror)
    except WorkspaceError:
        branches = ""
    if not branches:
        message = f"commit {sha} is on no branch of {repository}: push it there first (a fork's commits are not run)"
        raise WorkspaceError(message, USAGE)
    return commit


def _check_out(mirror: Path, repository: str, commit: str, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _git("clone", "--quiet", "--no-checkout", str(mirror), str(directory))
    _git("remote", "set-url", "origin", repository, directory=directory)
    _git("checkout", "--quiet", "--detach", commit, directory=directory)
    (directory / ".git" / "rps-complete").touch()


def _environment(home: Path, directory: Path) -> Path:
    """The interpreter of the environment for the workspace's requirements, built once per content."""
    try:
        requirements = (directory / REQUIREMENTS).read_bytes()
    except FileNotFoundError:
        raise WorkspaceError(f"the commit has no {REQUIREMENTS}: it cannot be run by this pipeline.", USAGE) from None
    identity = hashlib.sha256(requirements + sys.version.encode()).hexdigest()[:16]
    environment = home / "envs" / identity
    complete = environment / "rps-complete"
    with _locked(home / "envs" / f"{identity}.lock", f"the environment {identity}"):
        if not complete.exists():
            print(f"making the environment {identity} from {REQUIREMENTS}; this is done once", flush=True)
            _build(environment, directory / REQUIREMENTS)
        complete.touch()
    return environment / "bin" / "python"


def _build(environment: Path, requirements: Path) -> None:
    uv = [sys.executable, "-m", "uv"]
    shutil.rmtree(environment, ignore_errors=True)
    _run([*uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(environment)])
    install = ["pip", "install", "--quiet", "--no-config", "--compile-bytecode", "--require-hashes"]
    _run([*uv, *install, "--python", str(environment / "bin" / "python"), "-r", str(requirements)])


def _forget_old(home: Path, keep: Path) -> None:
    """Remove workspaces and environments that nobody has used for a week; never the ones of this run."""
    oldest = time.time() - KEPT_DAYS * DAY_SECONDS
    for directory in (home / "runs").iterdir():
        if directory != keep and directory.stat().st_mtime < oldest:
            print(f"removing the workspace {directory.name}: older than {KEPT_DAYS} days", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
    for complete in (home / "envs").glob("*/rps-complete"):
        if complete.stat().st_mtime < oldest:
            print(f"removing the environment {complete.parent.name}: unused for {KEPT_DAYS} days", flush=True)
            shutil.rmtree(complete.parent, ignore_errors=True)


def _git(*arguments: str, directory: Path | None = None) -> str:
    return _run(["git", *(["-C", str(directory)] if directory else []), *arguments])


def _run(command: list[str]) -> str:
    """Run a command without prompts; its output, stripped. Raises WorkspaceError with what it said."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **_token_header()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        # A wrong or missing hash will be so next time; the rest (network, disk, a registry's bad hour) may pass.
        code = USAGE if re.search(r"hash mismatch|require-hashes", said, re.IGNORECASE) else PASSING_FAULT
        raise WorkspaceError(f"{' '.join(command[:6])} … failed: {said}", code)
    return done.stdout.strip()


def _token_header() -> dict[str, str]:
    """`GITHUB_TOKEN` for Git over HTTPS: in the environment, never in a URL or on a command line."""
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        return {}
    import base64

    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    key = "http.https://github.com/.extraHeader"
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}"}


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for {what}, which another run is using", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sha", required=True, help="the commit to check out, or HEAD")
    parser.add_argument("--run-id", required=True, help="the run whose workspace this is")
    parser.add_argument("--home", default=os.environ.get("RPS_HOME", ".rps"), help="default: RPS_HOME, or .rps")
    parser.add_argument("--repository", default=os.environ.get("RPS_REPOSITORY", "."), help="default: RPS_REPOSITORY")
    options = parser.parse_args()
    try:
        made = make_workspace(Path(options.home).resolve(), options.repository, options.sha, options.run_id)
    except WorkspaceError as error:
        print(f"workspace: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"workspace: {error}. Free or mend the disk, then run again.", file=sys.stderr)
        return PASSING_FAULT
    print(json.dumps(made), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
