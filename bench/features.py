"""Rows per second and memory of our features, beside mlforecast's with the same lags and windows on the same table.

`python bench/features.py [--peer PYTHON]` prints a Markdown table. PYTHON is an interpreter that has
requirements/bench.in; without it, or where this interpreter has mlforecast, only what can be measured is. Each
measurement is a process of its own, from a pandas frame to a pandas frame; all take turns, and the fastest run counts,
because another program on the machine can only make one slower.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from forecasting.features.spec import FeatureSpec

ROOT = Path(__file__).resolve().parent.parent
HOURS = 8707  # of a series: what a year of the recorded weather holds
SIZES = {"26k": 3, "260k": 30, "2.6M": 300}
LAGS = (0, 1, 2, 3, 6, 12, 18, 19, 20, 21, 24, 42, 43, 44, 48)
WINDOWS = (3, 6, 12, 24)
STATISTICS = ("mean", "std", "min", "max")
ROUNDS = 2
REPEATS = 3
SAMPLE_HOUR = 500
NAMES = {
    "ours": "ours",
    "weather": "ours, all of the weather challenge",
    "floor": "nothing: a fresh table of that size, filled",
}
Compute = Callable[[pd.DataFrame], pd.DataFrame]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has mlforecast")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    parser.add_argument("--series", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(MEASURED[options.measure](), options.series)))
        return 0
    peer = options.peer or (sys.executable if importlib.util.find_spec("mlforecast") else None)
    print(report({size: SIZES[size] for size in options.sizes}, peer))
    return 0


def report(sizes: dict[str, int], peer: str | None) -> str:
    """The Markdown table. sizes: by name, how many series."""
    lines = [
        f"{len(LAGS)} lags, {len(WINDOWS)} windows x {len(STATISTICS)} statistics of one variable; {HOURS:,} hours",
        f"a series; frame in, frame out; the fastest of {ROUNDS * REPEATS}, taken in turn",
        "",
        "| rows | features of | rows/s | seconds | CPU a row | memory of input and features | peak memory |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    contestants = {"ours": sys.executable, "mlforecast": peer, "weather": sys.executable, "floor": sys.executable}
    for size, series in sizes.items():
        measured: dict[str, list[dict[str, Any]]] = {}
        for _ in range(ROUNDS):
            for what, python in contestants.items():
                if python:
                    measured.setdefault(what, []).append(_in_its_own_process(python, what, series))
        fastest = {what: min(rounds, key=lambda each: float(each["seconds"])) for what, rounds in measured.items()}
        if peer:
            _check_agreement(fastest["ours"]["sample"], fastest["mlforecast"]["sample"])
        lines += [_line(size, NAMES.get(what) or f"{what} {best['version']}", best) for what, best in fastest.items()]
    if not peer:
        lines += ["", "mlforecast was not measured: give an interpreter that has it with `--peer`."]
    return "\n".join(lines)


def measure(compute: Compute, series: int) -> dict[str, Any]:
    """Seconds and memory (MiB) of one computation on ``series`` series."""
    compute(observations(1))
    before = _resident_mib()
    frame = observations(series)
    seconds, cpu_seconds = [], []
    features = compute(frame)
    for _ in range(REPEATS):
        del features
        started, started_cpu = time.perf_counter(), time.process_time()
        features = compute(frame)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - started_cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": len(frame),
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "peak": peak,
        "added": peak - before,
        "sample": _sample(features),
        "version": getattr(sys.modules.get("mlforecast"), "__version__", ""),
    }


def observations(series: int) -> pd.DataFrame:
    """Hours without a gap or a null, as mlforecast wants them: ``unique_id``, ``ds``, the variables of the weather."""
    random = np.random.default_rng(7)
    rows = series * HOURS
    hours = pd.date_range("2013-01-01", periods=HOURS, freq="h").to_numpy()
    values = {name: random.normal(10.0, 5.0, rows) for name in ("temperature", "dew_point", "humidity")}
    values |= {name: random.normal(10.0, 5.0, rows) for name in ("wind_speed", "wind_direction", "pressure")}
    names = np.array([f"s{number:03d}" for number in range(series)], dtype=object)
    return pd.DataFrame({"unique_id": np.repeat(names, HOURS), "ds": np.tile(hours, series), **values})


def ours() -> Compute:
    """The same features of the same variable as mlforecast is asked for."""
    from forecasting.challenge.schema import Features, Lags, Rolling
    from forecasting.features.spec import FeatureSpec

    features = Features(
        lags=(Lags("temperature", LAGS),),
        rolling=(Rolling("temperature", WINDOWS, STATISTICS),),  # type: ignore[arg-type]  # the literals, as text
    )
    return _compute(FeatureSpec("temperature", 60, (4, 5, 6), features))


def weather() -> Compute:
    """All features of the weather challenge."""
    from forecasting.challenge.schema import load_challenge
    from forecasting.features.spec import feature_spec

    return _compute(feature_spec(load_challenge(ROOT / "challenges" / "weather.toml")))


def _compute(spec: FeatureSpec) -> Compute:
    from pipelines.transform import feature_frame, observation_table

    return lambda frame: feature_frame(spec, observation_table(frame, spec.variables))


def mlforecast() -> Compute:
    """Its features of an hour are of the hours before, so that its lag 1 is our lag 0."""
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import RollingMax, RollingMean, RollingMin, RollingStd

    kinds = (RollingMean, RollingStd, RollingMin, RollingMax)
    rolling = [kind(window, min_samples=(window + 1) // 2) for window in WINDOWS for kind in kinds]
    forecaster = MLForecast(
        models=[], freq="h", lags=[lag + 1 for lag in LAGS], lag_transforms={1: rolling}, num_threads=2
    )

    def compute(frame: pd.DataFrame) -> pd.DataFrame:
        keys_and_target = frame[["unique_id", "ds", "temperature"]]
        features: pd.DataFrame = forecaster.preprocess(
            keys_and_target, target_col="temperature", static_features=[], dropna=False
        )
        return features

    return compute


def floor() -> Compute:
    """No features: a fresh table as large as ours. A small one is memory that is warm, a large one is not."""
    columns = len(LAGS) + len(WINDOWS) * len(STATISTICS)

    def compute(frame: pd.DataFrame) -> pd.DataFrame:
        values = np.empty((columns, len(frame)))
        values.fill(0.0)
        return pd.DataFrame(values.T, copy=False)

    return compute


MEASURED: dict[str, Callable[[], Compute]] = {
    "ours": ours,
    "weather": weather,
    "floor": floor,
    "mlforecast": mlforecast,
}


def _sample(features: pd.DataFrame) -> list[float]:
    """The features of one hour in the order of LAGS, then of WINDOWS and STATISTICS; none of the floor's."""
    if 0 in features:
        return []
    if "temperature_lag_0" in features:
        names = [f"temperature_lag_{lag}" for lag in LAGS]
        names += [f"temperature_rolling_{kind}_{window}" for window in WINDOWS for kind in STATISTICS]
        return [float(features[name].iloc[SAMPLE_HOUR]) for name in names]
    row = features.iloc[SAMPLE_HOUR + 1]
    found = [float(row[f"lag{lag + 1}"]) for lag in LAGS]
    for window in WINDOWS:
        to_population = {"std": math.sqrt((window - 1) / window)}
        names = [f"rolling_{kind}_lag1_window_size{window}_min_samples{(window + 1) // 2}" for kind in STATISTICS]
        found += [float(row[name]) * to_population.get(kind, 1.0) for kind, name in zip(STATISTICS, names, strict=True)]
    return found


def _check_agreement(ours: list[float], theirs: list[float]) -> None:
    if not all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(ours, theirs, strict=True)):
        raise SystemExit(f"the two do not compute the same features: {ours} and {theirs}")


def _in_its_own_process(python: str, what: str, series: int) -> dict[str, Any]:
    command = [python, str(Path(__file__).resolve()), "--measure", what, "--series", str(series)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _line(size: str, what: str, measured: dict[str, Any]) -> str:
    rate = measured["rows"] / measured["seconds"]
    memory = f"{measured['added']:,.0f} MiB | {measured['peak']:,.0f} MiB"
    cpu = f"{measured['cpu_seconds'] * 1e9 / measured['rows']:,.0f} ns"
    return f"| {size} | {what} | {rate:,.0f} | {measured['seconds']:.3f} | {cpu} | {memory} |"


if __name__ == "__main__":
    sys.exit(main())
