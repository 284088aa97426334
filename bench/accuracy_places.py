"""Hourly weather of other places and years, out of packages that are installed beside us; nothing is copied.

What is chosen is chosen on New York's 2013, and reported on these too: the weather challenge, with their series and
without the variables that they lack.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from bench.loop_models import History, history, recorded_year
from bench.peer_environments import interpreter
from bench.recorded_models import CHALLENGE
from forecasting.challenge.schema import Challenge, Series, load_challenge

_KEYS = ("unique_id", "ds")
_UNKNOWN = -9900
"""NREL's mark for what is not known."""


@dataclass(frozen=True)
class Place:
    about: str
    """One sentence: which hours, and whose they are."""
    past: Callable[[], History]


def as_challenge(series: Collection[str], variables: Collection[str]) -> Challenge:
    """The weather challenge for other series, with what it asks of these variables."""
    weather = load_challenge(CHALLENGE)
    replace, features, quality = msgspec.structs.replace, weather.features, weather.quality
    kept = {name: variable for name, variable in weather.source.variables.items() if name in variables}
    return replace(
        weather,
        source=replace(
            weather.source, variables=kept, series=tuple(Series(unique_id, {}) for unique_id in sorted(series))
        ),
        features=replace(
            features,
            lags=tuple(each for each in features.lags if each.variable in kept),
            rolling=tuple(each for each in features.rolling if each.variable in kept),
            differences=tuple(each for each in features.differences if each.variable in kept),
        ),
        quality=replace(
            quality,
            key_columns=tuple(name for name in quality.key_columns if name in kept),
            ranges={name: limits for name, limits in quality.ranges.items() if name in kept},
        ),
    )


def ireland() -> pd.DataFrame:
    """2016 at four points of MERRA-2's grid in Ireland, a reanalysis of NASA's, which puts no limit on its use.

    Source: brightwind's demo data sets; Gelaro et al. (2017), "MERRA-2".
    """
    names = {"T2M_degC": "temperature", "WS50m_m/s": "wind_speed", "WD50m_deg": "wind_direction", "PS_hPa": "pressure"}
    parts = []
    for path in sorted((_installed() / "brightwind" / "demo_datasets").glob("MERRA-2_*.csv")):
        table = pd.read_csv(path, parse_dates=["DateTime"]).rename(columns=names)
        parts.append(table.assign(unique_id=path.name.split("_")[1], ds=table["DateTime"].dt.tz_localize("UTC")))
    rows = pd.concat(parts)[[*_KEYS, *names.values()]]
    return rows[rows["ds"].dt.year == 2016].astype(dict.fromkeys(names.values(), np.float64))


def greensboro() -> pd.DataFrame:
    """A typical year (TMY3) at Greensboro's airport, as observed: each month is one of another year, 1980 to 2003.

    Where two months meet, six hours on either side are smoothed. All of it is dated 2013 here. NREL lets anyone use it
    for any purpose.
    Source: pvlib's data; Wilcox & Marion (2008), "Users Manual for TMY3 Data Sets".
    """
    names = {
        "Dry-bulb (C)": "temperature",
        "Dew-point (C)": "dew_point",
        "RHum (%)": "humidity",
        "Wspd (m/s)": "wind_speed",
        "Wdir (degrees)": "wind_direction",
        "Pressure (mbar)": "pressure",
    }
    table = pd.read_csv(_installed() / "pvlib" / "data" / "723170TYA.CSV", skiprows=1)
    values = table[list(names)].rename(columns=names).astype(np.float64)
    # Local standard time, five hours behind; a day's hours are numbered 1 to 24.
    ds = pd.date_range("2013-01-01T06:00", periods=len(table), freq="h", tz="UTC")
    rows = values.mask(values == _UNKNOWN).assign(unique_id="GSO", ds=ds)[[*_KEYS, *names.values()]]
    return rows[rows["ds"].dt.year == 2013]


def _past(name: str, rows: pd.DataFrame) -> History:
    challenge = as_challenge(set(rows["unique_id"]), set(rows.columns) - set(_KEYS))
    # Models are kept by this name; the recorded year's are kept by all that they depend on, which these rows are not.
    digest = hashlib.sha256(msgspec.json.encode(challenge) + rows.to_csv().encode()).hexdigest()[:8]
    return history(f"{name}_{digest}", rows, challenge)


def _installed() -> Path:
    (packages,) = interpreter("bench-data").parent.parent.glob("lib/*/site-packages")
    return packages


PLACES = {
    "new_york": Place(
        "The recorded year, on which everything was chosen: three airports as observed, in 2013 (NOAA, public domain).",
        recorded_year,
    ),
    "greensboro": Place(
        "One airport as observed, with every variable but precipitation: NREL's typical year (TMY3), whose months "
        "are of different years, 1980 to 2003; free for any purpose; in the package pvlib. Nothing was chosen on it.",
        functools.cache(lambda: _past("greensboro", greensboro())),
    ),
    "ireland": Place(
        "Four points of a reanalysis (MERRA-2, NASA, free for any purpose; in the package brightwind), in 2016: "
        "smoother than observations, without dew point and humidity. Nothing was chosen on it.",
        functools.cache(lambda: _past("ireland", ireland())),
    ),
}
