"""The double's objects as GitHub's API shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from doubles.github.repository_git import Reference, Repository
from doubles.github.state import Account, Comment, Issue, Review, Ruleset, State, Status

Document = dict[str, Any]
_ASSOCIATIONS = {"admin": "OWNER", "write": "COLLABORATOR", "read": "CONTRIBUTOR"}
_REPOSITORY_URLS = """
    archive {archive_format}{/ref}|assignees {/user}|blobs git/blobs{/sha}|branches {/branch}|
    collaborators {/collaborator}|comments {/number}|commits {/sha}|compare {base}...{head}|contents {+path}|
    contributors|deployments|downloads|events|forks|git_commits git/commits{/sha}|git_refs git/refs{/sha}|
    git_tags git/tags{/sha}|hooks|issue_comment issues/comments{/number}|issue_events issues/events{/number}|
    issues {/number}|keys {/key_id}|labels {/name}|languages|merges|milestones {/number}|
    notifications {?since,all,participating}|pulls {/number}|releases {/id}|stargazers|statuses {/sha}|subscribers|
    subscription|tags|teams|trees git/trees{/sha}
"""
_USER_URLS = (
    "followers following{/other_user} gists{/gist_id} starred{/owner}{/repo} subscriptions repos events{/privacy} "
    "received_events"
)
_BORN = "2026-01-01T00:00:00Z"
_ISSUE = ("number", "title", "body", "state", "created_at", "updated_at", "closed_at")


@dataclass(frozen=True)
class Documents:
    """Makes them. url: where the double listens, which stands for both github.com and api.github.com."""

    url: str
    name: str
    default_branch: str
    state: State
    git: Repository

    @property
    def api(self) -> str:
        return f"{self.url}/repos/{self.name}"

    @property
    def html(self) -> str:
        return f"{self.url}/{self.name}"

    def account(self, login: str) -> Account:
        return self.state.logins.get(login) or Account(login, sum(login.encode()), "User", "read")

    def user(self, login: str | None) -> Document | None:
        if login is None:
            return None
        account = self.account(login)
        api = f"{self.url}/users/{login}"
        return {
            "login": login,
            "id": account.id,
            "node_id": f"U_{account.id}",
            "avatar_url": f"{self.url}/avatars/{account.id}",
            "gravatar_id": "",
            "url": api,
            "html_url": f"{self.url}/{login}",
            **{f"{path.partition('{')[0]}_url": f"{api}/{path}" for path in _USER_URLS.split()},
            "organizations_url": f"{api}/orgs",
            "type": account.type,
            "site_admin": False,
        }

    def authenticated_user(self, login: str) -> Document:
        nothing = dict.fromkeys(("name", "company", "location", "email", "hireable", "bio", "blog"))
        none = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
        return {**(self.user(login) or {}), **nothing, **none, "created_at": _BORN, "updated_at": _BORN}

    def repository(self, name: str | None = None) -> Document:
        """The repository, or a fork of it."""
        full_name = name or self.name
        owner, _, own_name = full_name.partition("/")
        api, html = f"{self.url}/repos/{full_name}", f"{self.url}/{full_name}"
        open_issues = sum(issue.state == "open" for issue in self.state.issues)
        return {
            "id": sum(full_name.encode()),
            "node_id": f"R_{sum(full_name.encode())}",
            "name": own_name,
            "full_name": full_name,
            "owner": self.user(owner),
            "html_url": html,
            "fork": full_name != self.name,
            "url": api,
            **_repository_urls(api),
            "git_url": f"git:{html.partition(':')[2]}.git",
            "ssh_url": f"git@127.0.0.1:{full_name}.git",
            "clone_url": f"{html}.git",
            "svn_url": html,
            **dict.fromkeys(("description", "mirror_url", "homepage", "language", "license")),
            **dict.fromkeys(("forks_count", "stargazers_count", "watchers_count", "size", "forks", "watchers"), 0),
            **dict.fromkeys(("open_issues_count", "open_issues"), open_issues),
            "default_branch": self.default_branch,
            **dict.fromkeys(("has_issues", "has_projects", "has_wiki", "has_downloads", "allow_forking"), True),
            **dict.fromkeys(("private", "has_pages", "has_discussions", "archived", "disabled", "is_template"), False),
            "visibility": "public",
            "topics": [],
            "web_commit_signoff_required": False,
            **dict.fromkeys(("pushed_at", "created_at", "updated_at"), _BORN),
        }

    def issue(self, issue: Issue) -> Document:
        api = f"{self.api}/issues/{issue.number}"
        document: Document = {
            "url": api,
            "repository_url": self.api,
            "labels_url": f"{api}/labels{{/name}}",
            "comments_url": f"{api}/comments",
            "events_url": f"{api}/events",
            "html_url": f"{self.html}/{'pull' if issue.pull else 'issues'}/{issue.number}",
            "id": issue.id,
            "node_id": f"I_{issue.id}",
            **taken(issue, *_ISSUE, "state_reason"),
            **self._authorship(issue.author),
            "labels": [self.label(name) for name in issue.labels],
            "locked": False,
            **dict.fromkeys(("assignee", "milestone")),
            "assignees": [],
            "comments": sum(comment.issue == issue.number for comment in self.state.comments),
        }
        if issue.pull:
            document["pull_request"] = {**self._pull_urls(issue), "merged_at": issue.pull.merged_at}
        return document

    def _pull_urls(self, issue: Issue) -> Document:
        html = f"{self.html}/pull/{issue.number}"
        api = f"{self.api}/pulls/{issue.number}"
        return {"url": api, "html_url": html, "diff_url": f"{html}.diff", "patch_url": f"{html}.patch"}

    def _authorship(self, login: str) -> Document:
        return {"user": self.user(login), "author_association": _ASSOCIATIONS[self.account(login).access]}

    def label(self, name: str) -> Document:
        identity = sum(name.encode())
        return {
            "id": identity,
            "node_id": f"LA_{identity}",
            "url": f"{self.api}/labels/{name}",
            "name": name,
            "color": "ededed",
            "default": False,
            "description": None,
        }

    def pull(self, issue: Issue) -> Document:
        """As lists of pull requests have it."""
        pull = issue.pull
        assert pull is not None
        api, html = f"{self.api}/pulls/{issue.number}", f"{self.html}/pull/{issue.number}"
        links = {
            "self": api,
            "html": html,
            "issue": f"{self.api}/issues/{issue.number}",
            "comments": f"{self.api}/issues/{issue.number}/comments",
            "review_comments": f"{api}/comments",
            "review_comment": f"{self.api}/pulls/comments{{/number}}",
            "commits": f"{api}/commits",
            "statuses": f"{self.api}/statuses/{pull.head_sha}",
        }
        return {
            "id": issue.id,
            "node_id": f"PR_{issue.id}",
            **self._pull_urls(issue),
            **{f"{name}_url": link for name, link in links.items() if name not in {"self", "html"}},
            "locked": False,
            **taken(issue, *_ISSUE),
            **self._authorship(issue.author),
            **taken(pull, "merged_at", "merge_commit_sha", "draft"),
            **dict.fromkeys(("assignee", "milestone", "auto_merge", "active_lock_reason")),
            **{name: [] for name in ("assignees", "requested_reviewers", "requested_teams")},
            "labels": [self.label(name) for name in issue.labels],
            "head": self._end(pull.head_repository, pull.head_ref, pull.head_sha),
            "base": self._end(self.name, pull.base_ref, pull.base_sha),
            "_links": {name: {"href": link} for name, link in links.items()},
        }

    def full_pull(self, issue: Issue, *, mergeable: bool | None, mergeable_state: str) -> Document:
        pull = issue.pull
        assert pull is not None
        changes = self.git.changes(pull.base_sha, pull.head_sha)
        return {
            **self.pull(issue),
            "merged": pull.merged_at is not None,
            "mergeable": mergeable,
            "rebaseable": mergeable,
            "mergeable_state": mergeable_state,
            "merged_by": self.user(pull.merged_by),
            "comments": sum(comment.issue == issue.number for comment in self.state.comments),
            "review_comments": 0,
            "maintainer_can_modify": False,
            **changes,
        }

    def comment(self, comment: Comment) -> Document:
        issue = next(issue for issue in self.state.issues if issue.number == comment.issue)
        return {
            "url": f"{self.api}/issues/comments/{comment.id}",
            "html_url": f"{self.html}/{'pull' if issue.pull else 'issues'}/{issue.number}#issuecomment-{comment.id}",
            "issue_url": f"{self.api}/issues/{issue.number}",
            "node_id": f"IC_{comment.id}",
            **self._authorship(comment.author),
            **taken(comment, "id", "body", "created_at", "updated_at"),
        }

    def status(self, status: Status) -> Document:
        return {**self.simple_status(status), "creator": self.user(status.creator)}

    def simple_status(self, status: Status) -> Document:
        return {
            "url": f"{self.api}/statuses/{status.sha}",
            "avatar_url": f"{self.url}/avatars/{self.account(status.creator).id}",
            "node_id": f"SC_{status.id}",
            **taken(status, "id", "state", "description", "target_url", "context", "created_at"),
            "updated_at": status.created_at,
        }

    def review(self, review: Review) -> Document:
        html = f"{self.html}/pull/{review.pull}#pullrequestreview-{review.id}"
        pull = f"{self.api}/pulls/{review.pull}"
        return {
            "node_id": f"PRR_{review.id}",
            **self._authorship(review.author),
            **taken(review, "id", "body", "state", "submitted_at", "commit_id"),
            "html_url": html,
            "pull_request_url": pull,
            "_links": {"html": {"href": html}, "pull_request": {"href": pull}},
        }

    def ruleset(self, ruleset: Ruleset, *, whole: bool, bypass_actors: bool = False) -> Document:
        """whole: as a single one is shown; lists leave the rules out. Only administrators see who may pass them by."""
        names = ("name", "target", "enforcement", *(("conditions", "rules") if whole else ()))
        links = {"self": f"{self.api}/rulesets/{ruleset.id}", "html": f"{self.html}/rules/{ruleset.id}"}
        shown: Document = {
            **taken(ruleset, "id", "created_at", "updated_at"),
            **{name: ruleset.document[name] for name in names},
            "source_type": "Repository",
            "source": self.name,
            "node_id": f"RRS_{ruleset.id}",
            "_links": {name: {"href": link} for name, link in links.items()},
        }
        if bypass_actors:
            shown |= {"bypass_actors": ruleset.document["bypass_actors"], "current_user_can_bypass": "never"}
        return shown

    def ref(self, reference: Reference) -> Document:
        return {
            "ref": reference.name,
            "node_id": f"REF_{sum(reference.name.encode())}",
            "url": f"{self.api}/git/{reference.name}",
            "object": self.object(reference.kind, reference.sha),
        }

    def object(self, kind: str, sha: str) -> Document:
        return {"type": kind, "sha": sha, "url": f"{self.api}/git/{kind}s/{sha}"}

    def _end(self, repository: str, ref: str, sha: str) -> Document:
        owner = repository.partition("/")[0]
        return {
            "label": f"{owner}:{ref}",
            "ref": ref,
            "sha": sha,
            "user": self.user(owner),
            "repo": self.repository(repository),
        }


def taken(source: object, *names: str) -> Document:
    return {name: getattr(source, name) for name in names}


def _repository_urls(api: str) -> Document:
    urls = {}
    for described in _REPOSITORY_URLS.replace("\n", " ").split("|"):
        name, _, rest = described.strip().partition(" ")
        separate = "" if rest.startswith(("{/", "{?")) or not rest else "/"
        inside = rest if rest.startswith(("git/", "issues/")) else f"{name}{separate}{rest}"
        urls[f"{name}_url"] = f"{api}/{inside}"
    return urls
