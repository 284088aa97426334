"""The whole record of one gate run: `verdict.json`, and the source of the report."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from forecasting.challenge.schema import Gate
from forecasting.judging.evaluation import Evaluation
from forecasting.judging.verdict import Verdict
from records.quality import Violation

Outcome = Literal["pass", "block", "error"]


class Data(Struct, frozen=True, kw_only=True):
    """The dataset that the candidate was trained on, and how its newest fold differs from production's training."""

    rows: int
    first: datetime
    last: datetime
    dataset_md5: str
    dataset_rev: str
    """The commit of the branch `data/<challenge>` that records it."""
    errors: int
    warnings: int
    """Violations of the quality rules; errors stop a run before there is a model."""
    drift: dict[str, float]
    """Population stability index of each feature in the newest fold, against what ``drift_from`` saw in training."""
    drift_from: Literal["production", "candidate"]
    sandbox: str = ""
    """What surrounded the stages that made the candidate: `bubblewrap`, or `process` for none but a process."""


class Failure(Struct, frozen=True, kw_only=True):
    """Why there is no verdict. All but ``reason`` is empty unless a task of the run is to blame."""

    reason: str
    """One sentence, with the next step."""
    task: str = ""
    log_url: str = ""
    log_tail: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    """The data gate's findings, when `validate` stopped the run."""


class PolicyChange(Struct, frozen=True, kw_only=True):
    """One key of the gate's policy (`gate.max_regression`, …) that the pull request changes; values as TOML."""

    key: str
    base: str
    head: str


class PullRequest(Struct, frozen=True, kw_only=True):
    """The judged pull request, as GitHub reports it at the start. The author chooses title and branches: untrusted."""

    number: int
    title: str
    head_ref: str
    base_ref: str
    base_sha: str


class Links(Struct, frozen=True, kw_only=True):
    """Pages for the reader; empty when there is no such page."""

    dag_run: str = ""
    mlflow_run: str = ""
    profile: str = ""
    model_version: str = ""
    workflow: str = ""


class Judgement(Struct, frozen=True, kw_only=True):
    """`verdict.json`."""

    challenge: str
    title: str
    """The challenge's own title."""
    outcome: Outcome
    summary: str
    """One line for the commit status, 140 characters at most: the verdict and its main number, or why there is none."""
    git_sha: str
    run_id: str
    model_version: str
    """The candidate's version in the registry; empty when it was not registered."""
    pull_request: PullRequest | None
    policy: Gate | None
    """None when even the policy could not be read."""
    policy_from: str
    """The base branch and commit of the policy, or why it is another."""
    policy_changes: tuple[PolicyChange, ...]
    verdict: Verdict | None
    evaluation: Evaluation | None
    data: Data | None
    failure: Failure | None
    """Set when, and only when, the outcome is `error`."""
    links: Links
    started: datetime
    seconds: float
    """From the gate's start to this verdict."""
    task_seconds: float
    """How long of that at least one task of the DAG run was at work."""
