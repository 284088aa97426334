"""The rules of branches and tags: `.github/rulesets/*.json`, in the format of GitHub's rulesets API.

The files are the truth: `apply` brings them to GitHub, and `check` compares them with what is there. What GitHub adds
to an answer by itself (ids, times, parameters that are off) is no difference.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import msgspec

from clients.errors import ConfigurationError
from clients.github import GitHub

_COMPARED = ("name", "target", "enforcement", "conditions", "bypass_actors", "rules")


def apply(github: GitHub, directory: Path) -> Iterator[str]:
    """Set GitHub's rulesets to the files'; yields what was done with each. Others are left alone.

    Raises ConfigurationError when a file is wrong, before anything is changed; and what `GitHub` raises.
    """
    wanted = read_rulesets(directory)
    found = {ruleset["name"]: ruleset for ruleset in github.rulesets()}
    for path, ruleset in wanted.items():
        name = ruleset["name"]
        if name in found and not _difference(path, ruleset, found[name]):
            yield f"{name}: as in {path}"
        else:
            github.put_ruleset(ruleset)
            yield f"{name}: {'brought up to date' if name in found else 'made'} from {path}"


def check(github: GitHub, directory: Path) -> list[str]:
    """What differs between GitHub and the files, a text each; empty when nothing does.

    Rules that GitHub has for the same branches or tags, and no file has, are differences too.
    Raises ConfigurationError when a file is wrong; and what `GitHub` raises.
    """
    wanted = read_rulesets(directory)
    found = {ruleset["name"]: ruleset for ruleset in github.rulesets()}
    differences = []
    for path, ruleset in wanted.items():
        name = ruleset["name"]
        if name not in found:
            differences.append(f"{name}: GitHub has no such ruleset; `python -m ci rules apply` makes it from {path}")
        elif difference := _difference(path, ruleset, found[name]):
            differences.append(difference)
    named = {ruleset["name"] for ruleset in wanted.values()}
    for name, ruleset in found.items():
        touched = [] if name in named else _touched(ruleset, wanted.values())
        if touched:
            stray = f"{name}: GitHub has this ruleset for {', '.join(touched)}, and {directory} has not"
            differences.append(f"{stray}: delete it there, or write its file")
    return differences


def read_rulesets(directory: Path) -> dict[Path, dict[str, Any]]:
    """The rulesets of the directory's files, checked. Raises ConfigurationError with file, key and what was found."""
    paths = sorted(directory.glob("*.json"))
    if not paths:
        raise ConfigurationError(f"{directory}: expected a JSON file for each ruleset; found none")
    rulesets: dict[Path, dict[str, Any]] = {}
    for path in paths:
        content = path.read_bytes()
        try:
            msgspec.json.decode(content, type=_Ruleset)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{path}: {error}; expected a ruleset as GitHub's API has it") from None
        ruleset = json.loads(content)
        kinds = [rule["type"] for rule in ruleset["rules"]]
        if len(set(kinds)) < len(kinds):
            raise ConfigurationError(f"{path}: rules: expected each type once; found {', '.join(kinds)}")
        twin = next((other for other, known in rulesets.items() if known["name"] == ruleset["name"]), None)
        if twin:
            raise ConfigurationError(f"{path}: name: expected one of its own; found {ruleset['name']!r}, as in {twin}")
        rulesets[path] = ruleset
    return rulesets


class _Exact(msgspec.Struct, forbid_unknown_fields=True):
    """What a file may hold, of all that GitHub's format has: the rest is refused rather than left uncompared."""


class _RefName(_Exact):
    include: list[str]
    exclude: list[str]


class _Conditions(_Exact):
    ref_name: _RefName


class _BypassActor(_Exact):
    actor_type: Literal["Integration", "OrganizationAdmin", "RepositoryRole", "Team", "DeployKey", "User"]
    bypass_mode: Literal["always", "pull_request", "exempt"]
    actor_id: int | None = None


class _Reviews(_Exact):
    required_approving_review_count: int
    dismiss_stale_reviews_on_push: bool
    require_code_owner_review: bool
    require_last_push_approval: bool
    required_review_thread_resolution: bool
    allowed_merge_methods: list[Literal["merge", "squash", "rebase"]]


class _PullRequest(_Exact, tag="pull_request"):
    parameters: _Reviews


class _Check(_Exact):
    context: str
    integration_id: int | None = None


class _Checks(_Exact):
    required_status_checks: list[_Check]
    strict_required_status_checks_policy: bool
    do_not_enforce_on_create: bool = False


class _StatusChecks(_Exact, tag="required_status_checks"):
    parameters: _Checks


_BARE = ("deletion", "non_fast_forward", "update", "required_linear_history", "required_signatures")
_Rule: Any = Union[
    (_PullRequest, _StatusChecks, *(msgspec.defstruct(kind, [], bases=(_Exact,), tag=kind) for kind in _BARE))
]


class _Ruleset(_Exact):
    name: str
    target: Literal["branch", "tag"]
    enforcement: Literal["active", "evaluate", "disabled"]
    conditions: _Conditions
    bypass_actors: list[_BypassActor]
    rules: list[_Rule]


def _difference(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """A unified diff from the file to GitHub; empty when they are the same."""
    if "bypass_actors" not in found:
        return f"{wanted['name']}: GitHub does not show who may bypass it; use a token with administration: write"
    ours, theirs = _comparable(wanted), _comparable(found)
    for kind, parameters in theirs["rules"].items():
        # GitHub lists all parameters that it knows: those that are off, and that the file does not name, are left out.
        named = ours["rules"].get(kind, {})
        theirs["rules"][kind] = {key: each for key, each in parameters.items() if key in named or not _is_off(each)}
    before, after = (json.dumps(each, indent=2, sort_keys=True).splitlines() for each in (ours, theirs))
    place = f"the ruleset {wanted['name']} on GitHub"
    return "\n".join(difflib.unified_diff(before, after, fromfile=str(path), tofile=place, lineterm=""))


def _comparable(ruleset: Mapping[str, Any]) -> dict[str, Any]:
    """What is the team's to say, with lists in one order and rules by their type, of which there is one each."""
    kept = {key: _in_order(ruleset.get(key)) for key in _COMPARED}
    kept["rules"] = {rule["type"]: _in_order(rule.get("parameters") or {}) for rule in ruleset.get("rules") or ()}
    return kept


def _in_order(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _in_order(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return sorted((_in_order(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


def _is_off(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return all(_is_off(each) for each in value.values()) if isinstance(value, dict) else not value


def _touched(ruleset: Mapping[str, Any], wanted: Iterable[Mapping[str, Any]]) -> list[str]:
    """The branches or tags, of those the files name, for which this other ruleset is in force."""
    if ruleset.get("enforcement") == "disabled":
        return []
    same = [each["conditions"]["ref_name"] for each in wanted if each["target"] == ruleset.get("target")]
    ours = {reference for each in same for reference in each["include"]}
    names = (ruleset.get("conditions") or {}).get("ref_name") or {}
    # Rather one too many: the default branch may be any of them, and a pattern's `*` is taken to match a slash.
    patterns = ["*" if name in {"~ALL", "~DEFAULT_BRANCH"} else name for name in names.get("include", ())]
    left = ours - set(names.get("exclude", ()))
    return sorted(one for one in left if any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns))
