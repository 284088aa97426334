"""The bundle: what is written comes back and predicts as the training library does; what is damaged is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from forecasting.challenge.schema import Differences, Features, Lags, Rolling
from forecasting.drift.distances import feature_references
from forecasting.features.definitions import FeatureError
from forecasting.features.spec import FeatureSpec
from forecasting.features.table import Table, table_features, table_targets
from forecasting.models.bundle import Bundle, filled_buffer, read_bundle, recent_windows, record_errors, write_bundle
from forecasting.models.intervals import Offsets, Scale, Scaling
from forecasting.models.manifest import BundleError, Description, SeriesWindow
from forecasting.models.portable import Portable, Trees
from pipelines.comparison import seconds_per_row
from pipelines.learners.hist_gradient_boosting import HistGradientBoosting
from pipelines.learners.mean import Mean
from pipelines.learners.ridge import Ridge

SPEC = FeatureSpec(
    target="temperature",
    step_minutes=60,
    horizons=(2, 4),
    features=Features(
        lags=(Lags("temperature", (1, 5)), Lags("pressure", (0,))),
        rolling=(Rolling("temperature", (3, 6), ("mean", "std")),),
        differences=(Differences("temperature", (1,)),),
        calendar=("hour_of_day",),
    ),
)
HOURS = 400


def observations() -> Table:
    random = np.random.default_rng(0)
    hours = np.concatenate([np.sort(random.choice(HOURS + 20, HOURS, replace=False)) for _ in range(2)])
    temperature = 10 + 5 * np.sin(hours / 24 * 2 * np.pi) + random.normal(0, 1, 2 * HOURS)
    pressure = np.where(random.random(2 * HOURS) < 0.1, np.nan, random.normal(1015, 5, 2 * HOURS))
    temperature[random.random(2 * HOURS) < 0.02] = np.nan
    return Table(
        unique_ids=("EWR", "JFK"),
        codes=np.repeat([0, 1], HOURS),
        ds=np.datetime64("2013-01-01T00", "us") + hours.astype("timedelta64[h]"),
        variables={"temperature": temperature, "pressure": pressure},
    )


class Trained:
    """Models fitted by the training library, and the parts of a bundle made of them."""

    def __init__(self) -> None:
        self.table = observations()
        self.matrix = table_features(SPEC, self.table)
        self.origin = self.table.variables["temperature"]
        targets = table_targets(SPEC, self.table)
        self.fits = {}
        learner = Mean({"ridge": Ridge(), "hist_gradient_boosting": HistGradientBoosting(max_iter=30)})
        for horizon, target in zip(SPEC.horizons, targets.T, strict=True):
            change = target - self.origin
            known = ~np.isnan(change)
            self.fits[horizon] = learner.fit(self.inputs(horizon)[known], change[known], "squared_error", seed=0)
        self.models = {horizon: fit.portable for horizon, fit in self.fits.items()}
        self.windows = recent_windows(SPEC, self.table)
        self.description = Description(
            challenge="weather",
            unit="°C",
            features=SPEC,
            series=("EWR", "JFK"),
            train_start=datetime(2013, 1, 1, tzinfo=UTC),
            train_end=datetime(2013, 1, 18, tzinfo=UTC),
            newest_row=datetime(2013, 1, 17, 20, tzinfo=UTC),
            rows={"train": 700},
            dataset_md5="0" * 32,
            git_sha="a" * 40,
            mlflow_run="b" * 32,
            interval=0.9,
            offsets={2: Offsets(-1.5, 1.25), 4: Offsets(-2.5, 2.0)},
            scaling=Scaling(
                half_life=72.0,
                offsets={2: Offsets(-2.0, 1.75), 4: Offsets(-2.5, 2.25)},
                usual={2: 0.7, 4: 1.1},
                series={"EWR": {2: Scale(usual=0.6, newest=0.5), 4: Scale(usual=1.0, newest=1.5)}},
            ),
            references=feature_references(SPEC.columns, self.matrix),
        )

    def inputs(self, horizon: int) -> pd.DataFrame:
        return pd.DataFrame(self.matrix, columns=SPEC.columns)[list(SPEC.columns_for(horizon))]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


@pytest.fixture
def directory(trained: Trained, tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    write_bundle(path, trained.description, trained.models, trained.windows)
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_written_comes_back(trained: Trained, directory: Path) -> None:
    bundle = read_bundle(directory)
    assert names(directory) == {"manifest.json", "observations.json", "h2.json", "h4.json"}
    for field in Description.__struct_fields__:
        assert getattr(bundle.manifest, field) == getattr(trained.description, field)
    assert bundle.observations == trained.windows
    assert bundle.spec.columns == SPEC.columns
    bundle.check_example()


def test_predictions_equal_the_training_librarys(trained: Trained, directory: Path) -> None:
    bundle = read_bundle(directory)
    for horizon, fit in trained.fits.items():
        inputs = trained.inputs(horizon)
        assert inputs.isna().any(axis=None)
        expected = trained.origin + fit.estimator.predict(inputs)
        np.testing.assert_allclose(bundle.predict(horizon, inputs), expected, rtol=0, atol=1e-9)


def test_a_value_just_beside_a_threshold_takes_the_same_branch(trained: Trained, directory: Path) -> None:
    """Which it would not if anything on the way were of single precision."""
    bundle = read_bundle(directory)
    fit, trees = trained.fits[2], trained.models[2].trees
    inputs = np.repeat(trained.inputs(2).dropna().to_numpy()[:1], 60, axis=0)
    splits = [
        (feature, threshold)
        for feature, threshold in zip(trees.feature, trees.threshold, strict=True)
        if feature not in {-1, SPEC.origin_column} and threshold is not None
    ]
    for row, ((feature, threshold), towards) in enumerate(itertools.product(splits[:30], (-np.inf, np.inf))):
        inputs[row, feature] = np.nextafter(threshold, towards)
    frame = pd.DataFrame(inputs, columns=SPEC.columns_for(2))
    expected = inputs[:, SPEC.origin_column] + fit.estimator.predict(frame)
    np.testing.assert_allclose(bundle.predict(2, inputs), expected, rtol=0, atol=1e-9)


def test_a_forecast_from_a_stream_is_that_of_the_table(trained: Trained, directory: Path) -> None:
    bundle = read_bundle(directory)
    window = trained.windows["JFK"]
    rows = np.flatnonzero((trained.table.codes == 1) & ~np.isnan(trained.origin))
    known = [number for number, values in enumerate(window.values) if values[0] is not None][-1] + 1
    forecasts = bundle.forecast_window(SeriesWindow(window.ds[:known], window.values[:known]))  # noqa: PD011 - a window's
    for forecast, horizon in zip(forecasts, SPEC.horizons, strict=True):
        offsets = trained.description.offsets[horizon]
        assert forecast.horizon == horizon
        assert (forecast.ds - window.ds[known - 1]).total_seconds() == 3600 * horizon
        assert forecast.value == bundle.predict(horizon, trained.inputs(horizon).to_numpy()[rows[-1:]])[0]
        assert (forecast.lower, forecast.upper) == (forecast.value + offsets.lower, forecast.value + offsets.upper)


def test_a_cold_start_knows_as_much_as_the_whole_history(trained: Trained, directory: Path) -> None:
    last_row = np.flatnonzero(trained.table.codes == 0)[-1]
    warm = read_bundle(directory).buffer("EWR").vector()
    np.testing.assert_array_equal(warm, trained.matrix[last_row, : len(SPEC.shared_columns)])
    assert read_bundle(directory).buffer("BOS").newest is None


def test_a_window_reaches_as_far_as_the_baseline_and_there_holds_the_target_alone(trained: Trained) -> None:
    windows = recent_windows(SPEC, trained.table, target_lookback=100)
    for unique_id, (ds, values) in ((name, msgspec.structs.astuple(window)) for name, window in windows.items()):
        short_ds, short_values = msgspec.structs.astuple(trained.windows[unique_id])
        kept = len(short_ds)
        assert (ds[-kept:], values[-kept:]) == (short_ds, short_values)
        assert 100 <= (ds[-1] - ds[0]).total_seconds() / 3600 <= 100 + max(SPEC.horizons)
        older = values[:-kept]
        assert {pressure for _, pressure in older} == {None}
        assert any(temperature is not None for temperature, _ in older)


def test_the_worked_example_has_what_the_features_read_and_no_more(trained: Trained, tmp_path: Path) -> None:
    longer = recent_windows(SPEC, trained.table, target_lookback=100)
    write_bundle(tmp_path / "bundle", trained.description, trained.models, longer)
    bundle = read_bundle(tmp_path / "bundle")
    bundle.check_example()
    ds = bundle.manifest.example.observations.ds
    assert (ds[-1] - ds[0]).total_seconds() / 3600 <= SPEC.lookback


def test_the_same_inputs_give_the_same_bytes(trained: Trained, directory: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(trained.windows.items()))
    models = dict(reversed(trained.models.items()))
    write_bundle(tmp_path / "again", trained.description, models, backwards)
    for name in names(directory):
        assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_errors_are_added_later(directory: Path) -> None:
    record_errors(directory, {2: {"error": 1.5}, 4: {"error": 2.5}})
    record_errors(directory, {2: {"error": 1.25}, 4: {"error": 2.25}})
    bundle = read_bundle(directory)
    assert bundle.manifest.errors == {2: {"error": 1.25}, 4: {"error": 2.25}}
    bundle.check_example()
    assert names(directory.parent) == {"bundle"}


@pytest.mark.parametrize("errors", [{2: {"error": 1.0}}, {2: {"error": float("nan")}, 4: {"error": 1.0}}])
def test_errors_that_do_not_fit_change_nothing(directory: Path, errors: dict[int, dict[str, float]]) -> None:
    before = (directory / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="errors"):
        record_errors(directory, errors)
    assert (directory / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["manifest.json", "observations.json", "h2.json", "h4.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_cut_short_is_refused(directory: Path, name: str, share: float) -> None:
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=name):
        read_bundle(directory)


@pytest.mark.parametrize("name", ["manifest.json", "observations.json", "h2.json", "h4.json"])
def test_a_flipped_bit_is_refused_or_means_the_same(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    whole = read_bundle(directory).manifest
    random = np.random.default_rng(0)
    for place in random.integers(0, len(content), 100):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(0, 8))
        (directory / name).write_bytes(flipped)
        try:
            assert read_bundle(directory).manifest == whole  # such as another kind of white space
            assert name == "manifest.json"
        except BundleError:
            continue


def seal(path: Path, plain: dict[str, object]) -> None:
    """Write a manifest with a checksum of its own that is right."""
    del plain["checksums"]["manifest.json"]
    text = msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
    plain["checksums"]["manifest.json"] = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"junk", "expected a model as plain arrays; found otherwise: JSON is malformed"),
        (b"[]", "expected a model as plain arrays; found otherwise: Expected `object`"),
        (
            b'{"width": 11, "linear": null, "trees": null}',
            "linear, trees: expected at least one of them; found neither",
        ),
    ],
)
def test_a_model_with_the_right_checksum_is_checked_all_the_same(directory: Path, content: bytes, shown: str) -> None:
    path = directory / "manifest.json"
    plain = json.loads(path.read_text())
    (directory / "h4.json").write_bytes(content)
    plain["checksums"]["h4.json"] = hashlib.sha256(content).hexdigest()
    seal(path, plain)
    with pytest.raises(BundleError, match=rf"h4\.json: .*{shown}"):
        read_bundle(directory)


@pytest.mark.parametrize("name", ["manifest.json", "observations.json", "h2.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(
        BundleError, match=f"expected.* {name}.*; found h4" if name == "h2.json" else f"expected.*{name}"
    ):
        read_bundle(directory)


def test_a_file_too_many_a_link_and_a_folder_are_refused(directory: Path) -> None:
    (directory / "run.sh").write_text("echo")
    with pytest.raises(BundleError, match=r"expected h2\.json, .*; found .*run\.sh"):
        read_bundle(directory)
    (directory / "run.sh").unlink()
    (directory / "h2.json").rename(directory.parent / "elsewhere")
    (directory / "h2.json").symlink_to(directory.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"expected plain files only; found h2\.json"):
        read_bundle(directory)
    (directory / "h2.json").unlink()
    (directory / "h2.json").mkdir()
    with pytest.raises(BundleError, match=r"expected plain files only; found h2\.json"):
        read_bundle(directory)


def test_no_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: expected a bundle's directory"):
        read_bundle(tmp_path / "nowhere")


def edited(directory: Path, *keys: str, value: object) -> None:
    """Change one value of the manifest, and make its own checksum fit again."""
    manifest = json.loads((directory / "manifest.json").read_bytes())
    place = manifest
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("keys", "value", "shown"),
    [
        (("format_version",), 1, r"expected format version 2; found 1\. Retrain"),
        (("format_version",), 3, r"expected format version 2; found 3\. Use the release that wrote it"),
        (("format_version",), "1", r"format_version"),
        (("train_end",), "yesterday", r"train_end"),
        (("offsets",), {"2": {"lower": -1, "upper": 1}}, "offsets: expected 2, 4; found 2"),
        (("offsets", "2"), {"lower": None, "upper": 1}, "lower"),
        (("scaling", "offsets"), {"2": {"lower": -1, "upper": 1}}, "scaling.offsets: expected 2, 4; found 2"),
        (("scaling", "usual"), {"2": 0.7, "4": -1}, "usual"),
        (("scaling", "half_life"), 0, "half_life"),
        (("references",), {}, "references: expected .*temperature_lag_0"),
        (("checksums", "../h9.json"), "0" * 64, r"checksums: expected .*; found \.\./h9\.json"),
        (("checksums", "h2.json"), "0" * 63, "checksums"),
        (("git_sha",), "c" * 40, r"manifest\.json: expected SHA-256"),
        (("surprise",), 1, "surprise"),
        (("features", "horizons"), [2, 400], "expected 2, 400; found 2, 4"),
        (("example", "observations", "values"), [[1.0]], r"example\.observations: expected \d+ rows of 2 values"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(
    directory: Path, keys: tuple[str, ...], value: object, shown: str
) -> None:
    edited(directory, *keys, value=value)
    with pytest.raises(BundleError, match=shown):
        read_bundle(directory)


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b'"text"', b"\xff\xfe", b'{"format_version": 2}'])
def test_a_manifest_that_is_none_is_refused(directory: Path, content: bytes) -> None:
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: expected a bundle's manifest"):
        read_bundle(directory)


def test_the_example_shows_a_model_that_computes_something_else(directory: Path) -> None:
    bundle = read_bundle(directory)
    first, *others = bundle.manifest.example.forecasts
    changed = msgspec.structs.replace(first, value=first.value + 1e-6)
    example = msgspec.structs.replace(bundle.manifest.example, forecasts=(changed, *others))
    manifest = msgspec.structs.replace(bundle.manifest, example=example)
    with pytest.raises(BundleError, match=r"example\.forecasts: expected .*; found "):
        Bundle(manifest, bundle.observations, bundle.models).check_example()


def test_parts_that_do_not_fit_are_not_written(trained: Trained, tmp_path: Path) -> None:
    swapped = {2: trained.models[2]}
    with pytest.raises(BundleError, match="expected one for each horizon of 2, 4; found 2"):
        write_bundle(tmp_path / "one", trained.description, swapped, trained.windows)
    narrow = trained.models | {4: Portable(3, None, Trees((), (), (), (), (), (), (), base=1.0))}
    with pytest.raises(BundleError, match=r"h4\.json: expected a model of 11 features; found 3"):
        write_bundle(tmp_path / "two", trained.description, narrow, trained.windows)
    (tmp_path / "full").mkdir()
    shutil.copy(__file__, tmp_path / "full")
    with pytest.raises(BundleError, match=r"expected an empty directory; found test_bundle\.py"):
        write_bundle(tmp_path / "full", trained.description, trained.models, trained.windows)
    assert not any(list((tmp_path / name).iterdir()) for name in ("one", "two"))


def test_no_forecast_without_the_target_at_the_origin(trained: Trained, directory: Path) -> None:
    bundle = read_bundle(directory)
    window = SeriesWindow((datetime(2013, 1, 1, tzinfo=UTC),), ((None, 1000.0),))
    with pytest.raises(FeatureError, match=r"temperature: expected its value .* found none at 2013-01-01T00:00:00Z"):
        bundle.forecast(filled_buffer(SPEC, window))
    with pytest.raises(FeatureError, match="found no observation"):
        bundle.forecast(bundle.buffer("BOS"))


def test_a_matrix_of_another_shape_is_refused(directory: Path) -> None:
    bundle = read_bundle(directory)
    with pytest.raises(FeatureError, match=r"matrix: expected \(n, 11\) for horizon 2; found \(3, 4\)"):
        bundle.predict(2, np.zeros((3, 4)))
    with pytest.raises(FeatureError, match=r"horizon: expected one of \[2, 4\]; found 3"):
        bundle.predict(3, np.zeros((3, 11)))
    assert bundle.predict(2, np.zeros((0, 11))).shape == (0,)


def test_observations_are_numbers_exactly(trained: Trained, directory: Path) -> None:
    read = read_bundle(directory).observations["EWR"].values[0][0]  # noqa: PD011 - a window's
    written = trained.windows["EWR"].values[0][0]  # noqa: PD011 - a window's
    assert struct.pack("d", read) == struct.pack("d", written)


def test_a_bundle_of_an_earlier_release_is_read(trained: Trained, tmp_path: Path) -> None:
    """Such a bundle does not have the keys that came later, and its checksum is of what it has."""
    write_bundle(tmp_path / "bundle", trained.description, trained.models, trained.windows)
    path = tmp_path / "bundle" / "manifest.json"
    plain = json.loads(path.read_text())
    for key in ("title", "variables", "loss", "baseline", "opponents", "drift"):
        del plain[key]
    seal(path, plain)
    bundle = read_bundle(tmp_path / "bundle")
    bundle.check_example()
    assert (bundle.manifest.title, bundle.manifest.variables, bundle.manifest.baseline.kind) == ("", {}, "persistence")


def test_a_busy_machine_does_not_make_a_model_slow(directory: Path) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        for seconds in itertools.cycle((8.0, 1.0, 8.0, 9.0, 2.0, 1.0)):  # of a repeat of each bundle in turn
            yield now
            now += seconds
            yield now

    bundle = read_bundle(directory)
    assert seconds_per_row([bundle, bundle], {}, clock().__next__) == [2.0 / 2, 1.0 / 2]
