"""The first task of every run: a clean checkout of one commit, with the environment that its requirements name.

It runs before any environment exists, so it needs only the standard library, git and uv:
`python -m pipelines.workspace --sha SHA --run-id ID`. Its last line of output is a JSON object: directory, python, sha.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from clients.disk import locked
from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.git import REMOTE, Git, Remote

REQUIREMENTS = Path("requirements") / "pipelines.txt"
DETACHED = "refs/rps/detached-head"
"""The HEAD of a checkout that is on no branch, under a name that no branch can have."""
GIT_SECONDS = 1800.0
"""The first fetch brings the whole repository."""
KEPT_DAYS = 7
"""How long a workspace, and an environment since its last use, stay for inspection."""


def make_workspace(home: Path, repository: Remote, sha: str, run_id: str) -> dict[str, str]:
    """Make, or find again, the workspace of one run.

    home: the folder of mirror, workspaces and environments; sha: a commit on one of the repository's branches (or
    `HEAD`); run_id: any text, one workspace each.
    Raises ConfigurationError or PassingFault.
    """
    mirror = Git(home / "mirror.git", repository, seconds=GIT_SECONDS)
    workspace = replace(mirror, directory=home / "runs" / _directory_name(run_id))
    with locked(home / "mirror.lock", "the mirror of the repository"):
        _refresh(mirror, repository)
        commit = _resolve(mirror, repository, sha)
        if not (workspace.directory / ".git" / "rps-complete").exists():
            _check_out(mirror, repository, commit, workspace)
    found = workspace.text("rev-parse", "HEAD")
    if found != commit and sha != "HEAD":
        raise ConfigurationError(f"run {run_id!r} has a workspace at {found} already, not at {commit}: use a new id.")
    python = _environment(home, workspace.directory)
    _forget_old(home, keep=workspace.directory)
    return {"directory": str(workspace.directory), "python": str(python), "sha": found}


def _directory_name(run_id: str) -> str:
    """A file name that is unique to this id, and that people recognise."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", run_id).strip("._-")[:80]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def _refresh(mirror: Git, repository: Remote) -> None:
    if not (mirror.directory / "HEAD").exists():
        shutil.rmtree(mirror.directory, ignore_errors=True)
        mirror.directory.mkdir(parents=True)
        mirror.text("init", "--quiet", "--bare")
    # Branches only: hosts list the commits of forks' pull requests under other names, and those must never run.
    references = ["+refs/heads/*:refs/heads/*"]
    if _is_detached(repository):
        references.append(f"+HEAD:{DETACHED}")
    else:
        mirror.text("update-ref", "-d", DETACHED)
    mirror.text("fetch", "--quiet", "--prune", "--force", "--no-tags", "--update-shallow", REMOTE, *references)


def _is_detached(repository: Remote) -> bool:
    """Whether it is a checkout on this machine that is on no branch, as in CI; its owner chose its HEAD."""
    checkout = Path(repository.url)
    return checkout.is_dir() and Git(checkout).run("symbolic-ref", "--quiet", "HEAD").returncode == 1


def _resolve(mirror: Git, repository: Remote, sha: str) -> str:
    if sha == "HEAD":
        head = mirror.text("ls-remote", REMOTE, "HEAD").split()
        if not head:
            raise ConfigurationError(f"{repository.url} has no HEAD: is it empty?")
        return head[0]
    if not re.fullmatch(r"[0-9a-f]{7,40}", sha):
        raise ConfigurationError(f"git_sha: expected HEAD or 7 to 40 hexadecimal digits; found {sha!r}")
    commit = mirror.run("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}").stdout.decode().strip()
    if not commit or not mirror.text("for-each-ref", "--count=1", f"--contains={commit}", "refs/heads", DETACHED):
        on = f"is on no branch of {repository.url}"
        raise ConfigurationError(f"commit {sha} {on}: push it there first (a fork's commits are not run)")
    return commit


def _check_out(mirror: Git, repository: Remote, commit: str, workspace: Git) -> None:
    directory = workspace.directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    mirror.text("clone", "--quiet", "--no-checkout", str(mirror.directory), str(directory))
    # The clone of a shallow mirror has the commits of branches alone.
    workspace.text("fetch", "--quiet", "--no-tags", "--update-shallow", str(mirror.directory), "+refs/rps/*:refs/rps/*")
    workspace.text("remote", "set-url", "origin", repository.url)
    workspace.text("checkout", "--quiet", "--detach", commit)
    (directory / ".git" / "rps-complete").touch()


def _environment(home: Path, directory: Path) -> Path:
    """The interpreter of the environment for the workspace's requirements, built once per content."""
    try:
        requirements = (directory / REQUIREMENTS).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"the commit has no {REQUIREMENTS}: this pipeline cannot run it.") from None
    identity = hashlib.sha256(requirements + sys.version.encode()).hexdigest()[:16]
    environment = home / "envs" / identity
    complete, python = environment / "rps-complete", environment / "bin" / "python"
    with locked(home / "envs" / f"{identity}.lock", f"the environment {identity}"):
        if not complete.exists():
            print(f"making the environment {identity} from {REQUIREMENTS}; this is done once", flush=True)
            shutil.rmtree(environment, ignore_errors=True)
            _uv("venv", "--quiet", "--no-project", "--python", sys.executable, str(environment))
            # Without compiling: Python writes byte code as it imports, and the stages load a quarter of the packages.
            install = ("pip", "install", "--quiet", "--no-config", "--require-hashes")
            _uv(*install, "--python", str(python), "-r", str(directory / REQUIREMENTS))
        complete.touch()
    return python


def _uv(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        # A wrong or missing hash stays so; the rest (network, disk, a registry's bad hour) may pass.
        lasts = re.search(r"hash mismatch|require-hashes", said, re.IGNORECASE)
        raise (ConfigurationError if lasts else PassingFault)(f"uv {' '.join(arguments[:2])} … failed: {said}")


def _forget_old(home: Path, keep: Path) -> None:
    """Remove workspaces and environments that no run has used for a week; never those of this run."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for directory in (home / "runs").iterdir():
        if directory != keep and directory.stat().st_mtime < oldest:
            print(f"removing the workspace {directory.name}: older than {KEPT_DAYS} days", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
    for complete in (home / "envs").glob("*/rps-complete"):
        if complete.stat().st_mtime < oldest:
            print(f"removing the environment {complete.parent.name}: unused for {KEPT_DAYS} days", flush=True)
            shutil.rmtree(complete.parent, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sha", required=True, help="the commit to check out, or HEAD")
    parser.add_argument("--run-id", required=True, help="the run whose workspace this is")
    parser.add_argument("--home", default=os.environ.get("RPS_HOME", ".rps"), help="default: RPS_HOME, or .rps")
    parser.add_argument("--repository", default=os.environ.get("RPS_REPOSITORY", "."), help="default: RPS_REPOSITORY")
    options = parser.parse_args()
    try:
        repository = Remote.parse(options.repository, Path.cwd())
        made = make_workspace(Path(options.home).resolve(), repository, options.sha, options.run_id)
    except (RpsError, OSError) as error:
        hint = "Free or repair the disk, then run again."
        fault = error if isinstance(error, RpsError) else PassingFault(f"{error}. {hint}")
        print(f"workspace: {fault}", file=sys.stderr)
        return fault.exit_code
    print(json.dumps(made), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
