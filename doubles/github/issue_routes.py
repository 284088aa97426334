"""Issues, and the comments on them and on pull requests, which are issues too."""

from __future__ import annotations

from typing import Any

from doubles.github.pull_routes import refresh
from doubles.github.routes import LONGEST_BODY, REPOSITORY, Answer, Request, World, invalid, serves, the_one
from doubles.github.state import Comment, Issue, now

_ISSUE = f"{REPOSITORY}/issues/{{issue_number}}"
_COMMENT = f"{REPOSITORY}/issues/comments/{{comment_id}}"


@serves("GET", f"{REPOSITORY}/issues")
def list_issues(world: World, request: Request) -> Answer:
    request.require_served("state", "labels", "creator", "sort", "direction")
    query = request.query
    wanted = {label for label in query.get("labels", "").split(",") if label}
    for issue in world.state.issues:
        refresh(world, issue)
    found = [
        issue
        for issue in world.state.issues
        if query.get("state", "open") in {"all", issue.state}
        and wanted <= set(issue.labels)
        and query.get("creator", issue.author) == issue.author
    ]
    return world.page(request, request.ordered(found, "desc"), world.documents.issue)


@serves("POST", f"{REPOSITORY}/issues", needs="comment", permission="issues=write")
def create_issue(world: World, request: Request) -> Answer:
    body, moment = request.body, now()
    _require_fitting(body.get("body"), "Issue", "body", "custom")
    issue = Issue(
        world.state.new_number(), world.state.new_id(), str(body["title"]), body.get("body"), request.account.login,
        moment, moment, _labels(body),
    )  # fmt: skip
    world.state.issues.append(issue)
    return world.created(f"issues/{issue.number}", world.documents.issue(issue))


@serves("GET", _ISSUE)
def get_issue(world: World, request: Request) -> Answer:
    issue = world.issue(request)
    refresh(world, issue)
    return Answer(200, world.documents.issue(issue))


@serves("PATCH", _ISSUE, needs="write", permission="issues=write")
def update_issue(world: World, request: Request) -> Answer:
    issue, body = world.issue(request), request.body or {}
    _require_fitting(body.get("body"), "Issue", "body", "custom")
    issue.title = str(body.get("title", issue.title))
    issue.body = body.get("body", issue.body)
    if "labels" in body:
        issue.labels = _labels(body)
    if body.get("state", issue.state) != issue.state:
        issue.set_state(body["state"])
        issue.state_reason = body.get("state_reason", "completed" if issue.state == "closed" else "reopened")
    issue.updated_at = now()
    return Answer(200, world.documents.issue(issue))


@serves("GET", f"{_ISSUE}/comments")
def list_comments(world: World, request: Request) -> Answer:
    request.require_served("since")
    number = world.issue(request).number
    since = request.query.get("since", "")
    found = [one for one in world.state.comments if one.issue == number and one.updated_at >= since]
    return world.page(request, found, world.documents.comment)


@serves("POST", f"{_ISSUE}/comments", needs="comment", permission="issues=write; pull_requests=write")
def create_comment(world: World, request: Request) -> Answer:
    issue, text, moment = world.issue(request), request.body["body"], now()
    _require_comment(text)
    comment = Comment(world.state.new_id(), issue.number, request.account.login, text, moment, moment)
    world.state.comments.append(comment)
    issue.updated_at = moment
    return world.created(f"issues/comments/{comment.id}", world.documents.comment(comment))


@serves("GET", _COMMENT)
def get_comment(world: World, request: Request) -> Answer:
    return Answer(200, world.documents.comment(_comment(world, request)))


@serves("PATCH", _COMMENT, needs="write", permission="issues=write; pull_requests=write")
def update_comment(world: World, request: Request) -> Answer:
    comment = _comment(world, request)
    _require_comment(request.body["body"])
    comment.body, comment.updated_at = request.body["body"], now()
    return Answer(200, world.documents.comment(comment))


@serves("DELETE", _COMMENT, needs="write", permission="issues=write; pull_requests=write")
def delete_comment(world: World, request: Request) -> Answer:
    world.state.comments.remove(_comment(world, request))
    return Answer(204)


def _comment(world: World, request: Request) -> Comment:
    return the_one(comment for comment in world.state.comments if comment.id == request.number("comment_id"))


def _labels(body: dict[str, Any]) -> list[str]:
    return [label if isinstance(label, str) else label["name"] for label in body.get("labels", [])]


def _require_comment(text: str) -> None:
    if not text.strip():
        raise invalid("IssueComment", "data", "Body can't be blank", "unprocessable")
    _require_fitting(text, "IssueComment", "data", "unprocessable")


def _require_fitting(text: str | None, resource: str, field: str, code: str) -> None:
    if text is not None and len(text) > LONGEST_BODY:
        raise invalid(resource, field, f"Body is too long (maximum is {LONGEST_BODY} characters)", code)
