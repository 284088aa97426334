"""Where a run's files lie below the current directory, and how they appear there: whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pipelines.errors import ConfigurationError, PassingFault

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass(frozen=True)
class Files:
    """The files of one challenge's run, relative to the workspace."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def collection(self) -> Path:
        return self.root / "collection.json"

    @property
    def history(self) -> Path:
        """Everything known of the series, the window's observations among it, and the raw answers that it came from."""
        return self.root / "history.parquet"

    @property
    def observations(self) -> Path:
        return self.root / "observations.parquet"

    @property
    def quality(self) -> Path:
        return self.root / "quality.json"

    @property
    def quality_report(self) -> Path:
        return self.root / "quality.md"

    @property
    def features(self) -> Path:
        return self.root / "features.parquet"

    @property
    def profile(self) -> Path:
        return self.root / "profile.html"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset.json"

    @property
    def tracking(self) -> Path:
        return self.root / "mlflow.json"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def models(self) -> Path:
        """The training library's own format, for people who use MLflow's tools."""
        return self.root / "sklearn"

    @property
    def production(self) -> Path:
        """The released model's bundle, fetched for comparison."""
        return self.root / "production"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def losses(self) -> Path:
        """Every prediction of every compared model on the hold-out, one row each."""
        return self.root / "losses.parquet"

    @property
    def registered(self) -> Path:
        return self.root / "registered.json"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path beside ``path`` that replaces it when the block ends well, and vanishes when it does not."""
    with _scratch(path) as scratch:
        yield scratch
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(path)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """As ``whole_file``, for a directory; a reader sees the old one, none, or the new one, never a part."""
    with _scratch(path) as scratch:
        scratch.mkdir()
        yield scratch
        if path.exists():
            path.rename(scratch.with_name(f"{scratch.name}.old"))
        scratch.rename(path)


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file ``path``, and hold it; a killed holder lets go by itself.

    Says so when it has to wait, since that may take as long as the other process does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise PassingFault(f"{path} could not be written: {error}. Free or mend the disk, then run again.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path} is held by another process; waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    def clear() -> None:
        for leftover in path.parent.glob(f".{path.name}.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear()
        yield path.with_name(f".{path.name}.{os.getpid()}")
    except OSError as error:
        raise PassingFault(f"{path} could not be written: {error}. Free or mend the disk, then run again.") from error
    finally:
        clear()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a msgspec-encodable value as indented JSON."""
    with whole_file(path) as scratch:
        plain = msgspec.to_builtins(value, str_keys=True)  # keys that are numbers cannot be put in order
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=2) + b"\n")


def read_json(path: Path, kind: type[T], *, made_by: str) -> T:
    """Read what an earlier stage wrote; ConfigurationError names that stage when it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: run the stage {made_by!r} first.") from None
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage {made_by!r} again.") from error


def read_table(path: Path, *, made_by: str) -> pd.DataFrame:
    """As ``read_json``, for a Parquet file."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: run the stage {made_by!r} first.") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage {made_by!r} again.") from error
