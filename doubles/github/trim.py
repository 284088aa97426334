"""Make `openapi.json`: the part of GitHub's OpenAPI description that the double serves.

    npm pack @octokit/openapi@23.0.2      (in a scratch directory; MIT licence, which is kept in the result)
    tar -xzf octokit-openapi-23.0.2.tgz
    python -m doubles.github.trim package

It keeps the operations of `ROUTES` and every schema that they reach, with all that decides whether a document fits,
and leaves out texts, examples and other operations. Nothing is changed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from doubles.github.contract import OPENAPI
from doubles.github.double_server import ROUTES  # with the routes of all its modules

_OPERATION_KEYS = ("operationId", "parameters", "requestBody", "responses", "servers")
_TEXTS = {"description", "summary", "title", "example", "examples", "externalDocs", "x-github", "x-octokit", "tags"}


def main() -> int:
    package = Path(sys.argv[1])
    whole = json.loads((package / "generated" / "api.github.com.json").read_text(encoding="utf-8"))
    manifest = json.loads((package / "package.json").read_text(encoding="utf-8"))
    paths: dict[str, dict] = {}
    for method, path in ROUTES:
        described = whole["paths"][path][method.lower()]
        paths.setdefault(path, {})[method.lower()] = _only(described, _OPERATION_KEYS)
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
