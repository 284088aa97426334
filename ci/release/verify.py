"""`python -m ci verify IMAGE`: whether an image starts, is what it says it is, and forecasts as it should.

The release calls it before it promotes what it has pushed; people run it by hand or on a schedule.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ci import markdown
from ci.release.container import Running, running
from ci.signals import cancelled_by_signals
from clients.engine import Credentials, Engine, Image
from clients.engine_faults import registry_of, words
from clients.errors import ConfigurationError, NotReleased, RpsError
from clients.progress import Log, summarise
from forecasting.models.bundle import TOLERANCE
from forecasting.models.manifest import MANIFEST, BundleError, Example, Forecast, Manifest, decoded_manifest
from records.image_labels import Label

_READ_ONLY = os.strerror(errno.EROFS)
_ENDS = {"value": "", "lower": "_lower", "upper": "_upper"}
"""By a forecast's number, the suffix of its name in MLflow's protocol."""


@dataclass(frozen=True)
class Check:
    """What was checked, and what was found."""

    name: str
    found: str


@dataclass(frozen=True)
class Verification:
    """An image that passed."""

    image: str
    seconds_to_healthy: float
    """From the container's start."""
    checks: tuple[Check, ...]

    @property
    def report(self) -> str:
        rows = [(each.name, markdown.text(each.found)) for each in self.checks]
        title = f"## The image works: {markdown.code(self.image)}"
        return "\n\n".join([title, markdown.table(("check", "found"), rows, "ll")])


def verify(
    engine: Engine,
    reference: str,
    *,
    pull: bool = True,
    expected: Mapping[str, str] | None = None,
    expected_digest: str = "",
    deadline_seconds: float = 60.0,
    note: Callable[[Check], None] = lambda _check: None,
) -> Verification:
    """Pull an image, run it as on a minimal host, and compare what it does with what it says of itself.

    pull: False takes the engine's image; expected: labels that it must have; note: gets each check that passes.
    Raises NotReleased when the image is at fault, PassingFault when engine or registry are, ConfigurationError when
    there is no such image or the login is refused. Its container is gone afterwards in each case.
    """
    checks: list[Check] = []

    def passed(name: str, found: str) -> None:
        checks.append(Check(name, found))
        note(checks[-1])

    image = _image(engine, reference, pull=pull, expected_digest=expected_digest)
    passed("image", f"{image.digest or image.id} {'pulled' if pull else 'as the engine has it'}")
    bundle = _bundle_path(reference, image)
    _check_labels(image.labels, expected or {})
    with running(engine, image.id, deadline_seconds=deadline_seconds) as container:
        healthy = container.wait_until_healthy(deadline_seconds)
        passed("health", f"healthy {healthy:.1f} s after its start, as GET /health and its HEALTHCHECK say")
        passed("confinement", _confinement(container))
        manifest = _manifest(container, bundle)
        check_identity(image.labels, container.request("GET", "/health"), manifest)
        model = f"model {image.labels[Label.MODEL_VERSION]} of commit {manifest.git_sha[:12]}"
        passed("identity", f"{manifest.challenge}, {model}, dataset {manifest.dataset_md5}")
        passed("worked example", _check_example(container, manifest))
        passed("stop", f"exit code 0 {container.stop():.1f} s after SIGTERM")
    return Verification(reference, healthy, tuple(checks))


def verify_command(options: argparse.Namespace, log: Log) -> int:
    """`python -m ci verify`: options has image, deadline_seconds, pull, expect_digest. 0, or raises RpsError."""
    login = credentials_for(options.image, os.environ)
    with (
        cancelled_by_signals("its container is removed; run it again") as signals,
        closing(Engine.connect(os.environ, login, log)) as engine,
    ):
        try:
            found = verify(
                engine,
                options.image,
                pull=options.pull,
                expected_digest=options.expect_digest,
                deadline_seconds=options.deadline_seconds,
                note=lambda check: log.line(f"ok  {check.name}: {check.found}"),
            )
        except RpsError as error:
            signals.ignore()
            title = "The image does not work" if isinstance(error, NotReleased) else "The image could not be verified"
            summarise(f"## {title}: {markdown.code(options.image)}\n\n{markdown.fence(str(error).splitlines())}")
            raise
    summarise(found.report)
    log.line(f"{options.image} works")
    return 0


def credentials_for(image: str, environment: Mapping[str, str]) -> Credentials:
    """The environment's login for an image in our registry; empty for an image in another, which must not get it."""
    ours = environment.get("RPS_IMAGE", "")
    if ours and registry_of(ours) != registry_of(image):
        return Credentials("", "")
    return Credentials(environment.get("REGISTRY_USERNAME", ""), environment.get("REGISTRY_PASSWORD", ""))


def _image(engine: Engine, reference: str, *, pull: bool, expected_digest: str) -> Image:
    if expected_digest and not pull:
        raise ConfigurationError("--expect-digest: only the registry gives a digest; leave --no-pull out")
    image = engine.pull(reference) if pull else engine.image(reference)
    if image is None:
        raise ConfigurationError(f"{reference}: the container engine at {engine.address} has no such image; pull it")
    if expected_digest and image.digest != expected_digest:
        found = f"the registry gave {image.digest}. Find out who replaced it."
        raise NotReleased(f"{reference}: expected {expected_digest}; {found}")
    return image


