"""The repository itself: its commits' statuses, its rulesets; and who is asking."""

from __future__ import annotations

import time
from typing import Any

from doubles.github.routes import REPOSITORY, Answer, Refused, Request, World, invalid, serves, the_one
from doubles.github.ruleset_checks import completed, newest_statuses, rules_of
from doubles.github.state import Ruleset, Status, now

_RULESET = f"{REPOSITORY}/rulesets/{{ruleset_id}}"
_DESCRIPTION_LENGTH = 140
_MOST_STATUSES = 1000


@serves("GET", "/user")
def get_user(world: World, request: Request) -> Answer:
    if request.account.type == "Bot":
        raise Refused(403, "Resource not accessible by integration")
    return Answer(200, world.documents.authenticated_user(request.account.login))


@serves("GET", "/rate_limit")
def get_rate_limit(world: World, request: Request) -> Answer:
    rate = {"limit": 5000, "remaining": 4999, "reset": int(time.time()) + 3600, "used": 1}
    return Answer(200, {"resources": {"core": rate, "search": rate}, "rate": rate})


@serves("GET", REPOSITORY)
def get_repository(world: World, request: Request) -> Answer:
    return Answer(200, {**world.documents.repository(), "network_count": 0, "subscribers_count": 0})


@serves("POST", f"{REPOSITORY}/statuses/{{sha}}", needs="write", permission="statuses=write")
def create_status(world: World, request: Request) -> Answer:
    sha, body = request.values["sha"], request.body
    context, description, target = body.get("context", "default"), body.get("description"), body.get("target_url")
    if world.git.resolve(sha) != sha:
        raise Refused(422, f"No commit found for SHA: {sha}")
    if description and len(description) > _DESCRIPTION_LENGTH:
        raise invalid("Status", "description", f"description is too long (maximum is {_DESCRIPTION_LENGTH} characters)")
    if target and not target.startswith(("http://", "https://")):
        raise invalid("Status", "target_url", "target_url must use http(s) scheme")
    same = [one for one in world.state.statuses if one.sha == sha and one.context.lower() == context.lower()]
    if len(same) >= _MOST_STATUSES:
        raise invalid("Status", "", "This SHA and context has reached the maximum number of statuses.")
    status = Status(
        world.state.new_id(), sha, body["state"], context, description, target, request.account.login, now()
    )
    world.state.statuses.append(status)
    return world.created(f"statuses/{sha}", world.documents.status(status))


@serves("GET", f"{REPOSITORY}/commits/{{ref}}/statuses")
def list_statuses(world: World, request: Request) -> Answer:
    sha = _commit(world, request)
    found = [status for status in reversed(world.state.statuses) if status.sha == sha]
    return world.page(request, found, world.documents.status)


@serves("GET", f"{REPOSITORY}/commits/{{ref}}/status")
def get_combined_status(world: World, request: Request) -> Answer:
    sha = _commit(world, request)
    newest = list(newest_statuses(world.state, sha).values())
    states = {status.state for status in newest}
    state = "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
    first = (int(request.query.get("page", 1)) - 1) * request.page_size
    document = {
        "state": state,
        "statuses": [world.documents.simple_status(status) for status in newest[first : first + request.page_size]],
        "sha": sha,
        "total_count": len(newest),
        "repository": world.documents.repository(),
        "commit_url": f"{world.documents.api}/commits/{sha}",
        "url": f"{world.documents.api}/commits/{sha}/status",
    }
    return Answer(200, document)


@serves("GET", f"{REPOSITORY}/rules/branches/{{branch}}")
def list_branch_rules(world: World, request: Request) -> Answer:
    def show(found: tuple[Ruleset, dict[str, Any]]) -> dict[str, Any]:
        source = {"ruleset_source_type": "Repository", "ruleset_source": world.documents.name}
        return {**found[1], **source, "ruleset_id": found[0].id}

    rules = rules_of(world.state, f"refs/heads/{request.values['branch']}", world.documents.default_branch)
    return world.page(request, rules, show)


@serves("GET", f"{REPOSITORY}/rulesets")
def list_rulesets(world: World, request: Request) -> Answer:
    request.require_served("includes_parents")  # there is no organization above
    return world.page(request, world.state.rulesets, lambda one: world.documents.ruleset(one, whole=False))


@serves("POST", f"{REPOSITORY}/rulesets", needs="admin", permission="administration=write")
def create_ruleset(world: World, request: Request) -> Answer:
    _require_new_name(world, request.body["name"], None)
    moment = now()
    ruleset = Ruleset(world.state.new_id(), completed(request.body), moment, moment)
    world.state.rulesets.append(ruleset)
    return Answer(201, world.documents.ruleset(ruleset, whole=True, bypass_actors=True))


@serves("GET", _RULESET)
def get_ruleset(world: World, request: Request) -> Answer:
    seen = request.account.access == "admin"
    return Answer(200, world.documents.ruleset(_ruleset(world, request), whole=True, bypass_actors=seen))


@serves("PUT", _RULESET, needs="admin", permission="administration=write")
def update_ruleset(world: World, request: Request) -> Answer:
    ruleset = _ruleset(world, request)
    definition = {**ruleset.document, **(request.body or {})}
    _require_new_name(world, definition["name"], ruleset)
    ruleset.document, ruleset.updated_at = completed(definition), now()
    return Answer(200, world.documents.ruleset(ruleset, whole=True, bypass_actors=True))


@serves("DELETE", _RULESET, needs="admin", permission="administration=write")
def delete_ruleset(world: World, request: Request) -> Answer:
    world.state.rulesets.remove(_ruleset(world, request))
    return Answer(204)


def _ruleset(world: World, request: Request) -> Ruleset:
    return the_one(each for each in world.state.rulesets if each.id == request.number("ruleset_id"))


def _require_new_name(world: World, name: str, own: Ruleset | None) -> None:
    if any(ruleset.document["name"] == name and ruleset is not own for ruleset in world.state.rulesets):
        raise invalid("RepositoryRuleset", "name", "Name must be unique")


def _commit(world: World, request: Request) -> str:
    sha = world.git.resolve(request.values["ref"])
    if not sha:
        raise Refused(422, f"No commit found for SHA: {request.values['ref']}")
    return sha
