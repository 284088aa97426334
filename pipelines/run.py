"""One run of the pipeline on one challenge: who asked for it, at which commit, as of when, and where its files are."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import msgspec

from clients.errors import ConfigurationError, PassingFault, RpsError
from clients.git import Git
from clients.settings import address
from forecasting.challenge.schema import Challenge, ChallengeError, load_challenge
from pipelines.files import read_json, write_json
from pipelines.learners import make_learner
from records.stages import RunFiles

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""The grid of every challenge starts at the first, and nanoseconds since then hold little more than the last."""


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: fixed when the first stage starts, and read by every later one."""

    run_id: str
    git_sha: str
    as_of: datetime
    """No observation after this moment is used (UTC)."""
    reason: str = "manual"
    pull_request: str = ""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """`dataset.json`: where to fetch the dataset of this run from."""

    md5: str
    rev: str
    """The commit on ``branch``."""
    branch: str
    rows: int
    bytes: int
    run_id: str


class RunAddress(msgspec.Struct, frozen=True):
    """`mlflow.json`: where the MLflow run of this pipeline run is."""

    rps_run_id: str
    mlflow_run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class Run:
    """The argument of every stage, whose function `run` raises an RpsError when it cannot go on."""

    challenge: Challenge
    challenge_path: Path
    files: RunFiles
    identity: RunIdentity

    @property
    def dataset(self) -> Dataset | None:
        """Where the run's dataset is recorded; None when a stage runs by itself. Raises ConfigurationError."""
        if not self.files.dataset.exists():
            return None
        found = read_json(self.files.dataset, Dataset, made_by="version")
        self.require_own(self.files.dataset, found.run_id, made_by="version")
        return found

    @property
    def mlflow_run(self) -> str:
        """The id of the run in MLflow; empty when a stage runs by itself. Raises ConfigurationError."""
        if not self.files.tracking.exists():
            return ""
        found = read_json(self.files.tracking, RunAddress, made_by="version")
        return found.mlflow_run_id if found.rps_run_id == self.identity.run_id else ""

    def require_own(self, path: Path, run_id: str, *, made_by: str) -> None:
        """Raises ConfigurationError when the file ``path``, which names the run ``run_id``, is another run's."""
        if run_id != self.identity.run_id:
            message = f"{path} is of run {run_id!r}, this is {self.identity.run_id!r}"
            raise ConfigurationError(f"{message}: run the stage {made_by!r} again.")


def open_run(challenge_name: str, *, starts: bool) -> Run:
    """The run of the current directory.

    starts: whether the stage may begin a new run (`ingest`); it keeps the existing one if `RPS_RUN_ID` names it, so
    that a retry after a kill continues the same run, as of the same moment.
    Raises ConfigurationError, or PassingFault when the clock does not answer.
    """
    path = Path("challenges") / f"{challenge_name}.toml"
    try:
        challenge = load_challenge(path)
        make_learner(challenge, path)
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error
    files = RunFiles(Path("data") / challenge.name)
    asked = os.environ.get("RPS_RUN_ID", "")
    stored = partial(read_json, files.run, RunIdentity, made_by="ingest")
    if starts and not (asked and files.run.exists() and stored().run_id == asked):
        write_json(files.run, _new_identity(asked))
    identity = stored()
    if asked and identity.run_id != asked:
        found = f"{files.run} belongs to run {identity.run_id!r}, but RPS_RUN_ID is {asked!r}"
        raise ConfigurationError(f"{found}: run 'ingest' first.")
    return Run(challenge, path, files, identity)


def utc_now() -> datetime:
    """Now, by the system's clock or the one at `RPS_CLOCK_URL` (the replay's runs at its own speed)."""
    if not os.environ.get("RPS_CLOCK_URL"):
        return datetime.now(UTC)
    url = address(os.environ, "RPS_CLOCK_URL")
    try:
        answer = httpx.get(url, timeout=10.0)
        answer.raise_for_status()
        return parse_utc(str(answer.json()["now"]), "the clock's answer")
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise PassingFault(f"RPS_CLOCK_URL={url} does not tell the time ({error}): start it, or unset it.") from error


def parse_utc(text: str, what: str) -> datetime:
    """An ISO 8601 time as UTC; one without an offset is UTC already. Raises ConfigurationError."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = _EARLIEST - timedelta(seconds=1)
    if not _EARLIEST <= moment < _LATEST:
        expected = f"an ISO 8601 time such as 2013-12-30T23:00:00Z, from {_EARLIEST.year} to before {_LATEST.year}"
        raise ConfigurationError(f"{what}: expected {expected}; found {text!r}")
    return moment


def _new_identity(run_id: str) -> RunIdentity:
    as_of, git_sha = os.environ.get("RPS_AS_OF", ""), "unknown"
    with suppress(RpsError):
        git_sha = os.environ.get("RPS_GIT_SHA") or Git(Path.cwd()).text("rev-parse", "HEAD")
    return RunIdentity(
        run_id=run_id or f"local__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}__{secrets.token_hex(3)}",
        git_sha=git_sha,
        as_of=parse_utc(as_of, "RPS_AS_OF") if as_of else utc_now(),
        reason=os.environ.get("RPS_REASON") or "manual",
        pull_request=os.environ.get("RPS_PULL_REQUEST", ""),
    )
