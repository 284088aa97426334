"""Which model version is released: the best that passed the gate and whose commit is in the history of `master`.

Versions are ranked by their relative skill against today's production model: 1 - e/p, with e the error of the version
and p that of production, in the measure of the challenge's loss, on the same folds. A version that was compared with
an earlier production model is linked through the versions between: the ratios of errors are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ci.release.plan import ModelVersion
from ci.wording import percent
from clients.errors import ConfigurationError, NotReleased
from records.mlflow_names import GateTag, VersionTag, metric

SKILL_DECIMALS = 4
"""Skills that agree to this many decimals are a tie, which the newer version wins."""


@dataclass(frozen=True)
class Considered:
    """A version, and what speaks for it or against it."""

    version: ModelVersion
    skill: float | None
    """Against today's production model, or the baseline when there is none; None when it cannot be compared."""
    refused: str
    """Why it cannot be released; empty when it can."""

    @property
    def summary(self) -> str:
        skill = "not comparable" if self.skill is None else f"relative skill {percent(self.skill)}"
        return f"version {self.version.version} (commit {self.version.git_sha[:7] or '?'}): {self.refused or skill}"


@dataclass(frozen=True)
class Choice:
    """The version to release, why, and all versions considered, best first."""

    version: ModelVersion
    reason: str
    considered: tuple[Considered, ...]


def choose(
    versions: Sequence[ModelVersion],
    *,
    production: int | None,
    measure: str,
    in_history: Callable[[str], bool],
    pinned: int | None = None,
) -> Choice:
    """The version to release.

    production: the version that the alias names now; measure: of the challenge's loss, as MLflow's metrics name it;
    in_history: whether a commit is part of the released one; pinned: the requested version.
    Raises NotReleased when none, or not the requested one, can be released; ConfigurationError when it does not exist.
    """
    known = {version.version: version for version in versions}
    skills = _skills(known, production, measure)
    considered = [
        Considered(version, skills.get(version.version), _refused(version, in_history)) for version in versions
    ]
    considered.sort(key=lambda one: (not one.refused, _rank(one.skill), one.version.version), reverse=True)
    if pinned is not None:
        return _pinned(pinned, considered)
    able = [one for one in considered if not one.refused and not one.version.withdrawn]
    comparable = [one for one in able if one.skill is not None]
    if not comparable:
        raise NotReleased(_none(considered, able))
    best = comparable[0]
    opponent = f"production, version {production}" if production is not None else "the baseline"
    reason = f"the best of {len(comparable)} by relative skill against {opponent}"
    if best.version.version == production:
        reason = f"it is production already, and none of {len(comparable)} is better"
    elif len(comparable) > 1 and _rank(comparable[1].skill) == _rank(best.skill):
        reason = f"{reason}; the newer of those that tie"
    return Choice(best.version, reason, tuple(map(_with_withdrawal, considered)))


def _pinned(pinned: int, considered: Sequence[Considered]) -> Choice:
    found = next((one for one in considered if one.version.version == pinned), None)
    if found is None:
        known = ", ".join(map(str, sorted(one.version.version for one in considered))) or "none"
        raise ConfigurationError(f"--model-version: expected a version of the registry ({known}); found {pinned}")
    if found.refused:
        raise NotReleased(f"version {pinned} was asked for, and cannot be released: {found.refused}")
    return Choice(found.version, "it was asked for by --model-version", tuple(considered))


def _refused(version: ModelVersion, in_history: Callable[[str], bool]) -> str:
    if version.gate != GateTag.PASSED:
        reasons = {GateTag.BLOCKED.value: "blocked by the gate", GateTag.PENDING.value: "the gate has not judged it"}
        return reasons.get(version.gate, f"its tag {VersionTag.GATE} is {version.gate!r}, not '{GateTag.PASSED}'")
    if not version.git_sha or not in_history(version.git_sha):
        return "its commit is not in the history of the commit that is released"
    return ""


def _with_withdrawal(one: Considered) -> Considered:
    withdrawn = one.version.withdrawn
    return replace(one, refused=f"withdrawn: {withdrawn}") if withdrawn and not one.refused else one


def _none(considered: Sequence[Considered], able: Sequence[Considered]) -> str:
    if not considered:
        return "there is no version in the model registry: has the pipeline run, and is it the right MLflow?"
    if able:
        names = ", ".join(str(one.version.version) for one in able)
        return f"no version can be compared with production: {names} passed the gate against a model unknown here"
    first = "; ".join(_with_withdrawal(one).summary for one in considered[:5])
    more = f"; and {len(considered) - 5} more" if len(considered) > 5 else ""
    return f"no version passed the gate on a commit of this history: {first}{more}"


def _skills(known: Mapping[int, ModelVersion], production: int | None, measure: str) -> dict[int, float]:
    """The relative skill of each version that can be compared with production, or with the baseline without one."""
    scores: dict[int, _Score] = {}
    for number in sorted(known):  # an opponent is older than the version that met it
        score = _score(known[number], scores, production, measure)
        if score is not None:
            scores[number] = score
    base = scores.get(production, _Score("production", 0.0)) if production is not None else _Score("baseline", 0.0)
    comparable = {number: score.logarithm for number, score in scores.items() if score.link == base.link}
    return {number: 1 - math.exp(logarithm - base.logarithm) for number, logarithm in comparable.items()}


@dataclass(frozen=True)
class _Score:
    """The logarithm of a version's error over that of its link."""

    link: Literal["baseline", "production"]
    logarithm: float


def _score(version: ModelVersion, scores: Mapping[int, _Score], production: int | None, measure: str) -> _Score | None:
    metrics, opponent = version.metrics, version.opponent
    against = metric(measure, model="production")
    if opponent is None and against in metrics and version.version != production:
        opponent = production
    start: _Score | None = _Score("production", 0.0) if opponent == production else None
    if opponent is None or (production is None and opponent not in scores):
        against, start = metric(measure, model="baseline"), _Score("baseline", 0.0)
    elif opponent in scores:
        start = scores[opponent]
    ratio = _ratio(metrics, measure, against)
    if start is not None and ratio is not None:
        return _Score(start.link, start.logarithm + math.log(ratio))
    return _Score("production", 0.0) if version.version == production else None


def _ratio(metrics: Mapping[str, float], of: str, over: str) -> float | None:
    above, below = metrics.get(of, math.nan), metrics.get(over, math.nan)
    return above / below if above > 0 and below > 0 and math.isfinite(above) and math.isfinite(below) else None


def _rank(skill: float | None) -> float:
    return -math.inf if skill is None else round(skill, SKILL_DECIMALS)
