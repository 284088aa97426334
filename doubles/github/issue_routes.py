"""Issues, and the comments on them and on pull requests, which are issues too."""

from __future__ import annotations

from doubles.github.pull_routes import refresh
from doubles.github.routes import (
    LONGEST_BODY,
    REPOSITORY,
    Answer,
    Request,
    World,
    invalid,
    issue_of,
    not_found,
    page,
    require_served,
    serves,
)
from doubles.github.state import Comment, Issue, now

_ISSUE = f"{REPOSITORY}/issues/{{issue_number}}"
_COMMENT = f"{REPOSITORY}/issues/comments/{{comment_id}}"


@serves("GET", f"{REPOSITORY}/issues")
def list_issues(world: World, request: Request) -> Answer:
    require_served(request, "state", "labels", "creator", "sort", "direction")
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
    by_update = query.get("sort") == "updated"
    found.sort(
        key=lambda issue: (issue.updated if by_update else issue.created, issue.number),
        reverse=query.get("direction", "desc") == "desc",
    )
    return page(world, request, found, world.documents.issue)


@serves("POST", f"{REPOSITORY}/issues", needs="comment", permission="issues=write")
def create_issue(world: World, request: Request) -> Answer:
    body, moment = request.body, now()
    _require_fitting(body.get("body"), "Issue", "body", "custom")
    labels = [label if isinstance(label, str) else label["name"] for label in body.get("labels", [])]
    issue = Issue(
        world.state.new_number(), world.state.new_id(), str(body["title"]), body.get("body"), request.account.login,
        moment, moment, labels,
    )  # fmt: skip
    world.state.issues.append(issue)
    return Answer(201, world.documents.issue(issue), {"Location": f"{world.documents.api}/issues/{issue.number}"})


@serves("GET", _ISSUE)
def get_issue(world: World, request: Request) -> Answer:
    issue = issue_of(world, request)
    refresh(world, issue)
    return Answer(200, world.documents.issue(issue))


@serves("PATCH", _ISSUE, needs="write", permission="issues=write")
def update_issue(world: World, request: Request) -> Answer:
    issue, body = issue_of(world, request), request.body or {}
    _require_fitting(body.get("body"), "Issue", "body", "custom")
    issue.title = str(body.get("title", issue.title))
    issue.body = body.get("body", issue.body)
    if "labels" in body:
        issue.labels = [label if isinstance(label, str) else label["name"] for label in body["labels"]]
    if body.get("state", issue.state) != issue.state:
        issue.state = body["state"]
        issue.closed = now() if issue.state == "closed" else None
        issue.state_reason = body.get("state_reason", "completed" if issue.state == "closed" else "reopened")
    issue.updated = now()
    return Answer(200, world.documents.issue(issue))


@serves("GET", f"{_ISSUE}/comments")
def list_comments(world: World, request: Request) -> Answer:
    require_served(request, "since")
    number = issue_of(world, request).number
    since = request.query.get("since", "")
    found = [one for one in world.state.comments if one.issue == number and one.updated >= since]
    return page(world, request, found, world.documents.comment)


@serves("POST", f"{_ISSUE}/comments", needs="comment", permission="issues=write; pull_requests=write")
def create_comment(world: World, request: Request) -> Answer:
    issue, text, moment = issue_of(world, request), request.body["body"], now()
    _require_comment(text)
    comment = Comment(world.state.new_id(), issue.number, request.account.login, text, moment, moment)
    world.state.comments.append(comment)
    issue.updated = moment
    location = f"{world.documents.api}/issues/comments/{comment.id}"
    return Answer(201, world.documents.comment(comment), {"Location": location})


@serves("GET", _COMMENT)
def get_comment(world: World, request: Request) -> Answer:
    return Answer(200, world.documents.comment(_comment(world, request)))


@serves("PATCH", _COMMENT, needs="write", permission="issues=write; pull_requests=write")
def update_comment(world: World, request: Request) -> Answer:
    comment = _comment(world, request)
    _require_comment(request.body["body"])
    comment.body, comment.updated = request.body["body"], now()
    return Answer(200, world.documents.comment(comment))


@serves("DELETE", _COMMENT, needs="write", permission="issues=write; pull_requests=write")
def delete_comment(world: World, request: Request) -> Answer:
    world.state.comments.remove(_comment(world, request))
    return Answer(204)


def _comment(world: World, request: Request) -> Comment:
    identity = request.number("comment_id")
    found = next((comment for comment in world.state.comments if comment.id == identity), None)
    if found is None:
        raise not_found()
    return found


def _require_comment(text: str) -> None:
    if not text.strip():
        raise invalid("IssueComment", "data", "Body can't be blank", "unprocessable")
    _require_fitting(text, "IssueComment", "data", "unprocessable")


def _require_fitting(text: str | None, resource: str, field: str, code: str) -> None:
    if text is not None and len(text) > LONGEST_BODY:
        raise invalid(resource, field, f"Body is too long (maximum is {LONGEST_BODY} characters)", code)
