"""A stand-in for the `cml` command, which no package registry has: `cml comment create` on GitHub, and nothing else.

It follows CML 0.20 as published in its repository: the options of `bin/cml.js` and `bin/cml/comment/create.js` (commits
24ca0df and 3f9abbf; yargs in strict mode), `commentCreate` of `src/cml.js` (1c49104), `src/watermark.js` (4b8b60b) and
`src/drivers/github.js` (e13136f). It departs from them in three things: it takes http where the address says so, as the
double speaks no TLS; and where CML would upload a picture or send its telemetry, it fails, as nothing may leave a test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx

_STRINGS = {
    **dict.fromkeys(("log", "driver", "repo", "target", "trigger-file", "publish-url", "watermark-title")),
    "driver-token": "token",
    "commit-sha": "head-sha",
}
_BOOLEANS = {**dict.fromkeys(("pr", "watch", "publish", "update", "rm-watermark")), "publish-native": "native"}
_CONFLICTS = (("pr", "target"), ("pr", "commit-sha"), ("commit-sha", "target"), ("watermark-title", "rm-watermark"))
_CHOICES = {"log": ("error", "warn", "info", "debug"), "driver": ("github", "gitlab", "bitbucket")}


class Failed(Exception):
    """CML ends with exit code 1."""


def main(arguments: list[str]) -> int:
    try:
        if arguments[:2] != ["comment", "create"]:
            raise Failed(f"the stand-in knows `comment create` only, not {arguments[:2]}")
        options, report = parse(arguments[2:])
        trust_directories()
        print(comment_create(options, Path(report).read_text(encoding="utf-8")))
    except (Failed, OSError, httpx.HTTPError) as error:
        print(json.dumps({"level": "error", "message": str(error)}), file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> tuple[dict[str, object], str]:
    """The options and the Markdown file. Raises Failed on what yargs refuses."""
    options: dict[str, object] = {"publish": True, "watermark-title": ""}
    given, positional, waiting = set(), [], list(arguments)
    names = {alias: name for name, alias in (*_STRINGS.items(), *_BOOLEANS.items()) if alias}
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        name = names.get(name, name)
        if name in _BOOLEANS:
            options[name] = value != "false"
        elif name in _STRINGS:
            options[name] = value if equals else waiting.pop(0)
            if options[name] not in _CHOICES.get(name, (options[name],)):
                raise Failed(f"Invalid values: Argument: {name}, Given: {value}")
        else:
            raise Failed(f"Unknown argument: {name}")
        given.add(name)
    for one, other in _CONFLICTS:
        if {one, other} <= given:
            raise Failed(f"Arguments {one} and {other} are mutually exclusive")
    if len(positional) != 1:
        raise Failed("Not enough non-option arguments" if not positional else f"Unknown argument: {positional[1]}")
    return options, positional[0]


def trust_directories() -> None:
    """CML puts the current directory and those above into Git's global configuration."""
    for directory in ("*", *map(str, (Path.cwd(), *Path.cwd().parents))):
        subprocess.run(["git", "config", "--global", "--add", "safe.directory", directory], check=True)


def comment_create(options: dict[str, object], report: str) -> str:
    repository = str(options.get("repo") or "").rstrip("/").removesuffix(".git")
    token = options.get("driver-token") or next(
        (os.environ[name] for name in ("REPO_TOKEN", "repo_token", "GITHUB_TOKEN") if os.environ.get(name)), None
    )
    if not repository or not token:
        raise Failed(f"{'token' if repository else 'repo'} not found")
    if options.get("driver", "github") != "github":
        raise Failed("the stand-in knows GitHub only")
    if options["publish"]:
        raise Failed("CML would upload the report's pictures to another host")
    if not os.environ.get("ITERATIVE_DO_NOT_TRACK"):
        raise Failed("CML would send its telemetry")
    watermark = Watermark(str(options["watermark-title"]), _sha())
    body = report if options.get("rm-watermark") else f"{report}\n\n{watermark.text}"
    kind, _, number = str(options.get("target", "auto")).partition("/")
    if kind != "pr" or not number:
        raise Failed("the stand-in knows --target=pr/<number> only")
    headers = {"Authorization": f"token {token}"}
    with httpx.Client(base_url=_api(repository), headers=headers, timeout=30, verify=False) as client:
        comments = f"issues/{number}/comments"
        if options.get("update"):
            # One page, as CML asks for no more; the last one that fits.
            for comment in reversed(_asked(client, "GET", comments)):
                if watermark.is_in(comment["body"]):
                    return _asked(client, "PATCH", f"issues/comments/{comment['id']}", body)["html_url"]
        return _asked(client, "POST", comments, body)["html_url"]


class Watermark:
    """The picture at the end of a comment by which CML knows it again."""

    def __init__(self, label: str, sha: str) -> None:
        image = "https://cml.dev/watermark.png"
        title = re.sub(r"([_*\[<])", r"\\\1", f"CML watermark {label}".strip())
        self.text = f'![]({image}#{sha} "{title}")'
        self._pattern = rf'!\[\]\({re.escape(image)}#[0-9a-fA-F]+ "{re.escape(title)}"\)'

    def is_in(self, text: str) -> bool:
        return re.search(self._pattern, text) is not None


def _sha() -> str:
    if os.environ.get("GITHUB_EVENT_NAME") == "pull_request":
        event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
        return event["pull_request"]["head"]["sha"]
    if os.environ.get("GITHUB_SHA"):
        return os.environ["GITHUB_SHA"]
    return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def _api(repository: str) -> str:
    parts = urlsplit(repository)
    base = "https://api.github.com" if parts.hostname == "github.com" else f"{parts.scheme}://{parts.netloc}/api/v3"
    return f"{base}/repos{parts.path}/"


def _asked(client: httpx.Client, method: str, path: str, body: str | None = None) -> object:
    answer = client.request(method, path, json=None if body is None else {"body": body})
    if answer.is_error:
        raise Failed(f"HttpError: {answer.status_code} {answer.text}")
    return answer.json()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
