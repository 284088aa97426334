"""Every kind of mistake in a challenge file is reported with file, key, expected and found."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from forecasting.challenge.schema import ChallengeError, load_challenge
from forecasting.features.spec import feature_spec

CHALLENGES = Path(__file__).resolve().parents[2] / "challenges"
WEATHER = (CHALLENGES / "weather.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(CHALLENGES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_challenge_of_this_repository_loads(path: Path) -> None:
    assert load_challenge(path).name == path.stem


MISTAKES = [
    ("horizons = [4, 5, 6]", 'horizons = [4, "x"]', "target.horizons[1]", "`int`", "'x'"),
    ("horizons = [4, 5, 6]", "horizons = []", "target.horizons", "length >= 1", ""),
    ("horizons = [4, 5, 6]", "horizons = [6, 4]", "target.horizons", "ascending", "[6, 4]"),
    ("horizons = [4, 5, 6]", "horizons = [0]", "target.horizons[0]", ">= 1", "0"),
    ('name = "weather"', 'name = "other"', "name", "'weather'", "'other'"),
    ('title = "', 'titel = "', "unknown field `titel`", "the keys name, title, target", "the keys name, titel, target"),
    ('unique_id = "JFK"', 'unique = "JFK"', "source.series[1]", "the keys unique_id, query", "keys unique, query"),
    ('unique_id = "JFK"', 'unique_id = "JFK"\nid = 1', "source.series[1]", "the keys unique_id, query", "id, query"),
    ('unit = "mm" }', 'unit = "mm", kind = 1 }', "source.variables[...]", "the keys name, unit", ""),
    ("history_days = 365", "", "source", "missing required field `history_days`", ""),
    ("history_days = 365", "history_days = 28", "folds.days", "28", "less than source.history_days (28)"),
    ("days = 28\n\n[gate]", "days = 0\n\n[gate]", "folds.days", ">= 1", "0"),
    ("[folds]\ncount = 12", "[folds]\ncount = 0", "folds.count", ">= 1", "0"),
    ("[folds]\n", "[folds]\nweeks = 4\n", "folds", "the keys count, days", "weeks"),
    ("seed = 20131\n", "holdout_days = 28\n", "learner.holdout_days", "[folds] count and days", "28"),
    ("seed = 20131\n", "calibration_days = 14\n", "learner.calibration_days", "[folds] count and days", "14"),
    ("max_training_age_hours = 48", "max_training_age_hours = 0", "gate.max_training_age_hours", ">= 1", "0"),
    ('kind = "open-meteo"', 'kind = "tarot"', "source.kind", "", "'tarot'"),
    ('unique_id = "JFK"', 'unique_id = "EWR"', "source.series", "each unique_id once", "EWR"),
    ('unique_id = "JFK"', 'unique_id = "../x"', "source.series[1].unique_id", "matching regex", "'../x'"),
    ('variable = "temperature"\nunit', 'variable = "heat"\nunit', "target.variable", "source.variables", "'heat'"),
    ('unit = "°C"\nstep', 'unit = "°F"\nstep', "target.unit", "'°C'", "'°F'"),
    ("max_null_share = 0.01", "max_null_share = 1.5", "quality.max_null_share", "<= 1.0", "1.5"),
    ("temperature = [-60.0, 60.0]", "temperature = [60.0, -60.0]", "quality.ranges.temperature", "low < high", "60.0"),
    ("temperature = [-60.0, 60.0]", "mood = [0.0, 1.0]", "quality.ranges.mood", "source.variables", "'mood'"),
    ('statistics = ["mean"', 'statistics = ["median"', "features.rolling[0].statistics[0]", "", "'median'"),
    (
        'statistics = ["mean", "min", "max"]',
        'statistics = ["mean", "std"]',
        "features.rolling[0].statistics",
        "mean, min or max, because relative = true",
        "['mean', 'std']",
    ),
    ('speed = "wind_speed"', 'speed = "gust"', "features", "source.variables", "'gust'"),
    (
        'direction = "wind_d',
        'direction = "humidity" # ',
        "features.vectors[0].direction",
        "(unit '°')",
        "'humidity', in '%'",
    ),
    (
        "[[features.vectors]]",
        (
            '[[features.vectors]]\nspeed = "wind_speed"\ndirection = "wind_direction"\nsteps = [1]\n'
            '[[features.vectors]]\nspeed = "wind_speed"\ndirection = "pressure"\nsteps = [0]\n[[features.vectors]]'
        ),
        "features.vectors[1].direction",
        "'wind_direction', as for wind_speed before",
        "'pressure'",
    ),
    ('cron = "17 */6 * * *"', 'cron = "daily"', "schedule.cron", "five fields", "'daily'"),
    ("coverage = [0.85, 0.95]", "coverage = [0.95, 0.85]", "gate.coverage", "low < high", "0.95"),
    ("\nmax_regression = ", "\nmax_regression = 0.0  # ", "gate.max_regression", "gate.negligible_regression", "0.0"),
    (
        "max_slice_regression = ",
        "max_slice_regression = 0.0  # ",
        "gate.max_slice_regression",
        "gate.negligible_regression",
        "0.0",
    ),
    ("interval = 0.9\n", "interval = 0.8\n", "gate.coverage", "around learner.interval (0.8)", "[0.85, 0.95]"),
    (
        "[source.variables]",
        '[source.variables]\nds = { name = "time", unit = "s" }',
        "source.variables",
        "other names than unique_id, ds",
        "'ds'",
    ),
    ('kind = "physics"', 'kind = "magic"', "detectors[0].kind", "one of physics, neighbours, runs", "'magic'"),
    ('kind = "physics"\n', "", "detectors[0]", "missing required field `kind`", "the keys temperature, dew_point"),
    ('kind = "physics"', 'kind = "physics"\nhours = 6', "detectors[0]", "kind, temperature, dew_point", "kind, hours"),
    ('kind = "physics"', 'kind = "physics"\npoints = 0.0', "detectors[0].points", "> 0.0", "0.0"),
    ('kind = "physics"', 'kind = "physics"\nat_least = 7', "detectors[0].at_least", "at most steps (6)", "7"),
    ('humidity = "humidity"', 'humidity = "rain"', "detectors[0].humidity", "one of source.variables", "'rain'"),
    (
        'humidity = "humidity"',
        'humidity = "precipitation"',
        "detectors[0].humidity",
        "features read",
        "'precipitation'",
    ),
    ('kind = "neighbours"', 'kind = "neighbours"\nsteps = 700', "detectors[1].steps", "at most 673", "700"),
    ('kind = "physics"', 'kind = "physics"\nsteps = 30', "detectors[0].steps", "at most 25", "30"),
    (
        'kind = "neighbours"',
        'kind = "neighbours"\nlimit = 24.0',
        "detectors[1].limit",
        "sum that there can be (24)",
        "24",
    ),
    ('kind = "runs"', 'kind = "runs"\nsteps = 1', "detectors[2].steps", ">= 2", "1"),
    (
        '[[detectors]]\nkind = "runs"',
        '[[detectors]]\nkind = "runs"\nvariable = "wind_speed"\n\n[[detectors]]\nkind = "runs"',
        "detectors[3]",
        "each kind once for a variable",
        "'wind_speed'",
    ),
    (
        'kind = "climatology"\ndays',
        'kind = "tides"\ndays',
        "target.baseline.kind",
        "one of persistence, climatology",
        "'tides'",
    ),
    ("days = 28", "weeks = 4", "target.baseline", "the keys kind, days", "the keys kind, weeks"),
    ("days = 28", "days = 0", "target.baseline.days", ">= 1", "0"),
    ("days = 28", "days = 2", "target.baseline.days", "at least 3 for a horizon of 6 steps", "2"),
    ('kind = "climatology"\n', "", "target.baseline", "missing required field `kind`", "days"),
    ("step_minutes = 60", "step_minutes = 61", "target.baseline.kind", "another kind", "'climatology'"),
    ('kind = "persistence"', 'kind = "linear"', "target.opponents[0]", "missing required field `features`", "kind"),
    (
        'kind = "persistence"',
        'kind = "last"\ncolumn = "humidity"',
        "target.opponents[0].column",
        "in the target's unit (temperature, dew_point)",
        "'humidity'",
    ),
    (
        "[[target.opponents]]",
        '[[target.opponents]]\nkind = "persistence"\n\n[[target.opponents]]',
        "target.opponents",
        "each kind once",
        "persistence",
    ),
    (
        '[target.baseline]\nkind = "climatology"\ndays = 28',
        'baseline = "persistence"',
        "target.baseline",
        "[target.baseline] kind = 'persistence'",
        "found 'persistence'",
    ),
    ('loss = "squared_error"', 'loss = "surprise"', "target.loss", "", "'surprise'"),
    ('loss = "squared_error"', 'scale = "root"', "target.scale", "", "'root'"),
    (
        'loss = "squared_error"',
        'scale = "log"',
        "target.scale",
        "'identity', or quality.ranges.temperature = [low, high] with low > 0",
        "'log'",
    ),
    ("[target]", "[target", "not valid TOML", "line", ""),
]


@pytest.mark.parametrize(
    ("right", "wrong", "key", "expected", "found"), MISTAKES, ids=[m[1][:40] or m[0] for m in MISTAKES]
)
def test_a_mistake_is_reported_with_file_key_expected_and_found(
    tmp_path: Path, right: str, wrong: str, key: str, expected: str, found: str
) -> None:
    assert right in WEATHER
    path = tmp_path / "weather.toml"
    path.write_text(WEATHER.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ChallengeError) as caught:
        load_challenge(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert expected in message
    assert found in message


def test_a_missing_file_is_reported_with_the_challenges_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "weather.toml").write_text(WEATHER, encoding="utf-8")
    with pytest.raises(ChallengeError, match=r"crypto\.toml: no such challenge.*found: weather"):
        load_challenge(tmp_path / "crypto.toml")


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "weather.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ChallengeError, match="UTF-8"):
        load_challenge(path)


def test_neighbours_need_a_second_series(tmp_path: Path) -> None:
    start, end = WEATHER.index("[[source.series]]"), WEATHER.index("[quality]")
    alone = WEATHER[start:end].split("\n\n")[0] + "\n\n"
    path = tmp_path / "weather.toml"
    path.write_text(WEATHER[:start] + alone + WEATHER[end:], encoding="utf-8")
    with pytest.raises(
        ChallengeError, match=r"detectors\[1\]: expected at least two series to compare; found only EWR"
    ):
        load_challenge(path)


@pytest.mark.parametrize(
    ("old", "new", "lookback"),
    [
        ("", "", 24),
        ('variable = "humidity"\nsteps = [0]', 'variable = "humidity"\nsteps = [0, 31]', 31),
        ("windows = [24]", "windows = [33]", 32),
        ("steps = [1, 3, 24]", "steps = [1, 3, 34]", 34),
        ('direction = "wind_direction"\nsteps = [0, 3]', 'direction = "wind_direction"\nsteps = [0, 35]', 35),
    ],
    ids=["as shipped", "lags", "rolling", "differences", "vectors"],
)
def test_what_the_features_look_back_on_is_what_the_service_keeps(
    old: str, new: str, lookback: int, tmp_path: Path
) -> None:
    path = tmp_path / "weather.toml"
    path.write_text(WEATHER.replace(old, new), encoding="utf-8")
    challenge = load_challenge(path)
    assert challenge.features.lookback == lookback == feature_spec(challenge).lookback


@pytest.mark.parametrize("key", ["speed", "direction"])
def test_a_vector_of_a_target_that_is_learnt_as_its_logarithm_is_refused(tmp_path: Path, key: str) -> None:
    variable = {"speed": "wind_speed", "direction": "wind_direction"}[key]
    target = WEATHER.index("[target]"), WEATHER.index("[target.baseline]")
    unit = tomllib.loads(WEATHER)["source"]["variables"][variable]["unit"]
    learnt = f'[target]\nvariable = "{variable}"\nunit = "{unit}"\nstep_minutes = 60\nhorizons = [4]\nscale = "log"\n\n'
    low, high = tomllib.loads(WEATHER)["quality"]["ranges"][variable]
    text = WEATHER[: target[0]] + learnt + WEATHER[target[1] :]
    text = text.replace(f"{variable} = [{low}, {high}]", f"{variable} = [0.01, {high}]")
    path = tmp_path / "weather.toml"
    path.write_text(text, encoding="utf-8")
    expected = rf"features\.vectors\[0\]\.{key}: expected another variable than the target.*'log'; found '{variable}'"
    with pytest.raises(ChallengeError, match=expected):
        load_challenge(path)
