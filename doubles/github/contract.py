"""GitHub's OpenAPI description as a check: which operation a request is for, and whether request and answer fit it."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

OPENAPI = Path(__file__).with_name("openapi.json")
_ROOT = "urn:github"
_ERRORS = frozenset({400, 401, 403, 404, 422, 429, 500, 502, 503})
"""Statuses that any operation may answer, whether its description lists them, and their body, or not."""
_SEGMENTS = {"ref", "branch", "sha", "tag"}
"""Path parameters that may hold slashes."""


class AnswerDoesNotFit(Exception):
    """The double's own mistake: GitHub would not answer this."""


@dataclass(frozen=True)
class Operation:
    """One operation of the description, and the values that a path gave its parameters."""

    method: str
    template: str
    described: dict[str, Any]
    values: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def operation(method: str, path: str, *, uploads: bool = False) -> Operation | None:
    """The operation that a request is for; None when GitHub has none, or the double does not serve it.

    uploads: whether the address of uploads was asked, which serves what is described with a server of its own.
    """
    for template, pattern, methods in _paths():
        found = pattern.fullmatch(path)
        described = methods.get(method.lower())
        if found and described and ("servers" in described) == uploads:
            values = {name: unquote(value) for name, value in found.groupdict().items()}
            return Operation(method, template, described, values)
    return None


def takes_a_file(asked: Operation) -> bool:
    """Whether the body of the request is a file of any kind, and not JSON."""
    described = asked.described.get("requestBody")
    return described is not None and "application/octet-stream" in _resolved(described)["content"]


def request_faults(asked: Operation, query: dict[str, str], body: object) -> list[str]:
    """In what the request is not as described; more strict than GitHub, which ignores what it does not know.

    body: JSON's value, or the bytes of a file.
    """
    described = [_resolved(each) for each in asked.described.get("parameters", [])]
    known = {each["name"]: each for each in described if each["in"] == "query"}
    faults = [f"query: {name} is not described" for name in sorted(set(query) - set(known))]
    given = {**query, **asked.values}
    for each in described:
        name = each["name"]
        if name in given:
            value = _typed(given[name], each["schema"])
            faults += [f"{each['in']}.{name}: {fault}" for fault in _faults(each["schema"], value)]
        elif each.get("required"):
            faults.append(f"{each['in']}.{name}: is required")
    return faults + _body_faults(asked.described.get("requestBody"), body)


def check_answer(asked: Operation | None, status: int, document: object) -> None:
    """Raises AnswerDoesNotFit."""
    responses = asked.described["responses"] if asked else {}
    described = responses.get(str(status))
    if status in _ERRORS and not (described and _resolved(described).get("content")):
        described = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/basic-error"}}}}
    if described is None:
        raise AnswerDoesNotFit(f"{asked}: {status} is not described")
    content = _resolved(described).get("content")
    if (content is None) != (document is None):
        raise AnswerDoesNotFit(f"{asked}: {status} has {'a' if content else 'no'} body by its description")
    if content:
        faults = _faults(content["application/json"]["schema"], document)
        if faults:
            raise AnswerDoesNotFit(f"{asked}: {status}: {'; '.join(faults[:5])}")


def _body_faults(described: dict[str, Any] | None, body: object) -> list[str]:
    if described is None:
        return [] if body is None else ["body: none is described"]
    described = _resolved(described)
    if body is None:
        return ["body: is required"] if described.get("required") else []
    if isinstance(body, bytes):
        return []
    schema = described["content"]["application/json"]["schema"]
    faults = [f"body: {fault}" for fault in _faults(schema, body)]
    if isinstance(body, dict) and "properties" in schema:
        faults += [f"body: {name} is not described" for name in sorted(set(body) - set(schema["properties"]))]
    return faults


def _faults(schema: dict[str, Any], value: object) -> list[str]:
    validator = Draft202012Validator(_draft(schema), registry=_registry())
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]


def _typed(text: str, schema: dict[str, Any]) -> object:
    """A parameter's text as the type that it is described to have, where it is of that type."""
    if schema.get("type") == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if schema.get("type") == "boolean" and text in {"true", "false"}:
        return text == "true"
    return text


@functools.cache
def _document() -> dict[str, Any]:
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    # The text of "Upload a release asset" describes this state; the schema does not list it.
    document["components"]["schemas"]["release-asset"]["properties"]["state"]["enum"].append("starter")
    return document


@functools.cache
def _registry() -> Registry:
    resource = Resource(_draft(_document()["components"]), DRAFT202012)
    return Registry().with_resource(_ROOT, resource)


@functools.cache
def _paths() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    """The paths with fixed words before those with a parameter in their place."""

    def pattern(template: str) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)\}", template)
        names = (f"(?P<{name}>{'.+' if name in _SEGMENTS else '[^/]+'})" for name in parts[1::2])
        fixed = map(re.escape, parts[0::2])
        return re.compile("".join(one for pair in zip(fixed, (*names, ""), strict=True) for one in pair))

    paths = _document()["paths"]
    return [(template, pattern(template), paths[template]) for template in sorted(paths, key=lambda one: "{}" + one)]


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = _document()
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        node = found
    return node


def _draft(node: Any) -> Any:
    """OpenAPI 3.0's dialect of JSON Schema as draft 2020-12: `nullable`, and where references lead."""
    if isinstance(node, list):
        return [_draft(each) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return {"$ref": node["$ref"].replace("#/components", f"{_ROOT}#", 1)}
    converted = {key: _draft(value) for key, value in node.items() if key != "nullable" or isinstance(value, dict)}
    return {"anyOf": [converted, {"type": "null"}]} if node.get("nullable") is True else converted
