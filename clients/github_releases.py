"""What a release asks of GitHub: a number of its own, the Git tag, the release with its files; and starting workflows.

Everything but starting a workflow is idempotent, across processes too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from clients.errors import NotReleased
from clients.github import HEADERS, GitHub, read, read_all
from clients.github_faults import Overtaken, unless_gone

TAGS = "refs/tags/"
RESERVED = "refs/rps/releases/"
"""Where a release reserves its number first."""
_UNCHANGED_NAME = re.compile(r"[A-Za-z0-9_]([\w.+-]*[\w+-])?", re.ASCII)
"""A file's name that GitHub keeps: it replaces other characters, and points at the ends."""


@dataclass(frozen=True)
class Tag:
    """A ref `refs/…`, its commit, and its annotation's message."""

    ref: str
    sha: str
    message: str
    """Without white space at its end; empty for a tag without an annotation."""


@dataclass(frozen=True)
class Reservation:
    """A ref; ours, when commit and message are as asked for, whichever attempt has made it."""

    tag: Tag
    ours: bool


@dataclass(frozen=True)
class Attachment:
    """A file of a release."""

    content: bytes
    content_type: str = "application/octet-stream"


class _Asset(msgspec.Struct):
    id: int
    name: str
    state: str
    size: int
    digest: str | None = None
    """`sha256:…`; older versions of GitHub Enterprise lack it."""

    @property
    def is_whole(self) -> bool:
        return self.state == "uploaded"

    def holds(self, content: bytes) -> bool:
        known = self.digest in {None, f"sha256:{hashlib.sha256(content).hexdigest()}"}
        return self.size == len(content) and known


