"""What a release asks of GitHub: a number of its own, the Git tag, the release with its files; and starting workflows.

Everything but starting a workflow can be done again at any time, by another process too, and ends in the same state.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import msgspec

from clients.errors import NotReleased
from clients.github import HEADERS, GitHub, read, read_all
from clients.github_faults import Overtaken

TAGS = "refs/tags/"
RESERVED = "refs/rps/releases/"
"""Where a release reserves its number before it does anything under that name."""
_UNCHANGED_NAME = re.compile(r"[A-Za-z0-9_]([\w.+-]*[\w+-])?", re.ASCII)
"""Of a file: GitHub replaces other characters, and points at the ends."""


@dataclass(frozen=True)
class Tag:
    """A ref that names a commit, and what is written in its annotation."""

    ref: str
    """`refs/…`"""
    sha: str
    """The commit."""
    message: str
    """Without white space at its end; empty for a tag without an annotation."""

    @property
    def name(self) -> str:
        """`v1.2.0`"""
        return self.ref.rpartition("/")[2]


@dataclass(frozen=True)
class Reservation:
    """Who has a ref: we, when commit and message are those that we asked for, whichever attempt has made it."""

    tag: Tag
    ours: bool


@dataclass(frozen=True)
class Attachment:
    """A file of a release."""

    content: bytes
    content_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Release:
    """A release on GitHub. files: the names of those that are there as a whole."""

    id: int
    tag: str
    name: str
    body: str
    draft: bool
    url: str
    files: tuple[str, ...]


class Releases:
    """The refs, tags and releases of one repository.

    Every method raises ConfigurationError when GitHub refuses the token or does not know the repository, and
    GitHubFault when it refuses what was asked, or when a fault does not pass for as long as ``github`` is patient.
    """

    def __init__(self, github: GitHub, known: Callable[[str], bytes | None] = lambda _sha: None) -> None:
        """known: the content of a tag object by its hash, where a checkout has it: each saves a request."""
        self._github = github
        self._known = known
        self._annotations: dict[str, _Annotation] = {}
        """By their hash: they never change, and are asked for one by one."""

    def tags(self, prefix: str = f"{TAGS}v") -> list[Tag]:
        """Those whose refs start so, with and without annotation."""
        return self._github.patiently(
            f"reading the refs {prefix}*", "contents: read",
            lambda: [self._tag(reference) for reference in self._references(prefix)],
        )  # fmt: skip

    def reservations(self) -> list[Tag]:
        """The numbers that are reserved, released or not."""
        return self.tags(RESERVED)

    def reserve(self, ref: str, sha: str, message: str) -> Reservation:
        """Make an annotated tag of a commit under a ref, unless there is one: of all who try at once, one gets it.

        ref: `refs/…`, anywhere below: a release's number is held below `refs/rps/releases/`.
        """
        made = ""

        def take() -> Tag:
            nonlocal made
            found = self._find(ref)
            if found is None:
                made = made or self._annotate(ref.rpartition("/")[2], sha, message)
                found = self._create(ref, made)
            return self._tag(found)

        tag = self._github.patiently(f"making the ref {ref}", "contents: write", take)
        return Reservation(tag, ours=(tag.sha, tag.message) == (sha, message.rstrip()))

    def create_tag(self, name: str, sha: str, message: str) -> Tag:
        """The annotated Git tag of a commit. Raises NotReleased when there is another one of this name."""
        found = self.reserve(f"{TAGS}{name}", sha, message)
        if not found.ours:
            ours, theirs = message.partition("\n")[0], found.tag.message.partition("\n")[0]
            raise NotReleased(
                f"the Git tag {name}: expected none, or this release's: commit {sha}, {ours!r}; found commit "
                f"{found.tag.sha}, {theirs or 'no annotation'!r}. A tag is never moved: look who has made it, "
                "and delete it if it was a mistake"
            )
        return found.tag

    def delete(self, ref: str) -> None:
        """Delete a ref, `refs/…`; nothing happens when it is gone already."""
        from githubkit.exception import RequestFailed

        def delete() -> None:
            try:
                self._github.rest.git.delete_ref(*self._github.repository, ref.removeprefix("refs/"), headers=HEADERS)
            except RequestFailed as error:
                if error.response.status_code not in {404, 422} or self._find(ref) is not None:
                    raise

        self._github.patiently(f"deleting the ref {ref}", "contents: write", delete)

    def release_of(self, tag: str) -> Release | None:
        """The release of a tag: the published one, else its oldest draft."""

        def find() -> Release | None:
            found = self._releases_of(tag)
            return _told(found[0]) if found else None

        return self._github.patiently(f"looking for the release of {tag}", "contents: read", find)

    def put_release(self, tag: str, *, name: str, body: str, files: Mapping[str, Attachment], latest: bool) -> Release:
        """Make the release of a tag that is there, or bring it up to date: first as a draft, published last.

        files: by name. In a draft, a file with other content, or of which only the beginning has come, is replaced; to
        a published release only what it lacks is added. body: GitHub takes 125,000 characters. latest: whether GitHub
        shows it as the latest release.
        Raises ValueError when GitHub would rename a file.
        """
        for each in files:
            if not _UNCHANGED_NAME.fullmatch(each):
                raise ValueError(
                    f"expected a name of letters, digits and '._+-', not ending in a point; found {each!r}"
                )
        rest, repository = self._github.rest, self._github.repository

        def put() -> Release:
            release = self._draft_or_published(tag, name, body)
            self._attach(release, files)
            answer = rest.repos.update_release(
                *repository, release.id, headers=HEADERS, tag_name=tag, name=name, body=body, draft=False,
                make_latest="true" if latest else "false",
            )  # fmt: skip
            return _told(read(answer, _Release))

        return self._github.patiently(f"making the release of {tag}", "contents: write", put)

    def dispatch_workflow(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:
        """Start a workflow by the name of its file, on a branch or tag.

        After a fault it may be started twice: what it does must be harmless to do again.
        """
        data = cast(Any, {"ref": ref, "inputs": dict(inputs)})
        self._github.patiently(
            f"starting the workflow {workflow} on {ref}", "actions: write",
            lambda: self._github.rest.actions.create_workflow_dispatch(
                *self._github.repository, workflow, headers=HEADERS, data=data
            ),
        )  # fmt: skip

    def _references(self, prefix: str) -> list[_Reference]:
        name = prefix.removeprefix("refs/").rstrip("/")
        answer = self._github.rest.git.list_matching_refs(*self._github.repository, name, headers=HEADERS)
        return [each for each in read(answer, list[_Reference]) if each.ref.startswith(prefix)]

    def _find(self, ref: str) -> _Reference | None:
        return next((each for each in self._references(ref) if each.ref == ref), None)

    def _tag(self, reference: _Reference) -> Tag:
        target, message = reference.object, ""
        while target.type == "tag":
            annotation = self._annotation(target.sha)
            message = message or annotation.message.rstrip()
            target = annotation.object
        return Tag(reference.ref, target.sha, message)

    def _annotation(self, sha: str) -> _Annotation:
        content = None if sha in self._annotations else self._known(sha)
        if content is not None:
            self._annotations[sha] = _parsed(content)
        if sha not in self._annotations:
            answer = self._github.rest.git.get_tag(*self._github.repository, sha, headers=HEADERS)
            self._annotations[sha] = read(answer, _Annotation)
        return self._annotations[sha]

    def _annotate(self, name: str, sha: str, message: str) -> str:
        """The hash of an annotation, which no ref names yet."""
        data = cast(Any, {"tag": name, "message": message, "object": sha, "type": "commit"})
        answer = self._github.rest.git.create_tag(*self._github.repository, headers=HEADERS, data=data)
        return read(answer, _Made).sha

    def _create(self, ref: str, sha: str) -> _Reference:
        """The ref, whether it was made now or, meanwhile, by somebody else."""
        from githubkit.exception import RequestFailed

        try:
            answer = self._github.rest.git.create_ref(*self._github.repository, headers=HEADERS, ref=ref, sha=sha)
            return read(answer, _Reference)
        except RequestFailed as error:
            # 422 has many reasons, and what tells of this one is not told as part of the API.
            found = self._find(ref) if error.response.status_code == 422 else None
            if found is None:
                raise
            return found

    def _releases_of(self, tag: str) -> list[_Release]:
        """The published one first, then drafts, of which GitHub allows several, by their age."""
        # A draft is found in the list alone: it has no tag yet by which to ask for it.
        every = read_all(self._github.rest.repos.list_releases, *self._github.repository, kind=_Release)
        found = [release for release in every if release.tag_name == tag]
        return sorted(found, key=lambda release: (release.draft, release.id))

    def _draft_or_published(self, tag: str, name: str, body: str) -> _Release:
        """The release to work on. Other drafts of this tag, which an earlier attempt has left, are deleted."""
        rest, repository = self._github.rest, self._github.repository
        found = self._releases_of(tag)
        if not found:
            # Without `target_commitish`: it would ask for the right to change workflows, and the tag is there.
            created = rest.repos.create_release(
                *repository, headers=HEADERS, tag_name=tag, name=name, body=body, draft=True
            )
            made = read(created, _Release)
            # Another attempt may just have done the same: both keep the older one.
            found = self._releases_of(tag) or [made]
        kept, *others = found
        for other in others:
            _unless_gone(partial(rest.repos.delete_release, *repository, other.id, headers=HEADERS))
        return kept

    def _attach(self, release: _Release, files: Mapping[str, Attachment]) -> None:
        every = read_all(self._github.rest.repos.list_release_assets, *self._github.repository, release.id, kind=_Asset)
        there = {asset.name: asset for asset in every}
        for name, file in files.items():
            known = there.get(name)
            if known is None:
                self._upload(release, name, file)
            elif not known.is_whole or (release.draft and not known.holds(file.content)):
                delete = self._github.rest.repos.delete_release_asset
                _unless_gone(partial(delete, *self._github.repository, known.id, headers=HEADERS))
                self._upload(release, name, file)

    def _upload(self, release: _Release, name: str, file: Attachment) -> None:
        from githubkit.exception import RequestFailed

        # To where the release says: github.com has another host for this, Enterprise another path.
        url = release.upload_url.partition("{")[0]
        headers = {**HEADERS, "Content-Type": file.content_type}
        try:
            self._github.client.request("POST", url, params={"name": name}, content=file.content, headers=headers)
        except RequestFailed as error:
            if error.response.status_code == 422 and b"already_exists" in error.response.raw_response.content:
                raise Overtaken(f"{name} has been uploaded by another attempt, too") from None
            raise


class _Object(msgspec.Struct):
    type: str
    sha: str


class _Reference(msgspec.Struct):
    ref: str
    object: _Object


class _Made(msgspec.Struct):
    sha: str


class _Annotation(msgspec.Struct):
    message: str
    object: _Object


class _Asset(msgspec.Struct):
    id: int
    name: str
    state: str
    size: int
    digest: str | None = None
    """`sha256:…`; older versions of GitHub Enterprise do not tell it."""

    @property
    def is_whole(self) -> bool:
        return self.state == "uploaded"

    def holds(self, content: bytes) -> bool:
        known = self.digest in {None, f"sha256:{hashlib.sha256(content).hexdigest()}"}
        return self.size == len(content) and known


class _Release(msgspec.Struct):
    id: int
    tag_name: str
    name: str | None
    draft: bool
    html_url: str
    upload_url: str
    assets: list[_Asset]
    body: str | None = None


def _parsed(content: bytes) -> _Annotation:
    """A tag object as Git stores it: headers, an empty line, the message."""
    headers, _, message = content.decode("utf-8", errors="replace").partition("\n\n")
    named = dict(line.split(" ", 1) for line in headers.splitlines() if " " in line)
    return _Annotation(message, _Object(named.get("type", ""), named.get("object", "")))


def _told(release: _Release) -> Release:
    return Release(
        id=release.id,
        tag=release.tag_name,
        name=release.name or "",
        body=release.body or "",
        draft=release.draft,
        url=release.html_url,
        files=tuple(sorted(asset.name for asset in release.assets if asset.is_whole)),
    )


def _unless_gone(delete: Callable[[], object]) -> None:
    from githubkit.exception import RequestFailed

    try:
        delete()
    except RequestFailed as error:
        if error.response.status_code != 404:  # another attempt was quicker
            raise
