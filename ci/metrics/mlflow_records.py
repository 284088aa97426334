"""What MLflow knows of the challenges: runs and why they were made, errors, rejected data, versions and verdicts.

Nothing is changed there. Works against MLflow 2.7 servers (DagsHub) as against the newest. A look asks for what is new:
the runs of the last 24 hours and the newest hundred versions; the older ones are counted once an hour.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ci.settings import MlflowSettings
from ci.tracking import Missing, Tracking, connect

if TYPE_CHECKING:
    from mlflow.entities import Run

REASONS = ("schedule", "drift", "pull request", "other")
VERDICTS = ("passed", "blocked", "pending")
SEVERITIES = ("error", "warning")
MODELS = {"candidate": "rmse", "production": "production.rmse", "persistence": "persistence.rmse"}
"""Where a run keeps the hold-out RMSE of each."""
RECENT = timedelta(hours=24)
PAGE = 100
MOST_RUNS, MOST_VERSIONS = 1000, 20_000
"""Of one challenge: runs in 24 hours, and versions, beyond which there is no counting."""
MOST_REPORTS = 5
"""In how many of the newest runs a quality report is looked for."""
OLDER_SECONDS = 3600.0
_REPORT = "quality.json"


@dataclass(frozen=True)
class Records:
    """One challenge. What is not known is not there: counts are 0 where MLflow has nothing of the challenge yet."""

    retrainings: Mapping[str, int]
    """Runs started in the last 24 hours, by reason."""
    errors: Mapping[str, float]
    """Of the newest run that finished: hold-out RMSE, by model."""
    violations: Mapping[str, int]
    """Of the newest run that has a quality report: how many, by severity."""
    verdicts: Mapping[str, int]
    """Versions, by what the gate said of them."""
    production: int | None


class _Violation(msgspec.Struct, frozen=True):
    severity: Literal["error", "warning"]


class _Quality(msgspec.Struct, frozen=True):
    """What is read of `quality.json`."""

    violations: tuple[_Violation, ...]


@dataclass
class _Remembered:
    """What need not be asked for again, of one challenge."""

    verdicts: dict[int, str] = field(default_factory=dict)
    verdicts_at: float = -math.inf
    reports: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """By run that has ended; {} of one that left none."""


class MlflowRecords:
    """Looks at what MLflow has of some challenges."""

    def __init__(self, settings: MlflowSettings, challenges: Sequence[str]) -> None:
        """Raises ConfigurationError."""
        self._tracking: Tracking = connect(settings, patience_seconds=0.0)
        self._remembered = {challenge: _Remembered() for challenge in challenges}

    def look(self) -> dict[str, Records]:
        """By challenge. Raises CiError when MLflow is away, or refuses us."""
        return {challenge: self._challenge(challenge, known) for challenge, known in self._remembered.items()}

    def _challenge(self, challenge: str, known: _Remembered) -> Records:
        client = self._tracking.client
        found = self._tracking.ask("find the experiment", lambda: client.get_experiment_by_name(challenge))
        experiment = found.experiment_id if found and found.lifecycle_stage == "active" else ""
        since = int((datetime.now(UTC) - RECENT).timestamp() * 1000)
        recent = self._runs(experiment, f"attributes.start_time >= {since}", most=MOST_RUNS)
        newest = recent if len(recent) >= MOST_REPORTS else self._runs(experiment, "", most=MOST_REPORTS)
        finished = self._runs(experiment, "attributes.status = 'FINISHED'", most=1, order="end_time")
        self._count_versions(challenge, known)
        counted = Counter(known.verdicts.values())
        reasons = Counter(reason_of(run.data.tags.get("rps.reason", "")) for run in recent)
        production = self._tracking.production(challenge)
        return Records(
            retrainings={reason: reasons[reason] for reason in REASONS},
            errors=_errors(finished[0].data.metrics) if finished else {},
            violations=self._newest_report(newest[:MOST_REPORTS], known),
            verdicts={verdict: counted[verdict] for verdict in VERDICTS},
            production=int(production) if production else None,
        )

    def _runs(self, experiment: str, filtered: str, *, most: int, order: str = "start_time") -> list[Run]:
        """The newest first."""
        if not experiment:
            return []
        search = partial(
            self._tracking.client.search_runs,
            [experiment],
            filter_string=filtered,
            max_results=min(most, PAGE),
            order_by=[f"attributes.{order} DESC"],
        )
        return self._pages("search the runs", search, most)

    def _count_versions(self, challenge: str, known: _Remembered) -> None:
        """Bring ``known.verdicts`` up to date: a verdict is given soon after its version is made."""
        search = partial(
            self._tracking.client.search_model_versions,
            f"name = '{challenge}'",
            max_results=PAGE,
            order_by=["version_number DESC"],
        )
        everything = time.monotonic() - known.verdicts_at >= OLDER_SECONDS
        found = self._pages("search the versions", search, MOST_VERSIONS if everything else PAGE)
        verdicts = {int(version.version): version.tags.get("gate", "") for version in found}
        if everything:
            known.verdicts_at = time.monotonic()
        elif len(verdicts) == PAGE:
            oldest = min(verdicts)
            verdicts |= {version: verdict for version, verdict in known.verdicts.items() if version < oldest}
        known.verdicts = verdicts

    def _pages(self, doing: str, search: Callable[..., Any], most: int) -> list[Any]:
        found: list[Any] = []
        token = None
        while len(found) < most:
            page = self._tracking.ask(doing, partial(search, page_token=token))
            found += page
            token = page.token
            if not token:
                break
        return found

    def _newest_report(self, runs: Sequence[Run], known: _Remembered) -> Mapping[str, int]:
        """How many violations of each severity the newest report among these runs' tells; {} without one."""
        known.reports = {
            run.info.run_id: known.reports[run.info.run_id] for run in runs if run.info.run_id in known.reports
        }
        for run in runs:
            report = known.reports.get(run.info.run_id)
            if report is None:
                report = self._report(run)
                if run.info.status != "RUNNING":
                    known.reports[run.info.run_id] = report
            if report:
                return report
        return {}

    def _report(self, run: Run) -> Mapping[str, int]:
        from mlflow.artifacts import list_artifacts

        folder = f"{run.info.artifact_uri}/profile"
        # A 2.7 server calls an artifact that is not there a fault of its own, so it is looked for in the list; and by
        # the artifacts' address, as it does not answer what newer clients ask it about a run's.
        there = partial(list_artifacts, artifact_uri=folder, tracking_uri=self._tracking.uri)
        if not any(each.path.endswith(_REPORT) for each in self._tracking.ask("list the artifacts", there)):
            return {}
        try:
            content = self._tracking.artifact(folder, _REPORT)
            quality = msgspec.json.decode(content, type=_Quality)
        except (Missing, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        counted = Counter[str](violation.severity for violation in quality.violations)
        return {severity: counted[severity] for severity in SEVERITIES}


def reason_of(tag: str) -> str:
    """Which of ``REASONS`` the tag `rps.reason` of a run stands for."""
    words = tag.strip().lower().replace("-", " ")
    return next((reason for reason in REASONS if words.startswith(reason)), "other")


def _errors(metrics: Mapping[str, float]) -> dict[str, float]:
    found = {model: metrics.get(name) for model, name in MODELS.items()}
    return {model: value for model, value in found.items() if value is not None and math.isfinite(value)}
