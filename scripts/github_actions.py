"""Run the repository's workflows on this machine with act, as GitHub would for an event: the real files, no Docker.

What act starts sees this machine's tools and network settings, and of addresses and credentials only what is given to
the workflow as variables and secrets. Everything that it writes lies in the runner's directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from clients.git import Git
from scripts.processes import Started, end, log_end
from scripts.services import ROOT, StackError, write_private

ACTIONS = ROOT / "doubles" / "actions"
"""What stands in for other people's actions, which this machine may not be able to fetch."""
DEFAULT_BRANCH = "master"
INTERRUPT_SECONDS, TERMINATE_SECONDS = 7.5, 2.5
"""How long GitHub's runner waits after SIGINT, and then after SIGTERM, when a job is cancelled."""
_USES = re.compile(r"uses:\s*([\w.-]+/([\w.-]+)@[0-9a-f]{40})")
_PASSED = re.compile(r"PATH|LANG|LC_\w+|TMPDIR|TZ|PIP_\w+|UV_\w+|SSL_\w+|\w+_CA_BUNDLE|\w+_proxy|\w+_PROXY")


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A machine that takes jobs of one repository."""

    home: Path
    """For everything that act and the steps write."""
    repository: Path
    """The Git repository behind ``name``."""
    name: str
    """`owner/name`."""
    api_url: str
    server_url: str
    token: str = field(repr=False)
    """What `github.token` is in a workflow."""
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    docker_host: str = ""
    """The address of the container engine that the steps find; empty for the usual one."""
    tools: Path | None = None
    """Where jobs keep the tools that later ones use again; several runners may share it. Default: in ``home``."""


@dataclass(frozen=True)
class Outcome:
    """How a workflow run ended."""

    jobs: Mapping[str, str]
    """Each job's result, by the name under which GitHub shows it; a job that was skipped is missing."""
    summary: str
    """The Markdown of the run's summary page."""
    output: str
    """What the steps have printed, each line after the name of its job."""
    artifacts: Path
    """A directory for each artifact."""
    seconds: float


class WorkflowRun:
    """A workflow that was started."""

    def __init__(self, process: subprocess.Popen[str], home: Path) -> None:
        self._process = process
        self._started = Started(process.pid, psutil.Process(process.pid).create_time(), "")
        self._home = home
        self._began = time.monotonic()

    def wait(self, on_line: Callable[[str, str], None] = lambda _job, _line: None) -> Outcome:
        """Wait for its end; ``on_line`` gets the job and each line of output. The run also ends when that raises."""
        jobs: dict[str, str] = {}
        summaries, output = [], []
        path = self._home / "act.jsonl"
        try:
            with path.open("w", encoding="utf-8") as log:
                for text in self._process.stdout or ():
                    log.write(text)
                    entry = _entry(text)
                    job = _job_name(entry)
                    if "jobResult" in entry:
                        jobs[job] = str(entry["jobResult"])
                    elif entry.get("command") == "summary":
                        summaries.append(str(entry["content"]))
                    elif line := _printed(entry):
                        output.append(f"{job} | {line}")
                        on_line(job, line)
                self._process.wait()
        finally:
            self.end()
        if self._process.returncode and all(result == "success" for result in jobs.values()):
            raise StackError(f"act could not run the workflow; its output:\n{log_end(path)}")
        seconds = time.monotonic() - self._began
        return Outcome(jobs, "\n".join(summaries), "\n".join(output), self._home / "artifacts", seconds)

    def cancel(self) -> None:
        """Cancel the steps that are at work, as GitHub's runner does: SIGINT, after a while SIGTERM, then SIGKILL."""
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(self._process.pid).children()
            for number, seconds in ((signal.SIGINT, INTERRUPT_SECONDS), (signal.SIGTERM, TERMINATE_SECONDS)):
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(number)
                _, left = psutil.wait_procs(left, timeout=seconds)
            late = [Started(process.pid, process.create_time(), "") for process in left]
            end(late, patience_seconds=TERMINATE_SECONDS)

    def end(self) -> None:
        """End act and all that it has started."""
        end([self._started], patience_seconds=TERMINATE_SECONDS)
        self._process.wait()


