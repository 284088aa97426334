"""What a bundle says of itself: the types of `manifest.json` and `observations.json`, and the strict checks on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from forecasting.challenge.detectors import Detector, steps_kept
from forecasting.challenge.schema import Drift
from forecasting.challenge.values import Name, Positive, SeriesId
from forecasting.drift.distances import FeatureReference, Share
from forecasting.drift.sensor_faults import UsualDifference
from forecasting.features.spec import FeatureSpec
from forecasting.judging.baselines import DEFAULT, Fitted
from forecasting.judging.losses import LossName
from forecasting.models.intervals import Offsets, Scaling

Moment = Annotated[datetime, Meta(tz=True)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]

FORMAT_VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
OBSERVATIONS = "observations.json"


class BundleError(Exception):
    """A bundle is damaged, incomplete or of another version; the message names file, expected and found."""


class SeriesWindow(Struct, frozen=True, forbid_unknown_fields=True):
    """Observations of one series, oldest first: times (UTC), and a row of values in the order of ``spec.variables``."""

    ds: tuple[Moment, ...]
    values: tuple[tuple[float | None, ...], ...]


class Forecast(Struct, frozen=True, forbid_unknown_fields=True):
    """The target ``horizon`` steps after the origin, at ``ds``, with the interval's ends; in target units."""

    horizon: Positive
    ds: Moment
    value: float
    lower: float
    upper: float


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    """A worked example: these observations in, these forecasts out."""

    unique_id: SeriesId
    observations: SeriesWindow
    forecasts: tuple[Forecast, ...]


class VariableRange(Struct, frozen=True, forbid_unknown_fields=True):
    """The unit of a variable, and the values that it can take at all; None is no limit."""

    unit: str
    low: float | None = None
    high: float | None = None


