"""Why a command stops, as the exit code on which Airflow, a workflow or a shell acts (64 and above: BSD's sysexits).

A message names the failure, what was expected, what was found, and the next step.
"""

from __future__ import annotations

from clients.redaction import redacted


class RpsError(Exception):
    """A command cannot go on. Subclasses set the exit code. The message never contains secrets."""

    exit_code: int = 1

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigurationError(RpsError):
    """Wrong use, a missing setting, a refused credential: EX_USAGE; running it again changes nothing."""

    exit_code = 64


class DataRejected(RpsError):
    """The data failed the quality gate: EX_DATAERR; never retried."""

    exit_code = 65


class PassingFault(RpsError):
    """The network, a service, the container engine or the disk failed: EX_TEMPFAIL; run it again."""

    exit_code = 75


class GitHubFault(PassingFault):
    """GitHub does not answer, refuses, or limits our rate for longer than we can wait."""


class NoVerdict(RpsError):
    """The evidence is missing or cannot be trusted; nothing may be merged on it."""

    exit_code = 2


class Cancelled(RpsError):
    """The job was cancelled, or what it judges is gone (the pull request closed, or pushed to)."""

    exit_code = 2


class NotReleased(RpsError):
    """The release stops for a reason that running it again does not change; production stays as it was."""


def one_line(text: str, longest: int) -> str:
    """The text without line breaks and other control characters, cut to a length."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text[: 2 * longest]).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