def run_on_pull_request(runner: Runner, workflow: str, pull: Mapping[str, Any], action: str = "opened") -> WorkflowRun:
    """Start a workflow as a pull request's event does: from the commit that merging it would make.

    workflow: a file name in `.github/workflows`; pull: the pull request as GitHub's API shows it.
    """
    number, base, head = pull["number"], pull["base"]["sha"], pull["head"]["sha"]
    source = _checked_out(runner, base)
    source.text("merge", "--quiet", "--no-ff", "-m", f"Merge {head} into {base}", head)
    source.text("push", "--quiet", "--force", "origin", f"HEAD:refs/pull/{number}/merge")
    event = {"action": action, "number": number, "pull_request": pull}
    return _start(runner, source, workflow, "pull_request", event)


def run_on_push(runner: Runner, workflow: str, branch: str, sha: str = "") -> WorkflowRun:
    """Start a workflow as a push to a branch does. sha: the pushed commit, the branch's newest by default."""
    source = _checked_out(runner, sha or f"origin/{branch}")
    event = {"ref": f"refs/heads/{branch}", "after": source.text("rev-parse", "HEAD")}
    return _start(runner, source, workflow, "push", event)


def run_on_dispatch(runner: Runner, workflow: str, branch: str, inputs: Mapping[str, str]) -> WorkflowRun:
    """Start a workflow by hand, from a branch."""
    event = {"inputs": dict(inputs), "ref": f"refs/heads/{branch}"}
    return _start(runner, _checked_out(runner, f"origin/{branch}"), workflow, "workflow_dispatch", event)


def run_on_repository_dispatch(
    runner: Runner, workflow: str, event_type: str, payload: Mapping[str, Any]
) -> WorkflowRun:
    """Start a workflow as an event does that was sent to the repository: from the newest commit of its default branch.

    Raises StackError when the workflow does not listen to this type of event: GitHub would start nothing.
    """
    text = Git(runner.repository).text("show", f"{DEFAULT_BRANCH}:.github/workflows/{workflow}")
    events = yaml.load(text, Loader=yaml.BaseLoader)["on"]  # noqa: S506 - makes nothing but text
    if event_type not in events.get("repository_dispatch", {}).get("types", []):
        raise StackError(f"{workflow} does not listen to repository_dispatch: {event_type}")
    event = {"action": event_type, "branch": DEFAULT_BRANCH, "client_payload": dict(payload)}
    return _start(runner, _checked_out(runner), workflow, "repository_dispatch", event)


def run_on_schedule(runner: Runner, workflow: str, cron: str) -> WorkflowRun:
    """Start a workflow as its schedule does: from the newest commit of the default branch. cron: the line of it."""
    return _start(runner, _checked_out(runner), workflow, "schedule", {"schedule": cron})


def show_as_checks(runner: Runner, sha: str, outcome: Outcome) -> None:
    """Do what GitHub does by itself: make each job's result a check of the commit, by the job's name.

    Each is a commit status here, which counts the same for a branch's rules.
    """
    url = f"{runner.api_url}/repos/{runner.name}/statuses/{sha}"
    for job, result in outcome.jobs.items():
        status = {"context": job, "state": "success" if result == "success" else "failure"}
        headers = {"Authorization": f"Bearer {runner.token}"}
        httpx.post(url, json=status, headers=headers, timeout=10.0).raise_for_status()


def _checked_out(runner: Runner, commit: str = f"origin/{DEFAULT_BRANCH}") -> Git:
    """A clone with that commit in `source` of a new workflow run's directory, which is named by the run's number."""
    runs = runner.home / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    home = runs / str(1 + max((int(each.name) for each in runs.iterdir()), default=0))
    home.mkdir()
    github = {"user.name": "GitHub", "user.email": "noreply@github.com"}
    source = Git(runner.repository, settings=github).clone(home / "source", "--shared", "--no-checkout")
    source.text("checkout", "--quiet", "--detach", commit)
    return source


