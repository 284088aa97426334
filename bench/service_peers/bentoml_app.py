"""BentoML with the scikit-learn model, as its documentation writes a service: run by `bentoml serve`."""

import os
from pathlib import Path

import bentoml  # type: ignore[import-not-found]  # in an environment of its own
import joblib
import numpy as np


@bentoml.service
class Weather:
    def __init__(self) -> None:
        self.model = joblib.load(Path(os.environ["BENCH_MODEL"]) / "model.joblib")

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(features))
