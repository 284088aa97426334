"""The model bundle: a directory that is all a server needs, and holds only data.

`manifest.json`, one model per horizon as plain arrays (`h4.json`), and `observations.json`, the last observations of
each series. The models predict the change of the target from its value at the origin, on the target's scale. The same
inputs give the same bytes. Nothing is read as a model before its checksum has been found right, and nothing is computed
from a model whose arrays do not fit together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from forecasting.features.definitions import FeatureError
from forecasting.features.ring_buffer import RingBuffer
from forecasting.features.spec import FeatureSpec
from forecasting.features.table import Table, grid_steps
from forecasting.models.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    OBSERVATIONS,
    BundleError,
    Description,
    Example,
    Forecast,
    Manifest,
    SeriesWindow,
    check_description,
    check_window,
    decoded_manifest,
    decoded_observations,
    encoded_manifest,
    listed,
    model_file,
    sha256,
)
from forecasting.models.portable import Portable, decoded_model, encoded_model

FloatArray = npt.NDArray[np.float64]

TOLERANCE = 1e-9
"""How far a forecast may come out from what the worked example says: relative, and in target units if these reach 0."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole."""

    manifest: Manifest
    observations: Mapping[str, SeriesWindow]
    models: Mapping[int, Portable]
    """By horizon."""

    @property
    def spec(self) -> FeatureSpec:
        return self.manifest.features

    def predict(self, horizon: int, matrix: npt.ArrayLike) -> FloatArray:
        """The target ``horizon`` steps ahead: (n,), its value at the origin plus the predicted change, in its unit.

        matrix: (n, len(spec.columns_for(horizon))), NaN when missing; NaN comes out where the origin's value is.
        Raises FeatureError for another shape or horizon.
        """
        inputs = np.ascontiguousarray(matrix, dtype=np.float64)
        width = len(self.spec.columns_for(horizon))
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise FeatureError(f"matrix: expected (n, {width}) for horizon {horizon}; found {inputs.shape}")
        if not len(inputs):
            return np.zeros(0)
        scale = self.spec.target_scale
        origin = scale.unscaled_values(inputs[:, self.spec.origin_column])
        return scale.changed_values(origin, self.models[horizon].predict(inputs))

    def forecast(self, buffer: RingBuffer) -> tuple[Forecast, ...]:
        """Every horizon, with intervals, from the state of a series.

        Raises FeatureError when the newest observation has no value of the target.
        """
        spec, origin = self.spec, buffer.newest
        if origin is None or np.isnan(buffer.origin_value):
            found = f"none at {origin:%Y-%m-%dT%H:%M:%SZ}, the newest time" if origin else "no observation"
            raise FeatureError(f"{spec.target}: expected its value at the forecast's origin; found {found}")
        forecasts = []
        for horizon in spec.horizons:
            value = float(self.predict(horizon, buffer.features(horizon))[0])
            offsets = self.manifest.offsets[horizon]
            ds = origin + horizon * timedelta(minutes=spec.step_minutes)
            lower, upper = (spec.target_scale.changed(value, each) for each in (offsets.lower, offsets.upper))
            forecasts.append(Forecast(horizon, ds, value, lower, upper))
        return tuple(forecasts)

    def forecast_window(self, window: SeriesWindow) -> tuple[Forecast, ...]:
        """As ``forecast``, from nothing but a window of observations; the newest is the origin."""
        return self.forecast(filled_buffer(self.spec, window))

    def buffer(self, unique_id: str) -> RingBuffer:
        """A series' state after a cold start, from the observations that travel along; empty for a new series."""
        window = self.observations.get(unique_id)
        return filled_buffer(self.spec, window) if window else RingBuffer(self.spec)

    def check_example(self) -> None:
        """Work the example again. Raises BundleError when a forecast comes out different by more than 1e-9."""
        example = self.manifest.example
        for expected, found in zip(example.forecasts, self.forecast_window(example.observations), strict=True):
            same = (expected.horizon, expected.ds) == (found.horizon, found.ds) and np.allclose(
                (expected.value, expected.lower, expected.upper),
                (found.value, found.lower, found.upper),
                rtol=TOLERANCE,
                atol=0.0 if self.spec.target_scale.positive else TOLERANCE,
            )
            if not same:
                raise BundleError(f"{MANIFEST}: example.forecasts: expected {expected}; found {found}")