def _start(runner: Runner, cloned: Git, workflow: str, name: str, event: Mapping[str, Any]) -> WorkflowRun:
    home = cloned.directory.parent
    source = _without_spaces(runner.home) / home.relative_to(runner.home) / "source"
    repository = {"full_name": runner.name, "name": runner.name.partition("/")[2], "default_branch": DEFAULT_BRANCH}
    (home / "event.json").write_text(json.dumps({**event, "repository": repository}), encoding="utf-8")
    _write_settings(home / "variables", runner.variables)
    _write_settings(home / "secrets", {**runner.secrets, "GITHUB_TOKEN": runner.token})
    number = home.name
    context = {
        "GITHUB_API_URL": runner.api_url,
        "GITHUB_SERVER_URL": runner.server_url,
        "GITHUB_REPOSITORY": runner.name,
        "GITHUB_RUN_ID": number,
        "GITHUB_RUN_NUMBER": number,
    }
    command = [
        str(Path(sys.executable).with_name("act")), name, "--directory", str(source),
        "--workflows", str(source / ".github" / "workflows" / workflow), "--eventpath", str(home / "event.json"),
        "--platform", "ubuntu-latest=-self-hosted", "--no-skip-checkout", "--no-cache-server", "--json",
        "--var-file", str(home / "variables"), "--secret-file", str(home / "secrets"),
        *(f"--env={key}={value}" for key, value in context.items()),
        *(f"--local-repository={action}" for action in _stand_ins(source / ".github")),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=home,
        env=_environment(runner, home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    return WorkflowRun(process, home)


def _environment(runner: Runner, home: Path) -> dict[str, str]:
    """What act and the steps see of this machine's environment, and what the stand-ins for actions need."""
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    kept = Path.home() / ".config" / "pip" / "pip.conf"
    if kept.exists():
        passed.setdefault("PIP_CONFIG_FILE", str(kept))
    found = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), "cache", "dir"], capture_output=True, text=True, check=True
    )
    own = _without_spaces(runner.home) / "home"
    return {
        **passed,
        "HOME": str(own),
        "XDG_CACHE_HOME": str(_without_spaces(runner.tools) if runner.tools else own / ".cache"),
        "XDG_CONFIG_HOME": str(own / ".config"),
        "UV_CACHE_DIR": found.stdout.strip(),
        "TERM": "dumb",
        "GIT_PAGER": "cat",
        **({"DOCKER_HOST": runner.docker_host} if runner.docker_host else {}),
        "RPS_GITHUB_GIT": str(runner.repository),
        "RPS_GITHUB_PYTHON": str(Path(sys.base_prefix) / "bin" / "python3"),
        "RPS_GITHUB_ARTIFACTS": str(home / "artifacts"),
    }


def _without_spaces(path: Path) -> Path:
    """The directory, made if need be, by a path without spaces, at which act splits the path of a step's script."""
    if not re.search(r"\s", str(path)):
        return path
    path.mkdir(parents=True, exist_ok=True)
    link = Path(tempfile.gettempdir()) / f"rps-{os.getuid()}-{hashlib.sha256(bytes(path)).hexdigest()[:16]}"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path, target_is_directory=True)
    if not link.is_symlink() or link.readlink() != path or link.lstat().st_uid != os.getuid():
        raise StackError(f"{link}: expected a link of ours to {path}; remove what is there, then run again")
    return link


def _write_settings(path: Path, settings: Mapping[str, str]) -> None:
    """Write `NAME="value"` lines."""
    for name, value in settings.items():
        if re.search(r"[\"\\\n$]", value):
            raise StackError(f"{name}: expected a value without quotes, backslashes, dollar signs and line ends")
    write_private(path, "".join(f'{name}="{value}"\n' for name, value in settings.items()))


def _stand_ins(directory: Path) -> list[str]:
    """`owner/name@commit=folder` for every action that the workflows and actions of ``directory`` use."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(directory.rglob("*.yml")))
    found = dict(_USES.findall(text))
    missing = sorted(set(found.values()) - {folder.name for folder in ACTIONS.iterdir()})
    if missing:
        raise StackError(f"{ACTIONS} has nothing that stands in for {', '.join(missing)}")
    return [f"{action}={ACTIONS / name}" for action, name in found.items()]


def _entry(text: str) -> dict[str, Any]:
    """A line of act's output; lines that are no JSON are its own words."""
    try:
        entry = json.loads(text)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _printed(entry: Mapping[str, Any]) -> str:
    """The line that a step has printed, if this is one: plain, or as an annotation of the run."""
    said = str(entry.get("msg", "")).strip()
    if entry.get("command") in {"error", "warning", "notice"}:
        return said[said.find("::") :]
    return said if entry.get("raw_output") else ""


def _job_name(entry: Mapping[str, Any]) -> str:
    """`gate (weather)`: the job and what it is of its matrix."""
    job = str(entry.get("jobID", "act"))
    matrix = entry.get("matrix") or {}
    return f"{job} ({', '.join(map(str, matrix.values()))})" if matrix else job
