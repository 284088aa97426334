"""Why a command of `ci` ends without doing what it was asked, as the exit code that a workflow or a shell acts on."""

from __future__ import annotations


class CiError(Exception):
    """A command cannot go on; the message names what, what was expected, what was found, and the next step."""

    exit_code: int


class ConfigurationError(CiError):
    """Wrong use, a missing setting, a refused credential: EX_USAGE; running it again changes nothing."""

    exit_code = 64


class NoVerdict(CiError):
    """There is no evidence on which to judge, or it cannot be trusted; nothing may be merged on it."""

    exit_code = 2


class Cancelled(CiError):
    """The job was cancelled, or what it judges is gone (the pull request closed, or pushed to)."""

    exit_code = 2


class GitHubFault(CiError):
    """GitHub does not answer, refuses, or limits our rate for longer than we can wait: EX_TEMPFAIL."""

    exit_code = 75


class NotReleased(CiError):
    """The release stops for a reason that running it again does not change; production stays as it was."""

    exit_code = 1


class PassingFault(CiError):
    """A container engine, registry or network that does not answer now: EX_TEMPFAIL, run it again."""

    exit_code = 75
