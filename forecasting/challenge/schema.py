"""A challenge: what is predicted, from which source, under which rules. One TOML file each.

Loading checks everything that can be checked without the network. An error names the file, the key, what was
expected and what was found. Durations carry their unit in the key; all times are UTC.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from forecasting.challenge.detectors import Detector, steps_kept
from forecasting.challenge.scales import SCALES, ScaleName
from forecasting.challenge.values import (
    Cycle,
    Name,
    NotNegative,
    Positive,
    PositiveFloat,
    SeriesId,
    Share,
    Statistic,
)
from forecasting.judging.baselines import DEFAULT, Baseline
from forecasting.judging.losses import LossName

T = TypeVar("T")

_KEY_COLUMNS = ("unique_id", "ds", "collected_at")
"""What every table of observations says of a row besides its variables."""


class ChallengeError(Exception):
    """A challenge file is missing or wrong; the message names file, key, expected and found."""


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """What is predicted: a variable, its unit, the step of its grid, how many steps ahead, and how it is measured."""

    variable: Name
    unit: str
    step_minutes: Positive
    horizons: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    scale: ScaleName = "identity"
    """On which it is learnt."""
    loss: LossName = "squared_error"
    baseline: Baseline = DEFAULT
    """Every model must beat it."""
    opponents: tuple[Baseline, ...] = ()
    """Further baselines, shown beside the models; they decide nothing."""

    @property
    def step(self) -> timedelta:
        return timedelta(minutes=self.step_minutes)


class SourceVariable(Struct, frozen=True, forbid_unknown_fields=True):
    """A column of the observations as its source calls it, with the unit in which it must come."""

    name: str
    unit: str


class Series(Struct, frozen=True, forbid_unknown_fields=True):
    """One series and what the source needs to find it (coordinates, a symbol, …)."""

    unique_id: SeriesId
    query: dict[str, str | int | float]


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where observations come from and how much of the past is kept."""

    kind: Literal["open-meteo", "openweathermap"]
    history_days: Positive
    variables: Annotated[dict[Name, SourceVariable], Meta(min_length=1)]
    series: Annotated[tuple[Series, ...], Meta(min_length=1)]
    page_days: Positive = 92
    revision_hours: NotNegative = 24
    timeout_seconds: PositiveFloat = 30.0
    attempts: Positive = 5


