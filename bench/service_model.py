"""The model that the service and its peers are measured with: the same model as a bundle and as scikit-learn has it.

One `MultiOutputRegressor` of the weather challenge's learner, on the change of the target 4, 5 and 6 hours out, from
the recorded weather. Its features leave the calendar out, so that all horizons share their columns and one row
is one request. Kept under `.rps/bench/service/`.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from sklearn.multioutput import MultiOutputRegressor

from bench.recorded_models import CHALLENGE, bench_run, few_folds, fingerprint, recorded, transformed, write_models
from doubles.replay import recording
from forecasting.challenge.schema import load_challenge
from forecasting.features.spec import feature_spec, target_column
from forecasting.features.table import Table
from forecasting.judging.losses import LOSSES
from forecasting.models.bundle import Bundle, read_bundle
from forecasting.models.manifest import SeriesWindow
from pipelines.learners import make_learner
from pipelines.out_of_sample import known_rows, out_of_sample
from pipelines.train import fold_fit
from scripts.services import ROOT

FloatArray = npt.NDArray[np.float64]

CACHE = ROOT / ".rps" / "bench" / "service"
ORIGINS = 32
"""How many different rows are asked about, so that nothing is fast because it was asked the same before."""
FOUR_WEEKS = timedelta(days=28)
"""What is asked about lies in the last of them."""
TOLERANCE = 1e-9


class Origin(msgspec.Struct, frozen=True):
    """One moment to forecast from: its features, and the observations up to it that they follow from."""

    unique_id: str
    ds: tuple[datetime, ...]
    """lookback + 1 successive hours, the origin last."""
    window: dict[str, list[float]]
    """By variable, its values at those hours."""
    features: list[float]
    change: list[float]
    """What scikit-learn predicts, in °C, by horizon."""


class Asked(msgspec.Struct, frozen=True):
    """What is asked of every server. horizons: in steps; origin_column: of the target's value among the features."""

    horizons: tuple[int, ...]
    origin_column: int
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class Model:
    """Where the model lies, in each form, and what to ask."""

    bundle: Path
    joblib: Path
    """A directory with `model.joblib`."""
    mlflow: Path
    asked: Asked


def model() -> Model:
    """The model as it was kept, or made now. Raises ValueError when its two forms do not predict the same."""
    home = CACHE / fingerprint((load_challenge(CHALLENGE), sklearn.__version__), "service_model")
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=CACHE) as scratch:
            made = Path(scratch) / "model"
            _make(made)
            made.rename(home)
    asked = msgspec.json.decode((home / "asked.json").read_bytes(), type=Asked)
    _check(read_bundle(home / "bundle"), asked)
    return Model(home / "bundle", home / "joblib", home / "mlflow", asked)


def _make(home: Path) -> None:
    challenge = few_folds(load_challenge(CHALLENGE))
    without_calendar = msgspec.structs.replace(challenge.features, calendar=())
    parameters = challenge.learner.parameters | {"ridge": {"alpha": 300.0}}  # its products are with the calendar
    without_products = msgspec.structs.replace(challenge.learner, parameters=parameters)
    challenge = msgspec.structs.replace(challenge, features=without_calendar, learner=without_products)
    spec = feature_spec(challenge)
    as_of = recording.load().end
    observations, features = transformed(recorded(challenge), challenge)
    run = bench_run(challenge, as_of, home)
    known = known_rows(features, challenge, as_of)
    judged = out_of_sample(known, challenge, fold_fit(run, spec), lambda _: None)
    columns, targets = list(spec.columns), [target_column(horizon) for horizon in spec.horizons]

    learnt = known[known[targets].notna().all(axis=1)]
    change = learnt[targets].to_numpy() - learnt[["y"]].to_numpy()
    learner, seed = make_learner(challenge, CHALLENGE), challenge.learner.seed
    numbered = learnt[columns].set_axis(range(len(columns)), axis=1)  # peers send rows without names
    loss = LOSSES[challenge.target.loss].learner
    fits = [learner.fit(numbered, each, loss, seed) for each in change.T]
    fitted = MultiOutputRegressor(fits[0].estimator)
    fitted.estimators_ = [fit.estimator for fit in fits]
    fitted.n_features_in_ = len(columns)
    horizons = dict(zip(spec.horizons, fits, strict=True))
    write_models(home / "bundle", run, known, judged, horizons, observations=observations)
    _save_for_peers(home, fitted, learnt[columns].to_numpy()[:1])

    newest = known.loc[known["ds"] > as_of - FOUR_WEEKS, ["unique_id", "ds", *columns]]
    origins = _origins(observations, newest, spec.variables, spec.lookback)
    rows = np.array([features for _, _, _, features in origins])
    asked = tuple(
        Origin(*origin, change) for origin, change in zip(origins, fitted.predict(rows).tolist(), strict=True)
    )
    (home / "asked.json").write_bytes(msgspec.json.encode(Asked(spec.horizons, spec.origin_column, asked)))


