"""Pull requests, their reviews, and merging, which the branch's rules can forbid."""

from __future__ import annotations

from doubles.github.repository_git import Conflict
from doubles.github.routes import REPOSITORY, Answer, Refused, Request, World, invalid, serves
from doubles.github.ruleset_checks import violations
from doubles.github.state import Issue, Pull, Review, now

_PULL = f"{REPOSITORY}/pulls/{{pull_number}}"
_REVIEWS = {"APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}


@serves("GET", f"{REPOSITORY}/pulls")
def list_pulls(world: World, request: Request) -> Answer:
    request.require_served("state", "head", "base", "sort", "direction")
    query, found = request.query, []
    for issue in world.state.issues:
        if issue.pull is None:
            continue
        refresh(world, issue)
        label = f"{issue.pull.head_repository.partition('/')[0]}:{issue.pull.head_ref}"
        if (
            query.get("state", "open") in {"all", issue.state}
            and query.get("head", label) == label
            and query.get("base", issue.pull.base_ref) == issue.pull.base_ref
        ):
            found.append(issue)
    direction = "desc" if query.get("sort", "created") == "created" else "asc"
    return world.page(request, request.ordered(found, direction), world.documents.pull)


@serves("POST", f"{REPOSITORY}/pulls", needs="comment", permission="pull_requests=write")
def create_pull(world: World, request: Request) -> Answer:
    body, documents = request.body, world.documents
    owner, _, branch = body["head"].rpartition(":")
    own_owner = documents.name.partition("/")[0]
    repository = documents.name
    if owner and owner != own_owner:
        repository = next((name for name in world.forks if name.partition("/")[0] == owner), "")
    head = _head(world, repository, branch)
    base = world.git.head(body["base"])
    if not head:
        raise invalid("PullRequest", "head", "", "invalid")
    if not base:
        raise invalid("PullRequest", "base", "", "invalid")
    if world.git.contains(base, head):
        raise invalid("PullRequest", "", f"No commits between {body['base']} and {body['head']}")
    pull = Pull(branch, repository, body["base"], head, base, body.get("draft", False))
    for issue in world.state.issues:
        if issue.pull and issue.state == "open" and _ends(issue.pull) == _ends(pull):
            raise invalid("PullRequest", "", f"A pull request already exists for {owner or own_owner}:{branch}.")
    moment = now()
    issue = Issue(
        world.state.new_number(), world.state.new_id(), body["title"], body.get("body"), request.account.login,
        moment, moment, pull=pull,
    )  # fmt: skip
    world.state.issues.append(issue)
    return world.created(f"pulls/{issue.number}", _shown(world, issue))


@serves("GET", _PULL)
def get_pull(world: World, request: Request) -> Answer:
    issue, _ = world.pull(request)
    refresh(world, issue)
    return Answer(200, _shown(world, issue))


@serves("PATCH", _PULL, needs="write", permission="pull_requests=write")
def update_pull(world: World, request: Request) -> Answer:
    (issue, pull), body = world.pull(request), request.body or {}
    refresh(world, issue)
    if "base" in body:
        base = world.git.head(body["base"])
        if not base:
            raise invalid("PullRequest", "base", "", "invalid")
        pull.base_ref, pull.base_sha = body["base"], base
    issue.title = body.get("title", issue.title)
    issue.body = body.get("body", issue.body)
    if body.get("state", issue.state) != issue.state:
        if pull.merged_at:
            raise invalid("PullRequest", "state", "Cannot change the state of a merged pull request.")
        issue.set_state(body["state"])
        refresh(world, issue)
    issue.updated_at = now()
    return Answer(200, _shown(world, issue))


@serves("PUT", f"{_PULL}/merge", needs="write", permission="contents=write")
def merge_pull(world: World, request: Request) -> Answer:
    (issue, pull), body = world.pull(request), request.body or {}
    refresh(world, issue)
    if issue.state != "open" or pull.draft:
        raise Refused(405, "Pull Request is not mergeable")
    if body.get("sha", pull.head_sha) != pull.head_sha:
        raise Refused(409, "Head branch was modified. Review and try the merge again.")
    method = body.get("merge_method", "merge")
    if method == "rebase":
        raise NotImplementedError("the double does not rebase")
    held = violations(world.state, world.git, issue, world.documents.default_branch, method)
    if held:
        raise Refused(405, "\n\n".join(["Repository rule violations found", *held, ""]))
    message = body.get("commit_title") or f"Merge pull request #{issue.number} from {pull.head_ref}\n\n{issue.title}"
    try:
        pull.merge_commit_sha = world.git.merge(pull.base_ref, pull.head_sha, message, method)
    except Conflict:
        raise Refused(405, "Pull Request is not mergeable") from None
    issue.set_state("closed")
    issue.updated_at = pull.merged_at = issue.closed_at
    pull.merged_by = request.account.login
    return Answer(200, {"sha": pull.merge_commit_sha, "merged": True, "message": "Pull Request successfully merged"})


@serves("GET", f"{_PULL}/reviews")
def list_reviews(world: World, request: Request) -> Answer:
    issue, _ = world.pull(request)
    found = [review for review in world.state.reviews if review.pull == issue.number]
    return world.page(request, found, world.documents.review)


@serves("POST", f"{_PULL}/reviews", needs="comment", permission="pull_requests=write")
def create_review(world: World, request: Request) -> Answer:
    (issue, pull), body, account = world.pull(request), request.body or {}, request.account
    refresh(world, issue)
    event = body.get("event")
    if event not in _REVIEWS or body.get("comments"):
        raise NotImplementedError("the double takes whole reviews only, without comments on lines")
    if event != "COMMENT" and account.login == issue.author:
        what = "approve" if event == "APPROVE" else "request changes on"
        raise Refused(422, "Unprocessable Entity", [f"Can not {what} your own pull request"])
    if event == "APPROVE" and account.type == "Bot":
        raise Refused(422, "Unprocessable Entity", ["GitHub Actions is not permitted to approve pull requests."])
    review = Review(
        world.state.new_id(), issue.number, account.login, _REVIEWS[event], body.get("body") or "",
        body.get("commit_id") or pull.head_sha, now(),
    )  # fmt: skip
    world.state.reviews.append(review)
    return Answer(200, world.documents.review(review))


def refresh(world: World, issue: Issue) -> None:
    """Let an open pull request follow its branches, as a push to GitHub makes it."""
    pull = issue.pull
    if pull is None or issue.state != "open":
        return
    head = _head(world, pull.head_repository, pull.head_ref)
    if not head:
        issue.set_state("closed")
    elif head != pull.head_sha:
        pull.head_sha, pull.base_sha = head, world.git.head(pull.base_ref)
        issue.updated_at = now()


def _head(world: World, repository: str, branch: str) -> str:
    """The commit that a head branch is at; one of a fork is brought into the repository, as GitHub does."""
    if repository == world.documents.name:
        return world.git.head(branch)
    fork = world.forks.get(repository)
    sha = fork.head(branch) if fork else ""
    if fork and sha:
        world.git.fetch(fork.directory, f"refs/heads/{branch}", f"refs/forks/{repository}/{branch}")
    return sha


def _ends(pull: Pull) -> tuple[str, str, str]:
    return pull.head_repository, pull.head_ref, pull.base_ref


def _shown(world: World, issue: Issue) -> dict[str, object]:
    assert issue.pull is not None
    if issue.state != "open":
        return world.documents.full_pull(issue, mergeable=None, mergeable_state="unknown")
    mergeable = world.git.merges(world.git.head(issue.pull.base_ref), issue.pull.head_sha)
    blocked = violations(world.state, world.git, issue, world.documents.default_branch)
    state = "dirty" if not mergeable else "blocked" if blocked else "clean"
    return world.documents.full_pull(issue, mergeable=mergeable, mergeable_state=state)
