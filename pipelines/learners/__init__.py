"""The learners that a challenge can name, one module each, imported when it is named; `docs/reference/learners.md`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from forecasting.challenge.schema import Challenge, ChallengeError
from pipelines.learners.learner import Learner, Parameters

LEARNERS = {
    "elastic_net": "elastic_net:ElasticNet",
    "hist_gradient_boosting": "hist_gradient_boosting:HistGradientBoosting",
    "mean": "mean:Mean",
    "ridge": "ridge:Ridge",
    "ridge_boosting": "ridge_boosting:RidgeBoosting",
}


def make_learner(challenge: Challenge, path: Path) -> Learner:
    """The learner that the challenge in the file ``path`` names, with its parameters.

    Raises ChallengeError when there is no such learner, or its parameters are not what it takes.
    """
    kind, key = challenge.learner.kind, "learner.parameters"
    if kind not in LEARNERS:
        raise ChallengeError(f"{path}: learner.kind: expected one of {', '.join(LEARNERS)}; found {kind!r}")
    learner = read_learner(kind, challenge.learner.parameters, str(path), key)
    for place, expected, found in learner.inconsistencies(challenge.features, key):
        raise ChallengeError(f"{path}: {place}: expected {expected}; found {found}")
    return learner


def read_learner(kind: str, parameters: Parameters, where: str, key: str) -> Learner:
    """The learner ``kind``, one of the table, with the parameters under ``key`` of the file ``where``.

    Raises ChallengeError.
    """
    module, _, name = LEARNERS[kind].partition(":")
    learner: Learner = getattr(import_module(f"{__name__}.{module}"), name).read(parameters, where, key)
    return learner