def _save_for_peers(home: Path, fitted: MultiOutputRegressor, example: FloatArray) -> None:
    """In the forms that their documentations ask for."""
    import cloudpickle
    import mlflow.sklearn
    from mlflow.models import infer_signature

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of pickles; nothing of ours loads this one
    (home / "joblib").mkdir()
    with (home / "joblib" / "model.joblib").open("wb") as file:
        cloudpickle.dump(fitted, file)  # the sum of two learners holds a nested function, which joblib.dump refuses
    mlflow.sklearn.save_model(
        fitted,
        str(home / "mlflow"),
        serialization_format="cloudpickle",
        signature=infer_signature(example, fitted.predict(example)),
        pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
    )


def _origins(
    observations: Table, rows: pd.DataFrame, variables: tuple[str, ...], lookback: int
) -> list[tuple[str, tuple[datetime, ...], dict[str, list[float]], list[float]]]:
    """The parts of `Origin`, of moments before which no value is missing, spread over the rows."""
    frame = pd.DataFrame({name: observations.variables[name] for name in variables})
    frame["unique_id"] = np.asarray(observations.unique_ids, dtype=object)[observations.codes]
    frame["ds"] = pd.DatetimeIndex(observations.ds).tz_localize("UTC")
    windows = {str(unique_id): series.set_index("ds") for unique_id, series in frame.groupby("unique_id")}
    found = []
    for unique_id, origin, *features in rows.itertuples(index=False, name=None):
        window = windows[unique_id].loc[origin - pd.Timedelta(hours=lookback) : origin, list(variables)]
        if len(window) == lookback + 1 and window.notna().all(axis=None):
            values = {name: window[name].tolist() for name in variables}
            found.append((unique_id, tuple(moment.to_pydatetime() for moment in window.index), values, features))
    if len(found) < ORIGINS:
        raise ValueError(
            f"expected {ORIGINS} windows without a missing value in the last four weeks; found {len(found)}"
        )
    return [found[place] for place in np.linspace(0, len(found) - 1, ORIGINS).astype(int)]


def _check(bundle: Bundle, asked: Asked) -> None:
    """Whether the bundle predicts the origin's value plus the change that scikit-learn does, from either input."""
    place, spec = asked.origin_column, bundle.spec
    for origin in asked.origins:
        expected = origin.features[place] + np.array(origin.change)
        from_row = [bundle.predict(horizon, [origin.features])[0] for horizon in asked.horizons]
        rows = tuple(zip(*(origin.window[name] for name in spec.variables), strict=True))
        from_window = [one.value for one in bundle.forecast_window(SeriesWindow(origin.ds, rows))]
        worst = float(np.abs(np.array([from_row, from_window]) - expected).max())
        if not worst <= TOLERANCE:
            raise ValueError(f"{bundle.manifest.challenge}: the bundle and scikit-learn differ by {worst:g} °C")