class Release(msgspec.Struct, frozen=True, rename={"tag": "tag_name", "url": "html_url"}):
    """A release on GitHub."""

    id: int
    tag: str
    draft: bool
    url: str
    upload_url: str
    assets: list[_Asset]
    body: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the whole ones."""
        return tuple(sorted(asset.name for asset in self.assets if asset.is_whole))


class Releases:
    """The refs, tags and releases of one repository.

    Every method raises ConfigurationError when GitHub refuses the token or does not know the repository, and
    GitHubFault when it refuses what was asked, or when a fault does not pass for as long as ``github`` is patient.
    """

    def __init__(self, github: GitHub, known: Callable[[str], bytes | None] = lambda _sha: None) -> None:
        """known: the content of a tag object by its hash, from a checkout: each saves a request."""
        self._github = github
        self._rest, self._repository = github.rest, github.repository
        self._known = known
        self._annotations: dict[str, _Annotation] = {}
        """By their hash: they never change, and each costs a request."""

    def tags(self, prefix: str = f"{TAGS}v") -> list[Tag]:
        """Those whose refs start so, with and without annotation."""

        def tags() -> list[Tag]:
            return [self._tag(reference) for reference in self._references(prefix)]

        return self._github.patiently(f"reading the refs {prefix}*", "contents: read", tags)

    def reservations(self) -> list[Tag]:
        """The reserved numbers, released or not."""
        return self.tags(RESERVED)

    def reserve(self, ref: str, sha: str, message: str) -> Reservation:
        """Make an annotated tag of a commit under a ref, `refs/…`, unless there is one: of all who try, one gets it."""
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
                f"{found.tag.sha}, {theirs or 'no annotation'!r}. A tag is never moved: find out who has made it, "
                "and delete it if it was a mistake"
            )
        return found.tag

    def delete(self, ref: str) -> None:
        """Delete a ref, `refs/…`; nothing happens when it is gone already."""
        from githubkit.exception import RequestFailed

        def delete() -> None:
            try:
                self._rest.git.delete_ref(*self._repository, ref.removeprefix("refs/"), headers=HEADERS)
            except RequestFailed as error:
                if error.response.status_code not in {404, 422} or self._find(ref) is not None:
                    raise

        self._github.patiently(f"deleting the ref {ref}", "contents: write", delete)

    def release_of(self, tag: str) -> Release | None:
        """The release of a tag: the published one, else its oldest draft."""

        def find() -> Release | None:
            return next(iter(self._releases_of(tag)), None)

        return self._github.patiently(f"looking for the release of {tag}", "contents: read", find)

    def put_release(self, tag: str, *, name: str, body: str, files: Mapping[str, Attachment], latest: bool) -> Release:
        """Make the release of an existing tag, or bring it up to date: first as a draft, published last.

        files: by name. A draft's file that differs or is incomplete is replaced; a published release only gets the
        files that it lacks. body: at most 125,000 characters. latest: whether GitHub shows it as the latest release.
        Raises ValueError when GitHub would rename a file.
        """
        for each in files:
            if not _UNCHANGED_NAME.fullmatch(each):
                expected = "expected a name of letters, digits and '._+-', not ending in a point"
                raise ValueError(f"{expected}; found {each!r}")

        def put() -> Release:
            release = self._draft_or_published(tag, name, body)
            self._attach(release, files)
            answer = self._rest.repos.update_release(
                *self._repository, release.id, headers=HEADERS, tag_name=tag, name=name, body=body, draft=False,
                make_latest="true" if latest else "false",
            )  # fmt: skip
            return read(answer, Release)

        return self._github.patiently(f"making the release of {tag}", "contents: write", put)

    def dispatch_workflow(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:
        """Start a workflow by the name of its file, on a branch or tag.

        After a fault it may be started twice: what it does must be harmless to do again.
        """
        data = cast(Any, {"ref": ref, "inputs": dict(inputs)})
        start = self._rest.actions.create_workflow_dispatch
        self._github.patiently(
            f"starting the workflow {workflow} on {ref}", "actions: write",
            lambda: start(*self._repository, workflow, headers=HEADERS, data=data),
        )  # fmt: skip

    def _references(self, prefix: str) -> list[_Reference]:
        name = prefix.removeprefix("refs/").rstrip("/")
        answer = self._rest.git.list_matching_refs(*self._repository, name, headers=HEADERS)
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
            answer = self._rest.git.get_tag(*self._repository, sha, headers=HEADERS)
            self._annotations[sha] = read(answer, _Annotation)
        return self._annotations[sha]

    def _annotate(self, name: str, sha: str, message: str) -> str:
        """The hash of an annotation, which no ref names yet."""
        data = cast(Any, {"tag": name, "message": message, "object": sha, "type": "commit"})
        answer = self._rest.git.create_tag(*self._repository, headers=HEADERS, data=data)
        return read(answer, _Made).sha

    def _create(self, ref: str, sha: str) -> _Reference:
        """The ref, whether it was made now or, meanwhile, by somebody else."""
        from githubkit.exception import RequestFailed

        try:
            answer = self._rest.git.create_ref(*self._repository, headers=HEADERS, ref=ref, sha=sha)
            return read(answer, _Reference)
        except RequestFailed as error:
            # 422 has many reasons, and the API does not document how this one reads.
            found = self._find(ref) if error.response.status_code == 422 else None
            if found is None:
                raise
            return found

    def _releases_of(self, tag: str) -> list[Release]:
        """The published one first, then drafts, of which GitHub allows several, by their age."""
        # A draft is found in the list alone: it has no tag yet by which to ask for it.
        every = read_all(self._rest.repos.list_releases, *self._repository, kind=Release)
        found = [release for release in every if release.tag == tag]
        return sorted(found, key=lambda release: (release.draft, release.id))

    def _draft_or_published(self, tag: str, name: str, body: str) -> Release:
        """The release to work on. Other drafts of this tag, which an earlier attempt has left, are deleted."""
        found = self._releases_of(tag)
        if not found:
            # Without `target_commitish`: it would ask for the right to change workflows, and the tag is there.
            create = self._rest.repos.create_release
            made = create(*self._repository, headers=HEADERS, tag_name=tag, name=name, body=body, draft=True)
            # Another attempt may just have done the same: both keep the older one.
            found = self._releases_of(tag) or [read(made, Release)]
        kept, *others = found
        for other in others:
            with unless_gone():
                self._rest.repos.delete_release(*self._repository, other.id, headers=HEADERS)
        return kept

    def _attach(self, release: Release, files: Mapping[str, Attachment]) -> None:
        every = read_all(self._rest.repos.list_release_assets, *self._repository, release.id, kind=_Asset)
        there = {asset.name: asset for asset in every}
        for name, file in files.items():
            known = there.get(name)
            if known and known.is_whole and (known.holds(file.content) or not release.draft):
                continue
            if known:
                with unless_gone():
                    self._rest.repos.delete_release_asset(*self._repository, known.id, headers=HEADERS)
            self._upload(release, name, file)

    def _upload(self, release: Release, name: str, file: Attachment) -> None:
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


def _parsed(content: bytes) -> _Annotation:
    """A tag object as Git stores it: headers, an empty line, the message."""
    headers, _, message = content.decode("utf-8", errors="replace").partition("\n\n")
    named = dict(line.split(" ", 1) for line in headers.splitlines() if " " in line)
    return _Annotation(message, _Object(named.get("type", ""), named.get("object", "")))