class Description(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What training knows about a bundle; writing it adds the rest."""

    challenge: str
    unit: str
    features: FeatureSpec
    series: tuple[SeriesId, ...]
    train_start: Moment
    """The first origin that the models were fitted on."""
    train_end: Moment
    """The last moment whose observation had any part in fitting, targets included."""
    newest_row: Moment
    """The newest origin that the models were fitted on."""
    rows: dict[str, int]
    """How many rows were learnt from (``train``) and how many predictions the folds have (``judged``)."""
    rows_by_week: dict[str, int] = {}
    """How many rows of each week were learnt from, by ISO 8601: `2013-W09`."""
    dataset_md5: str
    git_sha: str
    mlflow_run: str
    interval: Share
    offsets: dict[int, Offsets]
    """By horizon, the conformal offsets of the interval of a forecast whose series' last errors are not known."""
    scaling: Scaling
    """How the intervals of a series follow its last errors."""
    references: dict[str, FeatureReference]
    """By feature column, what training saw."""
    title: str = ""
    variables: dict[Name, VariableRange] = {}
    """Of those that any feature reads; a value out of range is an error of its sender, not drift."""
    loss: LossName = "squared_error"
    baseline: Fitted = DEFAULT
    """What the challenge compares its models with, and the live skill is against."""
    opponents: tuple[Fitted, ...] = ()
    """Further baselines, measured and shown, which decide nothing."""
    drift: Drift = Drift()
    """From where on the live signals count as drift."""
    detectors: tuple[Detector, ...] = ()
    """What looks for faulty sensors on the stream."""
    usual_differences: dict[Name, dict[SeriesId, UsualDifference]] = {}
    """By variable that a detector compares between series."""
    errors: dict[int, dict[str, float]] = {}
    """By horizon, what the folds say: the recipe's error, the baseline's, …; empty until they are measured."""


class Manifest(Description, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `manifest.json` holds. The manifest's own checksum is of itself without that entry."""

    format_version: Literal[2]
    example: Example
    checksums: dict[str, Sha256]


def model_file(horizon: int) -> str:
    """The name of the file that holds the model of one horizon."""
    return f"h{horizon}.json"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(items: Iterable[object]) -> str:
    """The items in order, for a message."""
    return ", ".join(sorted(map(str, items))) or "none"


def encoded_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON with its own checksum set anew; the same manifest gives the same bytes."""
    plain: dict[str, Any] = msgspec.to_builtins(manifest, str_keys=True, order="deterministic")
    checksums = plain["checksums"] | {MANIFEST: _own_checksum(plain)}
    return _text(plain | {"checksums": dict(sorted(checksums.items()))})


def decoded_manifest(encoded: bytes) -> Manifest:
    """Read and check a manifest. Raises BundleError."""
    try:
        version = msgspec.json.decode(encoded, type=_Version).format_version
        if version != FORMAT_VERSION:
            step = "Retrain: run the pipeline" if version < FORMAT_VERSION else "Use the release that wrote it"
            raise BundleError(f"{MANIFEST}: expected format version {FORMAT_VERSION}; found {version}. {step}.")
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{MANIFEST}: expected a bundle's manifest as JSON; found otherwise: {error}") from error
    check_description(manifest)
    _check_files(manifest)
    # Of what the file says, so that a field which came later, and has a default, does not spoil earlier bundles.
    own = _own_checksum(msgspec.json.decode(encoded))
    if own != manifest.checksums[MANIFEST]:
        raise BundleError(f"{MANIFEST}: expected SHA-256 {manifest.checksums[MANIFEST]}; found {own}")
    return manifest


def check_description(description: Description) -> None:
    """Whether the parts speak of the same horizons and features. Raises BundleError."""
    spec = description.features
    horizons = set(spec.horizons)
    for key, expected, found in (
        ("offsets", horizons, set(description.offsets)),
        ("scaling.offsets", horizons, set(description.scaling.offsets)),
        ("scaling.usual", horizons, set(description.scaling.usual)),
        ("errors", horizons if description.errors else set(), set(description.errors)),
        ("references", set(spec.columns), set(description.references)),
    ):
        _check_same(key, expected, found)
    for detector in description.detectors:
        lacking = set(detector.reads.values()) - set(spec.variables)
        steps = steps_kept(detector, spec.target, spec.lookback, description.baseline.lookback(spec.step_minutes))
        if lacking or detector.steps > steps:
            kept = f"variables and steps that are kept ({listed(spec.variables)}; {steps} steps)"
            read = f"{listed(detector.reads.values())}; {detector.steps} steps"
            raise BundleError(f"{MANIFEST}: detectors: expected {kept}; found {read}")


def decoded_observations(encoded: bytes, manifest: Manifest) -> dict[str, SeriesWindow]:
    """Read and check the last observations of each series. Raises BundleError."""
    try:
        observations = msgspec.json.decode(encoded, type=dict[str, SeriesWindow])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{OBSERVATIONS}: expected observations by series; found otherwise: {error}") from error
    if set(observations) != set(manifest.series):
        raise BundleError(f"{OBSERVATIONS}: expected {listed(manifest.series)}; found {listed(observations)}")
    for unique_id, window in observations.items():
        check_window(f"{OBSERVATIONS}: {unique_id}", window, manifest.features)
    return observations


def check_window(where: str, window: SeriesWindow, spec: FeatureSpec) -> None:
    """Whether each time has a row of one value per variable. Raises BundleError."""
    widths = {len(row) for row in window.values}
    if len(window.ds) != len(window.values) or not widths <= {len(spec.variables)}:
        expected = f"{len(window.ds)} rows of {len(spec.variables)} values"
        raise BundleError(f"{where}: expected {expected}; found {len(window.values)} rows of {listed(widths)}")


class _Version(Struct):
    format_version: int


def _check_files(manifest: Manifest) -> None:
    """Names of files are compared with those that there must be, so none can lead out of the directory."""
    spec = manifest.features
    _check_same("checksums", {MANIFEST, OBSERVATIONS, *map(model_file, spec.horizons)}, set(manifest.checksums))
    _check_same("example.forecasts", set(spec.horizons), {each.horizon for each in manifest.example.forecasts})
    check_window(f"{MANIFEST}: example.observations", manifest.example.observations, spec)


def _check_same(key: str, expected: set[object] | set[int] | set[str], found: set[int] | set[str]) -> None:
    if expected != found:
        raise BundleError(f"{MANIFEST}: {key}: expected {listed(expected)}; found {listed(found)}")


def _own_checksum(plain: dict[str, Any]) -> str:
    """Of a manifest without the entry that holds it."""
    others = {name: digest for name, digest in plain["checksums"].items() if name != MANIFEST}
    return sha256(_text(plain | {"checksums": others}))


def _text(plain: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
