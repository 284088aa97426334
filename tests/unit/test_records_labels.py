"""The labels of an image: the release writes what `verify` reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ci.release.build import Base, labels
from ci.release.context import read_context
from ci.release.plan import Plan
from ci.release.verify import check_identity
from clients.errors import NotReleased
from doubles.release_image import SOURCE_URL, made_plan, made_source
from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import Manifest
from records.image_labels import Label
from scripts.services import ROOT


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return read_bundle(bundle).manifest


@pytest.fixture
def plan(manifest: Manifest, tmp_path: Path) -> Plan:
    """A release of the bundle."""
    plan = made_plan(made_source(tmp_path / "repository").sha)
    model = replace(
        plan.model,
        name=manifest.challenge,
        git_sha=manifest.git_sha,
        mlflow_run=manifest.mlflow_run,
        tags={"rps.dataset_md5": manifest.dataset_md5},
    )
    return replace(plan, challenge=manifest.challenge, model=model)


def test_an_image_with_the_labels_of_its_release_is_what_it_says(
    plan: Plan, manifest: Manifest, bundle: Path, tmp_path: Path
) -> None:
    context = read_context(tmp_path / "repository", plan.sha, bundle)
    written = labels(plan, context, Base("python:3", "sha256:1", "sha256:2"), SOURCE_URL)
    assert set(written) <= set(Label)
    health = msgspec.to_builtins(manifest) | {"model_version": str(plan.model.version)}
    check_identity(written, health, manifest)
    for label in (Label.CHALLENGE, Label.MODEL_VERSION, Label.MODEL_RUN, Label.MODEL_GIT_SHA, Label.DATASET_MD5):
        with pytest.raises(NotReleased, match=f"the label {label}: another"):
            check_identity({**written, label.value: "another"}, health, manifest)


def test_the_dockerfile_says_where_the_bundle_is() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^LABEL (\S+)=(\S+)$", text, re.MULTILINE) == [(Label.BUNDLE, "/app/bundle")]
    assert "RPS_BUNDLE=/app/bundle" in text