class Quality(Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of the data gate. Shares are of rows; the recent window is judged by the same limits on its own."""

    key_columns: Annotated[tuple[Name, ...], Meta(min_length=1)]
    stuck_columns: tuple[Name, ...]
    ranges: dict[Name, tuple[float, float]]
    max_null_share: Share = 0.01
    max_out_of_range_share: Share = 0.001
    max_conflicting_share: Share = 0.01
    recent_hours: Positive = 168
    max_gap_hours: Positive = 12
    max_age_hours: Positive = 6
    max_stuck_hours: Positive = 24
    min_rows: Positive = 1000


class Lags(Struct, frozen=True, forbid_unknown_fields=True):
    """The variable itself, that many steps before the forecast's origin (0 is the origin)."""

    variable: Name
    steps: Annotated[tuple[NotNegative, ...], Meta(min_length=1)]


class Rolling(Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of the variable over the last ``windows`` steps, the origin included.

    relative: each statistic is given minus the variable at the origin.
    """

    variable: Name
    windows: Annotated[tuple[Annotated[int, Meta(ge=2)], ...], Meta(min_length=1)]
    statistics: Annotated[tuple[Statistic, ...], Meta(min_length=1)]
    relative: bool = False


class Differences(Struct, frozen=True, forbid_unknown_fields=True):
    """The variable at the origin minus itself ``steps`` earlier."""

    variable: Name
    steps: Annotated[tuple[Positive, ...], Meta(min_length=1)]


class Vectors(Struct, frozen=True, forbid_unknown_fields=True):
    """A wind's components towards east (u) and north (v), that many steps before the origin.

    speed, direction: the variables; the direction is where the wind comes from, in degrees clockwise from north.
    """

    speed: Name
    direction: Name
    steps: Annotated[tuple[NotNegative, ...], Meta(min_length=1)]


class Features(Struct, frozen=True, forbid_unknown_fields=True):
    """The features of the past, and the calendar of the predicted hour."""

    lags: tuple[Lags, ...] = ()
    rolling: tuple[Rolling, ...] = ()
    differences: tuple[Differences, ...] = ()
    vectors: tuple[Vectors, ...] = ()
    calendar: tuple[Cycle, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that any feature reads, each once, in the order of first use."""
        groups: tuple[Lags | Rolling | Differences, ...] = (*self.lags, *self.rolling, *self.differences)
        read = [group.variable for group in groups]
        read += [variable for group in self.vectors for variable in (group.speed, group.direction)]
        return tuple(dict.fromkeys(read))

    @property
    def lookback(self) -> int:
        """How many steps before the origin the farthest-reaching feature looks."""
        groups: tuple[Lags | Differences | Vectors, ...] = (*self.lags, *self.differences, *self.vectors)
        windows = [window - 1 for group in self.rolling for window in group.windows]
        return max(windows + [steps for group in groups for steps in group.steps], default=0)


Parameter = int | float | str | bool | tuple[str, ...]


class Learner(Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is fitted, on everything known: the learner, its parameters, and the level of its intervals.

    Learners and their parameters are known to `pipelines.learners`, which checks both before a run does any work. A
    learner that is made of others has a table of parameters for each.
    """

    kind: Name
    parameters: dict[str, Parameter | dict[str, Parameter]] = {}
    seed: NotNegative = 0
    interval: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.9
    interval_half_life_hours: Annotated[float, Meta(ge=1.0, le=8760.0)] = 72.0
    """Intervals follow the size of the last errors, of which one so old counts half."""


class Folds(Struct, frozen=True, forbid_unknown_fields=True):
    """On which stretches of the history the recipe is judged, each predicted by a model that has not seen it."""

    count: Positive = 12
    """At most; a short history has as many as fit."""
    days: Positive = 28


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """The policy that judges a candidate; a pull request is judged by its base branch's.

    A regression is the relative growth of the error, in the measure of the challenge's loss, over production's.
    """

    max_regression: Share = 0.12
    negligible_regression: Share = 0.002
    strict: bool = False
    significance: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.001
    max_slice_regression: Share = 0.20
    coverage: tuple[Share, Share] = (0.85, 0.95)
    max_training_age_hours: Positive = 48
    """How old the newest target that a candidate has learnt from may be."""
    max_bundle_bytes: Positive = 20_000_000
    max_prediction_time_ratio: PositiveFloat = 2.0


class Drift(Struct, frozen=True, forbid_unknown_fields=True):
    """From where on the live signals count as drift."""

    max_out_of_distribution_ratio: Share = 0.2
    max_population_stability_index: PositiveFloat = 0.25
    """Where a window of the training data itself lay farther from all of it, that is the limit."""
    max_live_error_ratio: PositiveFloat = 1.5
    window_rows: Positive = 2016
    """Over how many predictions drift is measured."""


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """When the pipeline runs, and how a transient fault is retried."""

    cron: str
    retries: NotNegative = 3
    retry_delay_seconds: Positive = 10
    stage_timeout_minutes: Positive = 30


class Challenge(Struct, frozen=True, forbid_unknown_fields=True):
    """One prediction problem, whole."""

    name: Name
    title: str
    target: Target
    source: Source
    quality: Quality
    features: Features
    learner: Learner
    gate: Gate
    drift: Drift
    schedule: Schedule
    folds: Folds = Folds()
    detectors: tuple[Detector, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The value columns of the observations, in the order of the file."""
        return tuple(self.source.variables)

    @property
    def series_ids(self) -> tuple[str, ...]:
        return tuple(series.unique_id for series in self.source.series)


def load_challenge(path: Path) -> Challenge:
    """Read and check one challenge file. Raises ChallengeError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.toml"))) or "none"
        raise ChallengeError(f"{path}: no such challenge; expected a TOML file there; found: {known}") from None
    except OSError as error:
        raise ChallengeError(f"{path}: cannot be read: {error}") from error
    table = parse_table(content, str(path))
    for key, expected, found in _outdated(table):
        raise ChallengeError(f"{path}: {key}: expected {expected}; found {found}")
    challenge = converted(table, Challenge, str(path))
    for key, expected, found in _inconsistencies(challenge, path.stem):
        raise ChallengeError(f"{path}: {key}: expected {expected}; found {found}")
    return challenge


def parse_table(content: bytes, where: str) -> dict[str, Any]:
    """A challenge file before its keys are checked; ``where`` is what a message calls it. Raises ChallengeError."""
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ChallengeError(f"{where}: cannot be read as UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ChallengeError(f"{where}: not valid TOML: {error}") from error


def parse_part(table: dict[str, Any], key: str, kind: type[T], where: str, *, default: T) -> T:
    """One key of a file whose other keys may follow an older or newer schema. Raises ChallengeError."""
    return converted(table[key], kind, where, key) if key in table else default


def converted(value: object, kind: type[T], where: str, key: str = "") -> T:
    """The value at ``key`` of the file ``where`` as ``kind``. Raises ChallengeError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ChallengeError(f"{where}: {_located(value, kind, str(error), key)}") from error


def _located(value: Any, kind: object, message: str, prefix: str) -> str:  # noqa: ANN401 - whatever TOML can say
    """Turn msgspec's ``Expected … - at `$.a.b``` into key, expected and found."""
    message, _, location = message.partition(" - at `")
    path = location.rstrip("`").removeprefix("$")
    key = f"{prefix}{path}".lstrip(".") or "(top level)"
    parts = re.findall(r"\[[^]]*\]|[^.[]+", path)
    for part in parts:
        if part.startswith("[") and part != "[...]":
            value = value[int(part[1:-1])] if isinstance(value, list) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    if "unknown field" in message:
        message += f"; expected the keys {_keys(_type_at(kind, parts), value)}"
    elif message.startswith("Invalid value"):  # of the key that says which struct of a union this is
        message += f"; expected one of {', '.join(str(each.tag) for each in _type_at(kind, parts[:-1]).types)}"
    if isinstance(value, dict):
        found = f"; found the keys {', '.join(value) or 'nothing'}"
    else:
        found = "" if value is None else f"; found {value!r}"
    return f"{key}: {message[:1].lower()}{message[1:]}{found}"


def _type_at(kind: object, parts: list[str]) -> Any:  # noqa: ANN401 - whatever msgspec says of a type
    """The type that ``parts`` lead to."""
    info: Any = msgspec.inspect.type_info(kind)
    for part in parts:
        if isinstance(info, msgspec.inspect.StructType):
            info = next(field.type for field in info.fields if field.name == part)
        else:
            info = info.value_type if part == "[...]" else info.item_type
    return info


def _keys(info: Any, value: Any) -> str:  # noqa: ANN401 - as above, and whatever TOML can say
    """The keys of a struct; of a union of them, those of the one that ``value`` says that it is."""
    structs: tuple[Any, ...] = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    struct = next(each for each in structs if each.tag_field is None or value.get(each.tag_field) == each.tag)
    names = [field.name for field in struct.fields]
    return ", ".join([struct.tag_field, *names] if struct.tag_field else names)


def _outdated(table: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Keys that an earlier schema had: (key, what it has become, found)."""
    target = table.get("target")
    baseline = target.get("baseline") if isinstance(target, dict) else None
    if isinstance(baseline, str):
        yield (
            "target.baseline",
            f"a table since it has parameters: [target.baseline] kind = {baseline!r}",
            repr(baseline),
        )
    learner = table.get("learner")
    for key in ("holdout_days", "calibration_days"):
        if isinstance(learner, dict) and key in learner:
            became = "[folds] count and days: a model learns from everything, and is judged on folds"
            yield f"learner.{key}", became, repr(learner[key])


def _inconsistencies(challenge: Challenge, stem: str) -> Iterator[tuple[str, str, str]]:
    """What no single type can say: (key, expected, found), most basic first, each given that those before hold."""
    columns = challenge.columns
    target, quality, features = challenge.target, challenge.quality, challenge.features
    if challenge.name != stem:
        yield "name", f"the file's own name, {stem!r}", repr(challenge.name)
    if list(target.horizons) != sorted(set(target.horizons)):
        yield "target.horizons", "each horizon once, ascending", repr(list(target.horizons))
    if len(set(challenge.series_ids)) != len(challenge.series_ids):
        yield "source.series", "each unique_id once", repr(list(challenge.series_ids))
    known = f"one of source.variables ({', '.join(columns)})"
    used = [("target.variable", target.variable)]
    used += [("quality.key_columns", column) for column in quality.key_columns]
    used += [("quality.stuck_columns", column) for column in quality.stuck_columns]
    used += [(f"quality.ranges.{column}", column) for column in quality.ranges]
    used += [("features", variable) for variable in features.variables]
    used += [
        (f"detectors[{place}].{key}", variable)
        for place, detector in enumerate(challenge.detectors)
        for key, variable in detector.reads.items()
    ]
    yield from ((key, known, repr(column)) for key, column in used if column not in columns)
    for name in columns:
        if name in _KEY_COLUMNS:
            yield "source.variables", f"other names than {', '.join(_KEY_COLUMNS)}", repr(name)
    unit = challenge.source.variables[target.variable].unit
    if unit != target.unit:
        yield "target.unit", f"the unit of source.variables.{target.variable}, {unit!r}", repr(target.unit)
    for column, (low, high) in quality.ranges.items():
        if not low < high:
            yield f"quality.ranges.{column}", "[low, high] with low < high", repr([low, high])
    yield from _scale_inconsistencies(challenge)
    yield from _baseline_inconsistencies(challenge)
    yield from _gate_inconsistencies(challenge.gate, challenge.learner.interval)
    yield from _feature_inconsistencies(features, challenge.source)
    yield from _detector_inconsistencies(challenge)
    if challenge.folds.days >= challenge.source.history_days:
        expected = f"less than source.history_days ({challenge.source.history_days})"
        yield "folds.days", expected, str(challenge.folds.days)
    if len(challenge.schedule.cron.split()) != 5:
        yield "schedule.cron", "a cron expression of five fields", repr(challenge.schedule.cron)


def _scale_inconsistencies(challenge: Challenge) -> Iterator[tuple[str, str, str]]:
    target = challenge.target
    low = challenge.quality.ranges.get(target.variable, (-math.inf, math.inf))[0]
    if SCALES[target.scale].positive and low <= 0.0:
        expected = f"'identity', or quality.ranges.{target.variable} = [low, high] with low > 0"
        yield "target.scale", expected, repr(target.scale)
    for place, vectors in enumerate(challenge.features.vectors if target.scale != "identity" else ()):
        for key in ("speed", "direction"):
            if getattr(vectors, key) == target.variable:
                expected = f"another variable than the target, which is learnt on the scale {target.scale!r}"
                yield f"features.vectors[{place}].{key}", expected, repr(target.variable)


def _baseline_inconsistencies(challenge: Challenge) -> Iterator[tuple[str, str, str]]:
    target, units = challenge.target, challenge.source.variables
    read = dict.fromkeys((target.variable, *challenge.features.variables))
    alike = [variable for variable in read if units[variable].unit == target.unit]
    named = {"target.baseline": target.baseline}
    named |= {f"target.opponents[{place}]": opponent for place, opponent in enumerate(target.opponents)}
    for where, baseline in named.items():
        for key, expected, found in baseline.mistakes(target.step_minutes, target.horizons, alike):
            yield f"{where}.{key}", expected, found
    kinds = [opponent.kind for opponent in target.opponents]
    if len(set(kinds)) != len(kinds):
        yield "target.opponents", "each kind once", repr(kinds)


def _feature_inconsistencies(features: Features, source: Source) -> Iterator[tuple[str, str, str]]:
    if not features.variables and not features.calendar:
        yield "features", "at least one feature", "none"
    for place, rolling in enumerate(features.rolling):
        if rolling.relative and "std" in rolling.statistics:
            expected = "mean, min or max, because relative = true (list std in a group of its own: it has no level)"
            yield f"features.rolling[{place}].statistics", expected, repr(list(rolling.statistics))
    directions: dict[str, str] = {}
    for place, vectors in enumerate(features.vectors):
        direction, key = vectors.direction, f"features.vectors[{place}].direction"
        if (known := directions.setdefault(vectors.speed, direction)) != direction:
            yield key, f"{known!r}, as for {vectors.speed} before (the features are named after it)", repr(direction)
        if (unit := source.variables[direction].unit) != "°":
            yield key, "a variable in degrees (unit '°')", f"{direction!r}, in {unit!r}"


def _gate_inconsistencies(gate: Gate, interval: float) -> Iterator[tuple[str, str, str]]:
    for key in ("max_regression", "max_slice_regression"):
        if getattr(gate, key) < gate.negligible_regression:
            at_least = f"at least gate.negligible_regression ({gate.negligible_regression:g})"
            yield f"gate.{key}", at_least, repr(getattr(gate, key))
    low, high = gate.coverage
    if low >= high:
        yield "gate.coverage", "[low, high] with low < high", repr([low, high])
    elif not low < interval < high:
        expected = f"[low, high] around learner.interval ({interval:g}), or no model can pass"
        yield "gate.coverage", expected, repr([low, high])


def _detector_inconsistencies(challenge: Challenge) -> Iterator[tuple[str, str, str]]:
    target, features = challenge.target, challenge.features
    kept = tuple(dict.fromkeys((target.variable, *features.variables)))
    known: set[tuple[str, str]] = set()
    for place, detector in enumerate(challenge.detectors):
        where = f"detectors[{place}]"
        for key, variable in detector.reads.items():
            if variable not in kept:
                expected = (
                    f"a variable that the service keeps, the target or one that features read ({', '.join(kept)})"
                )
                yield f"{where}.{key}", expected, repr(variable)
        steps = steps_kept(detector, target.variable, features.lookback, target.baseline.lookback(target.step_minutes))
        if detector.steps > steps:
            expected = f"at most {steps}, the steps that the service keeps for features and baseline"
            yield f"{where}.steps", expected, str(detector.steps)
        if (detector.kind, detector.variable) in known:
            yield where, "each kind once for a variable", f"a second one for {detector.variable!r}"
        known.add((detector.kind, detector.variable))
        for key, expected, found in detector.mistakes(challenge.series_ids):
            yield f"{where}.{key}".rstrip("."), expected, found
