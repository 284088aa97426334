"""May the candidate take production's place? Judged from the predictions themselves, by a policy, with every reason."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from forecasting.challenge import Gate
from forecasting.evaluation import Evaluation
from forecasting.panel import Panel

Rule = Literal["evidence", "baseline", "regression", "slice", "coverage", "bundle_size", "prediction_time"]


class Reason(Struct, frozen=True, kw_only=True):
    """One broken rule of the policy: which, and in one sentence with its numbers, what was expected and found."""

    rule: Rule
    message: str


class Contest(Struct, frozen=True, kw_only=True):
    """Candidate against production on some rows; errors in the target's unit (RMSE; MAE for absolute loss)."""

    slice: str
    """`overall`, `horizon 4`, or `series EWR`."""
    rows: int
    candidate: float
    persistence: float
    production: float | None = None
    change: float | None = None
    """candidate / production - 1: above 0 the candidate is worse. None without production, and so for all below."""
    low: float | None = None
    high: float | None = None
    """The confidence interval of ``change``."""
    p_value: float | None = None
    """One-sided, that the candidate loses more; of a slice: corrected for the number of slices."""
    worse: bool = False
    """Whether this slice breaks the policy."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What was decided, and the numbers that it was decided on."""

    outcome: Literal["pass", "block"]
    reasons: tuple[Reason, ...]
    """Every broken rule; empty when passed."""
    measure: Literal["RMSE", "MAE"]
    unit: str
    opponent: Literal["production", "persistence"]
    overall: Contest
    horizons: tuple[Contest, ...]
    series: tuple[Contest, ...]
    confidence: float
    """The level of the confidence intervals, e.g. 0.95."""
    interval: float
    """The nominal level of the models' intervals, e.g. 0.9."""
    coverage: float
    """The share of truths inside the candidate's intervals."""
    skill: float | None
    """1 - loss / persistence's loss; None when persistence made no error."""
    bundle_bytes: int
    prediction_time_ratio: float | None
    """The candidate's time per prediction over production's."""
    policy: Gate


def judge(panel: Panel, evaluation: Evaluation, policy: Gate) -> Verdict:
    """Every rule of the policy on the compared predictions; ``evaluation`` gives the models' provenance and costs.

    What `evaluation` says of errors is not used: they are computed anew. A reason of its own why the hold-out is
    unfair is kept, and its ``fair`` is not believed.
    """
    raise NotImplementedError
