"""Releases and the files that are attached to them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from doubles.github.documents import taken
from doubles.github.routes import REPOSITORY, Answer, Refused, Request, World, invalid, not_found, serves, the_one
from doubles.github.state import Asset, Release, now

_RELEASES = f"{REPOSITORY}/releases"
_RELEASE = f"{_RELEASES}/{{release_id}}"
_ASSET = f"{_RELEASES}/assets/{{asset_id}}"
_PERMISSION = "contents=write; contents=write,workflows=write"

_LONGEST_BODY = 125_000


@serves("GET", _RELEASES)
def list_releases(world: World, request: Request) -> Answer:
    """The newest first. Drafts are shown to those who may write."""
    found = [release for release in reversed(world.state.releases) if _may_see(request, release)]
    return world.page(request, found, lambda release: _shown(world, release))


@serves("POST", _RELEASES, needs="write", permission=_PERMISSION)
def create_release(world: World, request: Request) -> Answer:
    """Of drafts there may be any number for one tag."""
    body, moment = request.body, now()
    _require_served_body(body)
    release = Release(
        world.state.new_id(), body["tag_name"], body.get("target_commitish") or world.documents.default_branch,
        body.get("name"), body.get("body"), True, body.get("prerelease", False), request.account.login, moment, moment,
    )  # fmt: skip
    if not body.get("draft", False):
        _publish(world, release, body.get("make_latest", "true"))
    world.state.releases.append(release)
    return world.created(f"releases/{release.id}", _shown(world, release))


@serves("GET", f"{_RELEASES}/latest")
def get_latest_release(world: World, request: Request) -> Answer:
    found = the_one(each for each in world.state.releases if each.id == world.state.latest_release)
    return Answer(200, _shown(world, found))


@serves("GET", f"{_RELEASES}/tags/{{tag}}")
def get_release_by_tag(world: World, request: Request) -> Answer:
    """A draft has no tag by which it could be found."""
    return Answer(200, _shown(world, the_one([_published(world, request.values["tag"])])))


@serves("GET", _RELEASE)
def get_release(world: World, request: Request) -> Answer:
    return Answer(200, _shown(world, _release(world, request)))


@serves("PATCH", _RELEASE, needs="write", permission=_PERMISSION)
def update_release(world: World, request: Request) -> Answer:
    release, body = _release(world, request), request.body or {}
    _require_served_body(body)
    if body.get("draft", release.draft) and not release.draft:
        raise NotImplementedError("the double does not make a draft of a published release")
    if body.get("tag_name", release.tag_name) != release.tag_name and not release.draft:
        raise NotImplementedError("the double does not move a published release to another tag")
    for name in ("tag_name", "name", "body", "prerelease"):
        setattr(release, name, body.get(name, getattr(release, name)))
    if not body.get("draft", release.draft):
        _publish(world, release, body.get("make_latest", "true" if release.draft else "false"))
    release.updated_at = now()
    return Answer(200, _shown(world, release))


@serves("DELETE", _RELEASE, needs="write", permission="contents=write")
def delete_release(world: World, request: Request) -> Answer:
    release = _release(world, request)
    world.state.releases.remove(release)
    if world.state.latest_release == release.id:
        newest = [each for each in world.state.releases if not each.draft and not each.prerelease]
        world.state.latest_release = newest[-1].id if newest else None
    return Answer(204)


@serves("GET", f"{_RELEASE}/assets")
def list_assets(world: World, request: Request) -> Answer:
    release = _release(world, request)
    return world.page(request, release.assets, lambda asset: _asset_shown(world, release, asset))


@serves("POST", f"{_RELEASE}/assets", needs="write", permission="contents=write")
def upload_asset(world: World, request: Request) -> Answer:
    release = _release(world, request)
    name = re.sub(r"[^\w.+-]+", ".", request.query["name"], flags=re.ASCII).strip(".")
    if not request.content_type or request.body is None:
        raise Refused(400, "Bad Content-Length or Content-Type")
    if any(asset.name == name for asset in release.assets):
        error = {"resource": "ReleaseAsset", "code": "already_exists", "field": "name"}
        raise Refused(422, "Validation Failed", [error])
    asset = Asset(
        world.state.new_id(), name, request.query.get("label"), request.content_type, request.body, "uploaded",
        request.account.login, now(),
    )  # fmt: skip
    release.assets.append(asset)
    return Answer(201, _asset_shown(world, release, asset))


@serves("GET", _ASSET)
def get_asset(world: World, request: Request) -> Answer:
    release, asset = _asset(world, request)
    if request.accept == "application/octet-stream":
        if asset.state != "uploaded":
            raise not_found()
        return Answer(200, headers={"Content-Type": asset.content_type}, file=asset.content)
    return Answer(200, _asset_shown(world, release, asset))


@serves("DELETE", _ASSET, needs="write", permission="contents=write")
def delete_asset(world: World, request: Request) -> Answer:
    release, asset = _asset(world, request)
    release.assets.remove(asset)
    return Answer(204)


def leave_half_uploaded(world: World, identity: int) -> None:
    """What an upload leaves that failed behind GitHub's door."""
    asset = next(asset for release in world.state.releases for asset in release.assets if asset.id == identity)
    asset.state, asset.content = "starter", b""


