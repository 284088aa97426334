"""Rulesets: which apply to a branch or tag, and what they hold against a merge, or against moving a ref."""

from __future__ import annotations

import fnmatch
from typing import Any

from doubles.github.repository_git import Repository
from doubles.github.state import Account, Issue, Review, Ruleset, State

_DEFAULTS: dict[str, dict[str, Any]] = {
    "pull_request": {"required_reviewers": [], "allowed_merge_methods": ["merge", "squash", "rebase"]},
    "required_status_checks": {"do_not_enforce_on_create": False},
}


def completed(definition: dict[str, Any]) -> dict[str, Any]:
    """A ruleset as GitHub keeps it, with the defaults of what was left out."""
    rules = []
    for rule in definition.get("rules", []):
        defaults = _DEFAULTS.get(rule["type"])
        given = rule.get("parameters")
        rules.append({**rule, "parameters": {**defaults, **given}} if defaults and given else rule)
    return {
        "name": definition["name"],
        "target": definition.get("target", "branch"),
        "enforcement": definition["enforcement"],
        "conditions": definition.get("conditions") or {"ref_name": {"include": [], "exclude": []}},
        "bypass_actors": definition.get("bypass_actors", []),
        "rules": rules,
    }


def rules_of(state: State, reference: str, default_branch: str) -> list[tuple[Ruleset, dict[str, Any]]]:
    """The rules that hold for a branch or tag, each with its ruleset. reference: `refs/heads/…`, `refs/tags/…`."""
    target = {"refs/heads": "branch", "refs/tags": "tag"}.get("/".join(reference.split("/")[:2]))
    return [
        (ruleset, rule)
        for ruleset in state.rulesets
        if ruleset.document["enforcement"] == "active"
        and ruleset.document["target"] == target
        and _applies(ruleset.document["conditions"]["ref_name"], reference, default_branch)
        for rule in ruleset.document["rules"]
    ]


def _applies(condition: dict[str, list[str]], reference: str, default_branch: str) -> bool:
    def matches(pattern: str) -> bool:
        if pattern == "~DEFAULT_BRANCH":
            return reference == f"refs/heads/{default_branch}"
        return pattern == "~ALL" or fnmatch.fnmatchcase(reference, pattern)

    return any(map(matches, condition["include"])) and not any(map(matches, condition["exclude"]))


def violations(state: State, git: Repository, issue: Issue, default_branch: str, method: str = "merge") -> list[str]:
    """What the rules of its base branch hold against merging a pull request, in GitHub's manner of speaking."""
    pull = issue.pull
    assert pull is not None
    held = []
    for _, rule in rules_of(state, f"refs/heads/{pull.base_ref}", default_branch):
        parameters = rule.get("parameters", {})
        if rule["type"] == "required_status_checks":
            held += _status_violations(state, pull.head_sha, parameters)
            strict = parameters["strict_required_status_checks_policy"]
            if strict and not git.contains(pull.head_sha, git.head(pull.base_ref)):
                held.append("Head branch is not up to date with the base branch.")
        elif rule["type"] == "pull_request":
            held += _review_violations(state, issue, parameters)
            if method not in parameters["allowed_merge_methods"]:
                held.append(f"Merge method {method} is not allowed.")
    return held


def newest_statuses(state: State, sha: str) -> dict[str, Any]:
    """The newest status of each context; contexts are the same whatever their case."""
    return {status.context.lower(): status for status in state.statuses if status.sha == sha}


def _status_violations(state: State, sha: str, parameters: dict[str, Any]) -> list[str]:
    statuses = newest_statuses(state, sha)
    held = []
    for check in parameters["required_status_checks"]:
        status = statuses.get(check["context"].lower())
        if status is None or status.state != "success":
            how = "failing" if status and status.state in {"failure", "error"} else "expected"
            held.append(f'Required status check "{check["context"]}" is {how}.')
    return held


def _review_violations(state: State, issue: Issue, parameters: dict[str, Any]) -> list[str]:
    needed = parameters["required_approving_review_count"]
    newest: dict[str, Review] = {}
    for review in state.reviews:
        if review.pull == issue.number and review.state in {"APPROVED", "CHANGES_REQUESTED"}:
            newest[review.author] = review
    counted = [review for review in newest.values() if _may_write(state.logins.get(review.author))]
    if any(review.state == "CHANGES_REQUESTED" for review in counted):
        return ["Changes must be addressed before merging."]
    assert issue.pull is not None
    only_fresh = parameters["dismiss_stale_reviews_on_push"] or parameters["require_last_push_approval"]
    approvals = sum(not only_fresh or review.commit_id == issue.pull.head_sha for review in counted)
    if approvals >= needed:
        return []
    return [f"At least {needed} approving review{'s' * (needed > 1)} is required by reviewers with write access."]


def _may_write(account: Account | None) -> bool:
    return account is not None and account.access in {"write", "admin"}
