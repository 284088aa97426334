"""Why a stage stopped, as the exit code that Airflow, CI and a shell act on (BSD sysexits)."""

from __future__ import annotations


class StageError(Exception):
    """A stage cannot go on; the message says what to do. Subclasses carry the exit code."""

    exit_code: int


class ConfigurationError(StageError):
    """Wrong use or configuration: EX_USAGE; running it again changes nothing."""

    exit_code = 64


class DataRejected(StageError):
    """The data failed the quality gate: EX_DATAERR; never retried."""

    exit_code = 65


class PassingFault(StageError):
    """The network, a service or the disk failed: EX_TEMPFAIL; retried with backoff."""

    exit_code = 75
