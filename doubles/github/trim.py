"""Make `openapi.json`: the part of GitHub's OpenAPI description that the double serves.

    npm pack @octokit/openapi@23.0.2      (in a scratch directory; MIT licence, which is kept in the result)
    tar -xzf octokit-openapi-23.0.2.tgz
    python -m doubles.github.trim package

Kept are the operations below and every schema that they reach, with all that decides whether a document fits. Texts,
examples and the schemas of operations that are left out are not kept. Nothing is changed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OPENAPI = Path(__file__).with_name("openapi.json")
_REPOSITORY = "/repos/{owner}/{repo}"
OPERATIONS = {
    "/rate_limit": ("get",),
    "/user": ("get",),
    _REPOSITORY: ("get",),
    f"{_REPOSITORY}/actions/workflows/{{workflow_id}}/dispatches": ("post",),
    f"{_REPOSITORY}/commits/{{ref}}/status": ("get",),
    f"{_REPOSITORY}/commits/{{ref}}/statuses": ("get",),
    f"{_REPOSITORY}/dispatches": ("post",),
    f"{_REPOSITORY}/git/matching-refs/{{ref}}": ("get",),
    f"{_REPOSITORY}/git/ref/{{ref}}": ("get",),
    f"{_REPOSITORY}/git/refs": ("post",),
    f"{_REPOSITORY}/git/refs/{{ref}}": ("patch", "delete"),
    f"{_REPOSITORY}/git/tags": ("post",),
    f"{_REPOSITORY}/git/tags/{{tag_sha}}": ("get",),
    f"{_REPOSITORY}/issues": ("get", "post"),
    f"{_REPOSITORY}/issues/comments/{{comment_id}}": ("get", "patch", "delete"),
    f"{_REPOSITORY}/issues/{{issue_number}}": ("get", "patch"),
    f"{_REPOSITORY}/issues/{{issue_number}}/comments": ("get", "post"),
    f"{_REPOSITORY}/pulls": ("get", "post"),
    f"{_REPOSITORY}/pulls/{{pull_number}}": ("get", "patch"),
    f"{_REPOSITORY}/pulls/{{pull_number}}/merge": ("put",),
    f"{_REPOSITORY}/pulls/{{pull_number}}/reviews": ("get", "post"),
    f"{_REPOSITORY}/releases": ("get", "post"),
    f"{_REPOSITORY}/releases/assets/{{asset_id}}": ("get", "delete"),
    f"{_REPOSITORY}/releases/latest": ("get",),
    f"{_REPOSITORY}/releases/tags/{{tag}}": ("get",),
    f"{_REPOSITORY}/releases/{{release_id}}": ("get", "patch", "delete"),
    f"{_REPOSITORY}/releases/{{release_id}}/assets": ("get", "post"),
    f"{_REPOSITORY}/rules/branches/{{branch}}": ("get",),
    f"{_REPOSITORY}/rulesets": ("get", "post"),
    f"{_REPOSITORY}/rulesets/{{ruleset_id}}": ("get", "put", "delete"),
    f"{_REPOSITORY}/statuses/{{sha}}": ("post",),
}
_OPERATION_KEYS = ("operationId", "parameters", "requestBody", "responses", "servers")
_TEXTS = {"description", "summary", "title", "example", "examples", "externalDocs", "x-github", "x-octokit", "tags"}


def main() -> int:
    package = Path(sys.argv[1])
    whole = json.loads((package / "generated" / "api.github.com.json").read_text(encoding="utf-8"))
    manifest = json.loads((package / "package.json").read_text(encoding="utf-8"))
    paths = {
        path: {method: _only(whole["paths"][path][method], _OPERATION_KEYS) for method in methods}
        for path, methods in OPERATIONS.items()
    }
    trimmed = {
        "openapi": whole["openapi"],
        "info": {
            "title": whole["info"]["title"],
            "version": whole["info"]["version"],
            "license": whole["info"]["license"],
            "x-source": f"{manifest['name']} {manifest['version']}, generated/api.github.com.json, trimmed",
            "x-license-text": (package / "LICENSE").read_text(encoding="utf-8"),
        },
        "paths": _without_texts(paths),
        "components": {},
    }
    _add_reachable(trimmed, whole)
    OPENAPI.write_text(json.dumps(trimmed, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _only(mapping: dict, keys: tuple[str, ...]) -> dict:
    return {key: mapping[key] for key in keys if key in mapping}


def _without_texts(node: object, *, names: bool = False) -> object:
    """The node without what is only read by people. names: its keys are names, not the keywords of a schema."""
    if isinstance(node, list):
        return [_without_texts(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_texts(value, names=key in {"properties", "schemas", "headers"} and not names)
        for key, value in node.items()
        if names or key not in _TEXTS
    }


def _add_reachable(trimmed: dict, whole: dict) -> None:
    waiting = sorted(_references(trimmed["paths"]))
    while waiting:
        _, _, kind, name = waiting.pop().split("/")
        known = trimmed["components"].setdefault(kind, {})
        if name not in known:
            known[name] = _without_texts(whole["components"][kind][name])
            waiting += sorted(_references(known[name]))


def _references(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(_references, node.values()))


if __name__ == "__main__":
    sys.exit(main())
