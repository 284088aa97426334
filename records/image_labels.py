"""The labels of a released image: the release writes them, `verify`, the SBOM and the provenance read them."""

from __future__ import annotations

from enum import StrEnum


class Label(StrEnum):
    """By https://specs.opencontainers.org/image-spec/annotations/ where that has a name for it, else our own."""

    TITLE = "org.opencontainers.image.title"
    DESCRIPTION = "org.opencontainers.image.description"
    VERSION = "org.opencontainers.image.version"
    """The release's number, without `v`."""
    REVISION = "org.opencontainers.image.revision"
    CREATED = "org.opencontainers.image.created"
    SOURCE = "org.opencontainers.image.source"
    LICENSES = "org.opencontainers.image.licenses"
    BASE_NAME = "org.opencontainers.image.base.name"
    BASE_DIGEST = "org.opencontainers.image.base.digest"
    BASE_ID = "io.rps.base-id"
    CHALLENGE = "io.rps.challenge"
    MODEL_VERSION = "io.rps.model-version"
    MODEL_RUN = "io.rps.model-run"
    """The MLflow run that trained the model."""
    MODEL_GIT_SHA = "io.rps.model-git-sha"
    RUN_ID = "io.rps.run-id"
    """The DAG run that trained it."""
    DATASET_MD5 = "io.rps.dataset-md5"
    GIT_SHA = "io.rps.git-sha"
    BUNDLE = "io.rps.bundle"
    """Where the bundle is in the image; the Dockerfile sets it."""
    BUILD = "io.rps.build"
    """A hash of the context, the base and the other labels: it tells one build from any other."""
    VERIFIED_UNTIL = "io.rps.verified-until"
    """Of a container, not an image: from when on (Unix time) nobody waits for it any more."""