def write_bundle(
    directory: Path, description: Description, models: Mapping[int, Portable], observations: Mapping[str, SeriesWindow]
) -> Manifest:
    """Write a whole bundle into an empty directory, worked example and checksums included, and read it back.

    models: by horizon, of the target's change; observations: by series.
    The example is of the first series that has an observation of the target.
    Raises BundleError when the parts do not fit together. Not atomic: write beside, then rename.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = [entry.name for entry in directory.iterdir()]
    if there:
        raise BundleError(f"{directory}: expected an empty directory; found {listed(there)}")
    check_description(description)
    horizons = description.features.horizons
    if set(models) != set(horizons):
        raise BundleError(f"models: expected one for each horizon of {listed(horizons)}; found {listed(models)}")
    contents = {model_file(horizon): encoded_model(model) for horizon, model in models.items()}
    contents[OBSERVATIONS] = msgspec.json.encode(dict(observations), order="deterministic")
    read = _models(contents, description.features)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        example=_example(description, observations),
        checksums={name: sha256(content) for name, content in contents.items()},
        **msgspec.structs.asdict(description),
    )
    forecasts = Bundle(manifest, observations, read).forecast_window(manifest.example.observations)
    example = msgspec.structs.replace(manifest.example, forecasts=forecasts)
    contents[MANIFEST] = encoded_manifest(msgspec.structs.replace(manifest, example=example))
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return read_bundle(directory).manifest


def record_errors(directory: Path, errors: Mapping[int, Mapping[str, float]]) -> Manifest:
    """Put the errors of each horizon on the folds into a bundle's manifest, which is replaced in one step.

    Raises BundleError when the bundle is damaged, the horizons are not its own, or a metric is not finite.
    """
    measured = {horizon: dict(metrics) for horizon, metrics in errors.items()}
    encoded = encoded_manifest(msgspec.structs.replace(read_bundle(directory).manifest, errors=measured))
    manifest = decoded_manifest(encoded)
    # Beside the directory, not in it: should this be cut short, a file too many would spoil the bundle.
    scratch = directory.parent / f".{directory.name}.{MANIFEST}"
    with scratch.open("wb") as file:
        file.write(encoded)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / MANIFEST)
    return manifest


def read_bundle(directory: Path) -> Bundle:
    """Read a bundle and check all of it: version, types, files, checksums, models. Raises BundleError.

    Whether it also computes what it should is for ``Bundle.check_example``.
    """
    contents = _contents(directory)
    if MANIFEST not in contents:
        raise BundleError(f"{directory}: expected {MANIFEST}; found {listed(contents)}")
    manifest = decoded_manifest(contents[MANIFEST])
    if set(manifest.checksums) != set(contents):
        raise BundleError(f"{directory}: expected {listed(manifest.checksums)}; found {listed(contents)}")
    for name, content in contents.items():
        if name != MANIFEST and sha256(content) != manifest.checksums[name]:
            found = f"{sha256(content)} ({len(content)} bytes)"
            raise BundleError(f"{name}: expected SHA-256 {manifest.checksums[name]}; found {found}")
    observations = decoded_observations(contents[OBSERVATIONS], manifest)
    return Bundle(manifest, observations, _models(contents, manifest.features))


def recent_windows(spec: FeatureSpec, table: Table, target_lookback: int = 0) -> dict[str, SeriesWindow]:
    """The end of each series, enough for the first forecasts after a cold start, and to judge them.

    table: sorted, times unique within a series; target_lookback: how far back the baseline reads the target, which
    alone is given of what no feature reads. A series without rows has an empty window.
    """
    steps = grid_steps(table, spec.step_minutes)
    ahead = max(spec.horizons)
    windows = {}
    for code, unique_id in enumerate(table.unique_ids):
        start, stop = np.searchsorted(table.codes, [code, code + 1])
        age = steps[stop - 1] - steps[start:stop] if stop > start else np.zeros(0, dtype=np.int64)
        age = age[age <= max(spec.lookback, target_lookback) + ahead]
        start = stop - len(age)
        seconds = table.ds[start:stop].astype("datetime64[s]").astype(np.int64)
        rows = np.stack([table.variables[variable][start:stop] for variable in spec.variables], axis=1)
        rows[age > spec.lookback + ahead, 1:] = np.nan
        windows[unique_id] = SeriesWindow(
            tuple(datetime.fromtimestamp(second, UTC) for second in seconds.tolist()),
            tuple(tuple(value if np.isfinite(value) else None for value in row) for row in rows.tolist()),
        )
    return windows


def filled_buffer(spec: FeatureSpec, window: SeriesWindow) -> RingBuffer:
    """The state of a series after these observations."""
    buffer = RingBuffer(spec)
    for ds, values in zip(window.ds, window.values, strict=True):
        buffer.update(ds, values)
    return buffer


def _contents(directory: Path) -> dict[str, bytes]:
    """Every file's bytes, by name. Only plain files directly in the directory are let in: no links, no folders."""
    try:
        entries = sorted(directory.iterdir())
        odd = [entry.name for entry in entries if entry.is_symlink() or not entry.is_file()]
        if odd:
            raise BundleError(f"{directory}: expected plain files only; found {listed(odd)}")
        return {entry.name: entry.read_bytes() for entry in entries}
    except OSError as error:
        raise BundleError(f"{directory}: expected a bundle's directory; it cannot be read: {error}") from error


def _models(contents: Mapping[str, bytes], spec: FeatureSpec) -> dict[int, Portable]:
    models = {}
    for horizon in spec.horizons:
        name = model_file(horizon)
        width = len(spec.columns_for(horizon))
        try:
            model = decoded_model(contents[name])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{name}: expected a model as plain arrays; found otherwise: {error}") from error
        if model.width != width:
            raise BundleError(f"{name}: expected a model of {width} features; found {model.width}")
        models[horizon] = model
    return models


def _example(description: Description, observations: Mapping[str, SeriesWindow]) -> Example:
    """A window that ends with a known target, and no forecasts yet."""
    spec = description.features
    target = spec.variables.index(spec.target)
    for unique_id in description.series:
        window = observations.get(unique_id, SeriesWindow((), ()))
        check_window(f"{OBSERVATIONS}: {unique_id}", window, spec)
        known = [row for row, values in enumerate(window.values) if values[target] is not None]
        if known:
            end = known[-1] + 1
            oldest = window.ds[end - 1] - spec.lookback * timedelta(minutes=spec.step_minutes)
            start = next(row for row, ds in enumerate(window.ds) if ds >= oldest)
            return Example(unique_id, SeriesWindow(window.ds[start:end], window.values[start:end]), ())
    raise BundleError(f"{OBSERVATIONS}: expected an observation of {spec.target}; found none")
