"""Which challenges the checkout has, as its files are now."""

from __future__ import annotations

from pathlib import Path

from ci.progress import Log
from forecasting.challenge import ChallengeError, load_challenge


class Challenges:
    """The good files of a folder, read again when one of them has changed; a wrong one is told and left out."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._folder = folder
        self._log = log
        self._seen: tuple[tuple[Path, int], ...] | None = None
        self._known: frozenset[str] = frozenset()

    def known(self) -> frozenset[str]:
        """Their names."""
        try:
            seen = tuple(sorted((path, path.stat().st_mtime_ns) for path in self._folder.glob("*.toml")))
        except OSError:  # a checkout that changes this very moment: what was known counts until it is there
            return self._known
        if seen != self._seen:
            self._seen = seen
            self._known = frozenset(name for path, _ in seen if (name := self._name(path)))
            self._log.line(f"challenges in {self._folder}: {', '.join(sorted(self._known)) or 'none'}")
        return self._known

    def _name(self, path: Path) -> str:
        try:
            return load_challenge(path).name
        except ChallengeError as error:
            self._log.error(f"{error}; until it is mended, no alert for it starts a retraining")
            return ""
