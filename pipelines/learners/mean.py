"""The mean of what several learners predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import pandas as pd

from forecasting.challenge.schema import ChallengeError, Features
from pipelines.learners import LEARNERS, read_learner
from pipelines.learners.learner import Fit, FloatArray, Learner, LearnerParameters, Parameters, sum_of


class Mean(LearnerParameters, frozen=True, forbid_unknown_fields=True):
    """learners: by name, at least two; in a challenge, each is a table of its parameters."""

    learners: dict[str, Learner]

    @classmethod
    def read(cls, parameters: Parameters, where: str, key: str) -> Self:
        others = sorted(set(LEARNERS) - {"mean"})
        for name, table in parameters.items():
            if name not in others:
                expected = f"a learner ({', '.join(others)})"
                raise ChallengeError(f"{where}: {key}.{name}: expected {expected}; found {name!r}")
            if not isinstance(table, dict):
                raise ChallengeError(f"{where}: {key}.{name}: expected a table of its parameters; found {table!r}")
        if len(parameters) < 2:
            found = ", ".join(parameters) or "none"
            raise ChallengeError(f"{where}: {key}: expected tables of at least two learners; found {found}")
        return cls({name: read_learner(name, table, where, f"{key}.{name}") for name, table in parameters.items()})

    def inconsistencies(self, features: Features, key: str) -> Iterator[tuple[str, str, str]]:
        for name, learner in self.learners.items():
            yield from learner.inconsistencies(features, f"{key}.{name}")

    def fit(self, features: pd.DataFrame, change: FloatArray, loss: str, seed: int) -> Fit:
        fits = {name: learner.fit(features, change, loss, seed) for name, learner in self.learners.items()}
        return sum_of(fits, 1.0 / len(fits))
