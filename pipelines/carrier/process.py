"""A stage as a process of its own, which gets none of our keys, and a sandbox where the machine has one.

In bubblewrap (https://github.com/containers/bubblewrap), a stage can write its workspace alone, sees neither home
directories nor other processes, has no capability, reaches no network unless it is `ingest`, and leaves no process
behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from clients.errors import ConfigurationError, PassingFault
from pipelines.run import Run
from pipelines.sources import make_source

Sandbox = Literal["bubblewrap", "process"]

_PASSED_ON = (
    *("HOME", "LANG", "LANGUAGE", "PATH", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
_PASSED_ON_PREFIXES = ("LC_",)
_TO_INGEST = (
    *("RPS_CLOCK_URL", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""The way to the source, besides the source's own variables: of no use to any other stage."""
_HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp")  # noqa: S108 - hidden, not used
_ALONE = ("--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL")
_EVERYTHING = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")


def stage_environment(stage: str, run: Run, environment: Mapping[str, str]) -> dict[str, str]:
    """What a stage may know of this process's variables, and the identity of its run."""
    names = {*_PASSED_ON}
    if stage == "ingest":
        names |= {*_TO_INGEST, *make_source(run.challenge).environment}
    kept = {name: value for name, value in environment.items() if name in names or name.startswith(_PASSED_ON_PREFIXES)}
    return {**kept, "RPS_RUN_ID": run.identity.run_id}


def sandbox() -> Sandbox:
    """What surrounds a stage here. Raises ConfigurationError when that is not enough for `RPS_SANDBOX`."""
    asked = os.environ.get("RPS_SANDBOX", "")
    if asked not in {"", "required"}:
        raise ConfigurationError(f"RPS_SANDBOX: expected nothing, or required; found {asked!r}")
    if _bubblewrap_works():
        return "bubblewrap"
    if asked:
        why = "bwrap is not installed, or may not make namespaces on this machine"
        raise ConfigurationError(f"RPS_SANDBOX=required, but {why}: see docs/reference/stages.md, The sandbox.")
    return "process"


def run_stage(stage: str, run: Run) -> int:
    """The stage's exit code; its output goes where this process's goes. Raises PassingFault when something kills it."""
    command = [sys.executable, "-m", "pipelines", stage, "--challenge", run.challenge.name]
    if (around := sandbox()) == "bubblewrap":
        command = [*_bubblewrap(stage, os.environ), *command]
    print(f"{stage}: a process without our keys" + (", in bubblewrap" if around == "bubblewrap" else ""), flush=True)
    code = subprocess.run(command, env=stage_environment(stage, run, os.environ), check=False).returncode
    if around == "bubblewrap" and code > 128:  # as a shell, it tells a signal so
        code = 128 - code
    if code < 0:
        raise PassingFault(f"the stage was killed by signal {-code}: by the system if memory ran out. Run it again.")
    _require_plain(run.files.root)
    return code


def _require_plain(root: Path) -> None:
    """Raises ConfigurationError for a link, which could lead out of the workspace what is delivered from it."""
    if root.resolve() != Path.cwd().resolve() / root:
        raise ConfigurationError(f"{root}: expected a directory of the workspace; found a link")
    for path in root.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ConfigurationError(f"{path}: expected a file or a directory; found a link, or something else")


def _bubblewrap(stage: str, environment: Mapping[str, str]) -> Iterator[str]:
    """The command before the stage's own."""
    yield from ("bwrap", *_ALONE, *(() if stage == "ingest" else ("--unshare-net",)), *_EVERYTHING)
    homes = [Path(environment[name]) for name in ("HOME", "RPS_HOME") if environment.get(name)]
    hidden = {each.resolve() for each in (*map(Path, _HIDDEN), *homes) if each.is_dir()} - {Path("/")}
    for directory in sorted(hidden):  # a directory before those in it
        yield from ("--tmpfs", str(directory))
    if stage == "ingest":
        yield from ("--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve")
    code = [Path(each) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    interpreter = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]]
    for directory in dict.fromkeys([*interpreter, *code]):
        yield from ("--ro-bind-try", str(directory), str(directory))
    workspace = str(Path.cwd())
    yield from ("--bind", workspace, workspace, "--chdir", workspace, "--")


@cache
def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    probe = ["bwrap", *_ALONE, "--unshare-net", *_EVERYTHING, "--", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0
