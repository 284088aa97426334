"""Hides secrets in addresses, errors and other programs' output before anybody sees them. Standard library only."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

HIDDEN = "hidden"
SECRET_SETTINGS = (
    "AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "OPENWEATHERMAP_API_KEY", "REGISTRY_PASSWORD",
    "RPS_ALERTS_SECRET", "RPS_API_KEY", "RPS_SLACK_URL",
)  # fmt: skip
"""The variables whose values are secrets."""
SHORTEST_SECRET = 6
"""A shorter value is as likely an ordinary word, which would then be hidden everywhere."""
_read: set[str] = set()
"""Secrets from files."""
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/?#'\"<>]*)@")
_QUERY = re.compile(
    r"(?P<name>[?&](?:appid|api-?key|key|token|access_token|password|signature|sig|x-amz-[a-z-]+)=)[^&\s'\"<>]+", re.I
)
_HEADER = re.compile(r"(?P<name>authorization['\"]?[:=]\s*['\"]?(?:basic|bearer|token)\s+)[^\s'\"]+", re.I)


def redacted(text: str) -> str:
    """The text without credentials in addresses, keys in queries, authorization headers, and this process's secrets."""
    text = _CREDENTIALS.sub(_without_credentials, text)
    text = _QUERY.sub(rf"\g<name>{HIDDEN}", text)
    text = _HEADER.sub(rf"\g<name>{HIDDEN}", text)
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def keep_secret(value: str) -> None:
    """Hide this value, which a file named by a setting holds, from now on."""
    _read.add(value)


def _without_credentials(found: re.Match[str]) -> str:
    """`ssh://git@host` names no secret, and means nothing without its user."""
    user = found["user"]
    return found[0] if found["scheme"].endswith("ssh") and ":" not in user else f"{found['scheme']}://"


def _secrets() -> list[str]:
    """The longest first, so that a secret that holds another is hidden whole."""
    values = [*_read, *(os.environ.get(name, "") for name in SECRET_SETTINGS)]
    long = {form for value in values if len(value) >= SHORTEST_SECRET for form in (value, quote(value, safe=""))}
    return sorted(long, key=len, reverse=True)
