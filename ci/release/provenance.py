"""Where an image comes from, as an in-toto statement with SLSA provenance: its commit, model, dataset, base, packages.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance. The
statement is not signed: it says what this release knows of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ci.release.context import REQUIREMENTS
from clients.settings import workflow_url
from forecasting.models.manifest import MANIFEST, sha256
from records.image_labels import Label

if TYPE_CHECKING:
    from ci.release.context import Context
    from ci.release.plan import Plan

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
DESCRIPTION = "docs/reference/image.md"


def statement(
    plan: Plan,
    context: Context,
    *,
    image: str,
    labels: Mapping[str, str],
    source_url: str,
    environment: Mapping[str, str],
) -> bytes:
    """The statement as JSON.

    image: `repository@sha256:…`, as the registry has it, and its labels, which name its base; environment: of the
    workflow's run.
    """
    repository, _, digest = image.partition("@")
    build_type = f"{source_url}/blob/{plan.sha}/{DESCRIPTION}"
    run, attempt = workflow_url(environment), environment.get("GITHUB_RUN_ATTEMPT") or 1
    predicate = {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": {
                "repository": source_url,
                "commit": plan.sha,
                "challenge": plan.challenge,
                "modelVersion": str(plan.model.version),
                "version": str(plan.number),
            },
            "internalParameters": {"sourceDateEpoch": context.epoch_seconds, "reservation": plan.reservation},
            "resolvedDependencies": _dependencies(plan, context, labels, source_url),
        },
        "runDetails": {
            "builder": {"id": _builder(environment) or f"{build_type}#by-hand"},
            "metadata": {"invocationId": f"{run}/attempts/{attempt}"} if run else {},
        },
    }
    written = {
        "_type": STATEMENT,
        "subject": [{"name": repository, "digest": _digest(digest)}],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    return msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n"


def _dependencies(plan: Plan, context: Context, labels: Mapping[str, str], source_url: str) -> list[dict[str, Any]]:
    """What went in, each as a resource descriptor of in-toto."""
    model = plan.model
    base_digest = labels.get(Label.BASE_DIGEST, "")
    found: list[dict[str, Any]] = [
        {"name": "source", "uri": f"git+{source_url}@{plan.sha}", "digest": {"gitCommit": plan.sha}},
        {"name": REQUIREMENTS, "digest": {"sha256": sha256(context.files[REQUIREMENTS])}},
        {
            "name": "base",
            "uri": f"docker-image://{labels.get(Label.BASE_NAME, '')}",
            **({"digest": _digest(base_digest)} if base_digest else {}),
            "annotations": {"imageId": labels.get(Label.BASE_ID, "")},
        },
        {
            "name": "model",
            "uri": f"models:/{model.name}/{model.version}",
            "digest": {"sha256": sha256(context.bundle_files[MANIFEST])},
            "annotations": {"mlflowRun": model.mlflow_run, "dagRun": model.run_id},
        },
    ]
    if model.git_sha:
        uri = f"git+{source_url}@{model.git_sha}"
        found.append({"name": "model's code", "uri": uri, "digest": {"gitCommit": model.git_sha}})
    if model.dataset_md5:  # of a file of DVC's, or with `.dir` of its listing of a directory
        found.append({"name": "dataset", "digest": {"md5": model.dataset_md5.removesuffix(".dir")}})
    for name, content in sorted(context.bundle_files.items()):
        found.append({"name": f"bundle/{name}", "digest": {"sha256": sha256(content)}})
    return found


def _builder(environment: Mapping[str, str]) -> str:
    """The workflow's file at the commit that it runs from; the run's page without one; empty elsewhere."""
    server, workflow = environment.get("GITHUB_SERVER_URL", ""), environment.get("GITHUB_WORKFLOW_REF", "")
    return f"{server}/{workflow}" if server and workflow else workflow_url(environment)


def _digest(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}
