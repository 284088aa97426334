"""Environments with the peers that we are measured beside, each made once from its pinned requirements."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from bench.report import BenchError, say
from scripts.services import ROOT


def interpreter(requirements: str) -> Path:
    """The Python of an environment with requirements/``requirements``.txt, byte code compiled; made when missing."""
    pinned = ROOT / "requirements" / f"{requirements}.txt"
    home = ROOT / ".rps" / "bench" / f"peers-{requirements}"
    python, stamp = home / "bin" / "python", home / "made-from"
    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
        say(f"making an environment from requirements/{requirements}.txt")
        uv: list[str | Path] = [sys.executable, "-m", "uv"]
        subprocess.run(
            [*uv, "venv", "--quiet", "--no-project", "--clear", "--python", sys.executable, home], check=True
        )
        # Not `install`: the service's file leaves out a package that another one names, but nothing uses.
        sync = [*uv, "pip", "sync", "--quiet", "--no-config", "--python", python, "--require-hashes"]
        subprocess.run([*sync, "--compile-bytecode", pinned], check=True)
        stamp.write_text(digest, encoding="utf-8")
    return python


def pinned_version(requirements: str, package: str) -> str:
    """The version of a package that an environment's requirements pin."""
    pinned = (ROOT / "requirements" / f"{requirements}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", pinned, re.MULTILINE)
    if found is None:
        raise BenchError(f"requirements/{requirements}.txt: expected {package}, pinned; run `make requirements`")
    return found[1]