def _bundle_path(reference: str, image: Image) -> PurePosixPath:
    path = PurePosixPath(image.labels.get(Label.BUNDLE, ""))
    if not path.is_absolute():
        known = ", ".join(sorted(image.labels)) or "none"
        expected = f"expected the label {Label.BUNDLE}, the path of the model bundle in it"
        raise NotReleased(f"{reference} is not an image of this system: {expected}; found the labels: {known}")
    return path


def _check_labels(labels: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raises NotReleased with every label that differs."""
    wrong = [
        f"{label}: expected {value or 'nothing'}; found {labels.get(label, 'no such label')}"
        for label, value in expected.items()
        if labels.get(label) != value
    ]
    if wrong:
        raise NotReleased(f"the image is another than asked for: {' | '.join(wrong)}")


def _confinement(container: Running) -> str:
    user, refused, capabilities = container.confinement()
    if user == 0:
        raise NotReleased("the image runs as root: give its Dockerfile a USER that is a number above 0")
    if refused != _READ_ONLY:
        found = repr(refused or "that it was made")
        raise NotReleased(f"a write to / in the container: expected {_READ_ONLY!r}; found {found}")
    if capabilities:
        raise NotReleased(f"the container's process: expected no capabilities; found {capabilities:#x}")
    return f"user {user}, nothing can be written to /, no capabilities"


def _manifest(container: Running, bundle: PurePosixPath) -> Manifest:
    try:
        return decoded_manifest(container.file(str(bundle / MANIFEST)))
    except BundleError as error:
        raise NotReleased(f"the bundle in the image, {bundle}: {error}") from error


def check_identity(labels: Mapping[str, str], health: Any, manifest: Manifest) -> None:  # noqa: ANN401
    """Raises NotReleased with every difference between labels, `/health` and manifest."""
    said: Mapping[str, Any] = health if isinstance(health, dict) else {}
    differences = []
    for label, field, of_manifest in (
        (Label.CHALLENGE, "challenge", manifest.challenge),
        (Label.MODEL_VERSION, "model_version", None),
        (Label.MODEL_RUN, "mlflow_run", manifest.mlflow_run),
        (Label.MODEL_GIT_SHA, "git_sha", manifest.git_sha),
        (Label.DATASET_MD5, None, manifest.dataset_md5),
    ):
        found = {f"the label {label}": labels.get(label)}
        if field is not None:
            found[f"{field} of /health"] = said.get(field)
        if of_manifest is not None:
            found["the bundle's manifest"] = of_manifest
        if len({str(value) for value in found.values()}) > 1 or None in found.values():
            differences.append("; ".join(f"{where}: {value or 'nothing'}" for where, value in found.items()))
    if differences:
        raise NotReleased(f"the image is not what it says it is: {' | '.join(differences)}")


def _check_example(container: Running, manifest: Manifest) -> str:
    """Send the worked example over two protocols, and compare every number. Raises NotReleased."""
    forecasts = manifest.example.forecasts
    window = _window(manifest.example, manifest.features.variables)
    answer = container.request("POST", "/v1/forecast?features=true", window)
    try:
        found, features = answer["forecasts"], answer["features"]
        times = [(each["horizon"], each["ds"]) for each in found]
        numbers = [[each[name] for name in _ENDS] for each in found]
    except (KeyError, TypeError) as error:
        raise NotReleased(f"POST /v1/forecast: expected forecasts and features; found {words(str(answer))}") from error
    if times != (expected := [(each.horizon, f"{each.ds:%Y-%m-%dT%H:%M:%SZ}") for each in forecasts]):
        raise NotReleased(f"the worked example comes out wrong: POST /v1/forecast: expected {expected}; found {times}")
    off = _off("POST /v1/forecast", forecasts, numbers)
    answer = container.request("POST", "/invocations", {"dataframe_records": [features]})
    try:
        row = answer["predictions"][0]
        numbers = [[row[f"h{each.horizon}{end}"] for end in _ENDS.values()] for each in forecasts]
    except (KeyError, TypeError, IndexError) as error:
        raise NotReleased(f"POST /invocations: expected every horizon; found {words(str(answer))}") from error
    off = max(off, _off("POST /invocations", forecasts, numbers))
    horizons = ", ".join(str(each.horizon) for each in forecasts)
    return f"horizons {horizons} by POST /v1/forecast and /invocations, at most {off:.1g} {manifest.unit} off"


def _window(example: Example, variables: Sequence[str]) -> dict[str, Any]:
    columns = zip(*example.observations.values, strict=True)
    return {
        "ds": [f"{ds:%Y-%m-%dT%H:%M:%SZ}" for ds in example.observations.ds],
        "values": {name: list(column) for name, column in zip(variables, columns, strict=True)},
    }


def _off(route: str, forecasts: Sequence[Forecast], numbers: Sequence[Sequence[object]]) -> float:
    """The largest error of a number. Raises NotReleased when it is more than 1e-9, absolutely and relatively."""
    worst = 0.0
    for forecast, found in zip(forecasts, numbers, strict=True):
        for name, number in zip(_ENDS, found, strict=True):
            expected = float(getattr(forecast, name))
            off = abs(number - expected) if isinstance(number, int | float) else math.nan
            if not off <= TOLERANCE + TOLERANCE * abs(expected):
                where = f"the worked example comes out wrong: {route}, the {name} {forecast.horizon} steps ahead"
                raise NotReleased(f"{where}: expected {expected!r}; found {number!r}")
            worst = max(worst, off)
    return worst
