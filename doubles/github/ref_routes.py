"""Git refs, the objects of annotated tags, and what is asked of workflows by dispatch."""

from __future__ import annotations

from typing import Any

from doubles.github.repository_git import Reference
from doubles.github.routes import REPOSITORY, Answer, Refused, Request, World, invalid, not_found, serves, the_one
from doubles.github.ruleset_checks import rules_of
from doubles.github.state import Account, Dispatch, now

_REF = f"{REPOSITORY}/git/refs/{{ref}}"
_CONTENTS = "contents=write; contents=write,workflows=write"
_WORKFLOWS = ".github/workflows"
_NONE = "0" * 40


@serves("GET", f"{REPOSITORY}/git/ref/{{ref}}")
def get_ref(world: World, request: Request) -> Answer:
    return Answer(200, world.documents.ref(the_one([world.git.reference(_name(request))])))


@serves("GET", f"{REPOSITORY}/git/matching-refs/{{ref}}")
def list_matching_refs(world: World, request: Request) -> Answer:
    request.require_served()
    return Answer(200, [world.documents.ref(found) for found in world.git.references(_name(request))])


@serves("POST", f"{REPOSITORY}/git/refs", needs="write", permission=_CONTENTS)
def create_ref(world: World, request: Request) -> Answer:
    name, sha = request.body["ref"], request.body["sha"]
    if not name.startswith("refs/") or name.count("/") < 2:
        raise Refused(422, "Reference name must start with 'refs/' and have at least two slashes.")
    if not world.git.is_reference_name(name):
        raise Refused(422, f"{name} is not a valid ref name.")
    if not world.git.kind(sha):
        raise Refused(422, "Object does not exist")
    if world.git.reference(name):
        raise Refused(422, "Reference already exists")
    _require_known_workflows(world, request.account, sha)
    if not world.git.move_reference(name, sha, _NONE):  # there is `a`, and `a/b` is asked for
        raise Refused(422, "Reference update failed")
    made = world.git.reference(name)
    assert made is not None
    return world.created(f"git/{name}", world.documents.ref(made))


@serves("PATCH", _REF, needs="write", permission=_CONTENTS)
def update_ref(world: World, request: Request) -> Answer:
    found, sha = _reference(world, request), request.body["sha"]
    if not world.git.kind(sha):
        raise Refused(422, "Object does not exist")
    _require_allowed(world, found.name, "update", "Cannot update this protected ref.")
    if not request.body.get("force", False):
        before, after = world.git.resolve(found.sha), world.git.resolve(sha)
        if not (before and after and world.git.contains(after, before)):
            raise Refused(422, "Update is not a fast forward")
    _require_known_workflows(world, request.account, sha)
    world.git.move_reference(found.name, sha, found.sha)
    return Answer(200, world.documents.ref(_reference(world, request)))


@serves("DELETE", _REF, needs="write", permission=_CONTENTS)
def delete_ref(world: World, request: Request) -> Answer:
    found = _reference(world, request)
    _require_allowed(world, found.name, "deletion", "Cannot delete this protected ref.")
    world.git.delete_reference(found.name)
    return Answer(204)


@serves("POST", f"{REPOSITORY}/git/tags", needs="write", permission="contents=write")
def create_tag(world: World, request: Request) -> Answer:
    body, account = request.body, request.account
    if world.git.kind(body["object"]) != body["type"]:
        raise Refused(422, "Could not verify object", [{"resource": "Tag", "field": "object", "code": "invalid"}])
    tagger = body.get("tagger") or {}
    sha = world.git.make_tag(
        body["tag"], body["object"], body["type"], body["message"], tagger.get("name", account.login),
        tagger.get("email", f"{account.id}+{account.login}@users.noreply.github.com"), tagger.get("date", now()),
    )  # fmt: skip
    return world.created(f"git/tags/{sha}", _tag(world, sha))


@serves("GET", f"{REPOSITORY}/git/tags/{{tag_sha}}")
def get_tag(world: World, request: Request) -> Answer:
    if world.git.kind(request.values["tag_sha"]) != "tag":
        raise not_found()
    return Answer(200, _tag(world, request.values["tag_sha"]))


@serves(
    "POST", f"{REPOSITORY}/actions/workflows/{{workflow_id}}/dispatches", needs="write", permission="actions=write"
)  # fmt: skip
def dispatch_workflow(world: World, request: Request) -> Answer:
    workflow, body = request.values["workflow_id"], request.body
    if body.get("return_run_details"):
        raise NotImplementedError("the double runs no workflow")
    ref = body["ref"].removeprefix("refs/heads/").removeprefix("refs/tags/")
    commit = world.git.resolve(ref)
    if not commit:
        raise Refused(422, f"No ref found for: {body['ref']}")
    if f"{_WORKFLOWS}/{workflow}" not in {path for path, _ in world.git.files(commit, _WORKFLOWS)}:
        raise not_found()
    world.state.dispatches.append(Dispatch(workflow, ref, "", body.get("inputs") or {}))
    return Answer(204)


@serves("POST", f"{REPOSITORY}/dispatches", needs="write", permission="contents=write")
def dispatch(world: World, request: Request) -> Answer:
    ref = world.documents.default_branch
    payload = request.body.get("client_payload") or {}
    world.state.dispatches.append(Dispatch("", ref, request.body["event_type"], payload))
    return Answer(204)


def _name(request: Request) -> str:
    return f"refs/{request.values['ref']}"


def _reference(world: World, request: Request) -> Reference:
    found = world.git.reference(_name(request))
    if found is None:
        raise Refused(422, "Reference does not exist")
    return found


def _require_allowed(world: World, name: str, kind: str, reason: str) -> None:
    """Raises Refused when a ruleset forbids it."""
    if any(rule["type"] == kind for _, rule in rules_of(world.state, name, world.documents.default_branch)):
        raise invalid("Ref", "", f"Repository rule violations found\n\n{reason}\n\n")


def _require_known_workflows(world: World, account: Account, sha: str) -> None:
    """A workflow's token brings no workflow files: the same must be on a branch already. Raises Refused."""
    commit = world.git.resolve(sha)
    if account.type != "Bot" or not commit:
        return
    left = world.git.files(commit, _WORKFLOWS)
    for branch in world.git.references("refs/heads/"):
        left -= world.git.files(branch.sha, _WORKFLOWS)
    if left:
        headers = {"x-accepted-github-permissions": _CONTENTS}
        raise Refused(403, "Resource not accessible by integration", headers=headers)


def _tag(world: World, sha: str) -> dict[str, Any]:
    tag = world.git.tag(sha)
    return {
        "node_id": f"TA_{tag.sha}",
        "tag": tag.name,
        "sha": tag.sha,
        "url": f"{world.documents.api}/git/tags/{tag.sha}",
        "message": tag.message,
        "tagger": {"name": tag.tagger, "email": tag.email, "date": tag.date},
        "object": world.documents.object(tag.kind, tag.target),
        "verification": {
            "verified": False,
            "reason": "unsigned",
            **dict.fromkeys(("signature", "payload", "verified_at")),
        },
    }
