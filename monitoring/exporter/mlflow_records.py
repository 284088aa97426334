"""What MLflow knows of the challenges: runs and their reasons, errors, rejected data, versions and verdicts.

It only reads, from MLflow 2.7 (DagsHub) to the newest. A look asks for the runs of the last 24 hours and the newest
hundred versions, and once an hour for the older versions.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from clients.settings import MlflowSettings
from clients.tracking import Missing, Tracking, connect
from forecasting.judging.losses import LOSSES
from records.mlflow_names import LOSS, MODELS, Artifact, GateTag, Reason, RunTag, VersionTag, metric, reason_of
from records.quality import QualityReport

if TYPE_CHECKING:
    from mlflow.entities import Run

SEVERITIES = ("error", "warning")
RECENT = timedelta(hours=24)
PAGE = 100
MOST_RUNS, MOST_VERSIONS = 1000, 20_000
"""Limits of counting, per challenge: runs in 24 hours, and versions."""
MOST_REPORTS = 5
"""How many of the newest runs may have the newest quality report."""
OLDER_SECONDS = 3600.0


@dataclass(frozen=True)
class Records:
    """One challenge. What is unknown is left out; counts are 0 while MLflow does not know the challenge."""

    retrainings: Mapping[str, int]
    """Runs started in the last 24 hours, by reason."""
    errors: Mapping[str, float]
    """Of the newest run that finished: the error on the folds in the challenge's measure, by model."""
    violations: Mapping[str, int]
    """Of the newest run that has a quality report: how many, by severity."""
    verdicts: Mapping[str, int]
    """Versions, by what the gate said of them."""
    production: int | None


@dataclass
class _Remembered:
    """Answers about one challenge that do not change."""

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
        """By challenge. Raises RpsError when MLflow is away, or refuses us."""
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
        reasons = Counter(reason_of(run.data.tags.get(RunTag.REASON, "")) for run in recent)
        production = self._tracking.production(challenge)
        return Records(
            retrainings={reason: reasons[reason] for reason in Reason},
            errors=_errors(finished[0]) if finished else {},
            violations=self._newest_report(newest[:MOST_REPORTS], known),
            verdicts={verdict: counted[verdict] for verdict in GateTag},
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
        verdicts = {int(version.version): version.tags.get(VersionTag.GATE, "") for version in found}
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
        try:
            content = self._tracking.artifact(str(run.info.artifact_uri), Artifact.QUALITY)
            quality = msgspec.json.decode(content, type=QualityReport)
        except (Missing, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        counted = Counter[str](violation.severity for violation in quality.violations)
        return {severity: counted[severity] for severity in SEVERITIES}


def _errors(run: Run) -> dict[str, float]:
    measure = next((loss.measure for name, loss in LOSSES.items() if name == run.data.params.get(LOSS)), "")
    found = {model: run.data.metrics.get(metric(measure, model=model)) for model in MODELS}
    return {model: value for model, value in found.items() if value is not None and math.isfinite(value)}