def _may_see(request: Request, release: Release) -> bool:
    return not release.draft or request.account.access != "read"


def _release(world: World, request: Request) -> Release:
    identity = request.number("release_id")
    return the_one(each for each in world.state.releases if each.id == identity and _may_see(request, each))


def _published(world: World, tag: str) -> Release | None:
    return next((each for each in world.state.releases if each.tag_name == tag and not each.draft), None)


def _asset(world: World, request: Request) -> tuple[Release, Asset]:
    identity = request.number("asset_id")
    return the_one(
        (release, asset)
        for release in world.state.releases
        for asset in release.assets
        if asset.id == identity and _may_see(request, release)
    )


def _publish(world: World, release: Release, make_latest: str) -> None:
    """Raises Refused."""
    known = _published(world, release.tag_name)
    if known is not None and known is not release:
        raise invalid("Release", "tag_name", "", "already_exists")
    tag = f"refs/tags/{release.tag_name}"
    if world.git.reference(tag) is None:
        target = world.git.resolve(release.target_commitish)
        if not target:
            raise invalid("Release", "target_commitish", "", "invalid")
        world.git.move_reference(tag, target, "0" * 40)
    if release.draft:
        release.draft, release.published_at = False, now()
    if make_latest == "legacy":
        raise NotImplementedError("the double does not compare versions to find the latest release")
    if make_latest == "true" and not release.prerelease:
        world.state.latest_release = release.id


def _require_served_body(body: dict[str, Any]) -> None:
    if len(body.get("body") or "") > _LONGEST_BODY:
        raise invalid("Release", "body", f"body is too long (maximum is {_LONGEST_BODY} characters)")
    left = set(body) & {"discussion_category_name", "generate_release_notes"}
    if left:
        raise NotImplementedError(f"the double does not serve {', '.join(sorted(left))} of releases")


def _shown(world: World, release: Release) -> dict[str, Any]:
    api, html = f"{world.documents.api}/releases/{release.id}", world.documents.html
    place = f"untagged-{release.id:020x}" if release.draft else release.tag_name
    uploads = f"{world.documents.url}/api/uploads/repos/{world.documents.name}/releases/{release.id}/assets"
    return {
        "url": api,
        "assets_url": f"{api}/assets",
        "upload_url": f"{uploads}{{?name,label}}",
        "html_url": f"{html}/releases/tag/{place}",
        "node_id": f"RE_{release.id}",
        "author": world.documents.user(release.author),
        **taken(release, "id", "tag_name", "target_commitish", "name", "body", "draft", "prerelease"),
        **taken(release, "created_at", "updated_at", "published_at"),
        "immutable": False,
        "tarball_url": None if release.draft else f"{world.documents.api}/tarball/{release.tag_name}",
        "zipball_url": None if release.draft else f"{world.documents.api}/zipball/{release.tag_name}",
        "assets": [_asset_shown(world, release, asset) for asset in release.assets],
    }


def _asset_shown(world: World, release: Release, asset: Asset) -> dict[str, Any]:
    whole = asset.state == "uploaded"
    return {
        "url": f"{world.documents.api}/releases/assets/{asset.id}",
        "node_id": f"RA_{asset.id}",
        **taken(asset, "id", "name", "label", "content_type", "state", "created_at"),
        "uploader": world.documents.user(asset.uploader),
        "size": len(asset.content),
        "digest": f"sha256:{hashlib.sha256(asset.content).hexdigest()}" if whole else None,
        "download_count": 0,
        "updated_at": asset.created_at,
        "browser_download_url": f"{world.documents.html}/releases/download/{release.tag_name}/{asset.name}",
    }
