"""The gate's report as one comment on the pull request, through CML where it is installed, or GitHub's API.

Both ways find the comment by CML's watermark at its end, so that each brings the other's up to date. Whatever CML did,
the API has the last look: it mends what CML left out, and removes a second comment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ci.markdown import BODY_LIMIT
from clients.github import GitHub
from clients.settings import GitHubSettings

_CML_SEES = 30
"""CML looks for its comment among the first ones only: one page of GitHub's answer."""
_PASSED_ON = (
    *("PATH", "LANG", "TMPDIR", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What CML gets to see of the environment, which holds other services' secrets."""


def post_report(
    report: str, *, github: GitHub, pull_request: int, sha: str, challenge: str, cml_seconds: float = 120.0
) -> str:
    """Post the report, in place of the one before it; the comment's URL.

    report: Markdown, at most ``report_length(challenge)`` characters; cml_seconds: how long CML may take.
    Raises ValueError when the report is longer, GitHubFault or ConfigurationError when it cannot be posted.
    """
    if len(report) > report_length(challenge):
        raise ValueError(f"report: expected at most {report_length(challenge)} characters; found {len(report)}")
    cml = shutil.which("cml")
    if cml:
        arguments = (f"--target=pr/{pull_request}", f"--watermark-title=model-gate/{challenge}")
        why_not = _why_not_cml(github, pull_request, challenge) or _run_cml(
            (cml, "comment", "create", *arguments), report, github.settings, sha=sha, seconds=cml_seconds
        )
        if why_not:
            github.note(f"warning: {why_not}; posting the report through GitHub's API")
    body = f"{report}\n\n{watermark(challenge, sha)}"
    return github.upsert_comment(pull_request, body, lambda text: is_report(text, challenge))


def report_length(challenge: str) -> int:
    """How many characters of a comment are left for the report."""
    return BODY_LIMIT - len(f"\n\n{watermark(challenge, 40 * '0')}")


def watermark(challenge: str, sha: str) -> str:
    """The line by which CML 0.20 knows its comments, as its `src/watermark.js` writes it for `--watermark-title`."""
    title = re.sub(r"[_*\[<]", r"\\\g<0>", f"CML watermark model-gate/{challenge}")
    return f'![](https://cml.dev/watermark.png#{sha} "{title}")'


def is_report(text: str, challenge: str) -> bool:
    """Whether a comment's last line is the watermark. One that merely quotes a report is somebody's own."""
    last = text.rstrip().rpartition("\n")[2]
    return re.fullmatch(_watermark_pattern(challenge), last) is not None


def _watermark_pattern(challenge: str) -> str:
    return re.escape(watermark(challenge, "SHA")).replace("SHA", "[0-9a-fA-F]+")


def _why_not_cml(github: GitHub, pull_request: int, challenge: str) -> str:
    """Why CML would not do the right thing here; empty when it would."""
    if not _is_where_cml_posts(github.settings):
        return f"CML does not know the API at {github.settings.api_url}"
    comments = github.comments(pull_request)
    ours = [comment for comment in comments if comment.own and is_report(comment.body, challenge)]
    pattern = re.compile(_watermark_pattern(challenge))
    found = next((comment for comment in reversed(comments[:_CML_SEES]) if pattern.search(comment.body)), None)
    if ours and found is None:
        return f"CML looks at the first {_CML_SEES} comments only, and would make a second one"
    if found is not None and found not in ours:
        return f"CML would overwrite a comment that is not ours: {found.url}"
    return ""


def _is_where_cml_posts(settings: GitHubSettings) -> bool:
    """CML derives the API's address from the repository's: it must not take the token to another place than ours."""
    server, api = urlsplit(settings.server_url), urlsplit(settings.api_url)
    if server.hostname == "github.com":
        return api.netloc == "api.github.com"
    return (api.netloc, api.path) == (server.netloc, "/api/v3")


def _run_cml(command: Sequence[str], report: str, settings: GitHubSettings, *, sha: str, seconds: float) -> str:
    """Let CML post the report; why it could not, or empty."""
    repository = f"--repo={settings.server_url}/{settings.repository}"
    with tempfile.TemporaryDirectory(prefix="rps-report-") as scratch:
        Path(scratch, "report.md").write_text(report, encoding="utf-8")
        whole = [*command, "--driver=github", repository, "--update", "--publish=false", "report.md"]
        environment = {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            # CML writes into Git's global configuration, and a file for its telemetry: into a home that is thrown away.
            "HOME": scratch,
            "ITERATIVE_DO_NOT_TRACK": "1",
            "REPO_TOKEN": settings.token,
            "GITHUB_REPOSITORY": settings.repository,
            # The commit in its watermark; without the event's name, CML does not look for another in the event.
            "GITHUB_SHA": sha,
        }
        try:
            done = subprocess.run(
                whole, cwd=scratch, env=environment, capture_output=True, text=True, errors="replace",
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"cml did not end within {seconds:g} s"
        except OSError as error:
            return f"cml does not start ({error})"
    if done.returncode == 0:
        return ""
    said = " ".join((done.stderr or done.stdout).split())[-300:].replace(settings.token, "***")
    return f"cml failed with exit code {done.returncode} ({said})"
