"""Git for the demos, the benchmarks and the doubles."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.services import ROOT, StackError

SOMEBODY = {f"GIT_{role}_{part}": "a@b.example" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
"""An author, where it does not matter who it is."""


def git(
    directory: str | Path, *arguments: str, given: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints there, stripped. given: its standard input. Raises StackError with what Git says."""
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        input=given,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(f"git {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def clone(directory: Path, *options: str, source: Path = ROOT) -> Path:
    """A new clone in ``directory``, of this repository unless told otherwise. Raises StackError."""
    git(source, "clone", "--quiet", *options, str(source), str(directory))
    return directory
