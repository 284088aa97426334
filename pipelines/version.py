"""Record the dataset of a run: its bytes with DVC in object storage, its hash as a commit on `data/<challenge>`.

The bytes are stored before the commit names them, so every commit of that branch can be fetched with `dvc get`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.git import RecordBranch, data_repository, open_branch
from clients.store import Store, open_store
from pipelines.files import read_json, write_json
from pipelines.run import Run
from pipelines.tracked_run import open_tracking
from records.mlflow_names import RunTag
from records.quality import QualityReport
from records.stages import RunFiles, data_branch

_DATA = "dataset"
_RECORD = "dataset.json"
_RUN_LINE = "RPS-Run: "


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `dataset.json` on the branch holds: which run recorded what."""

    challenge: str
    run_id: str
    git_sha: str
    as_of: datetime
    reason: str
    md5: str
    """The hash that DVC gives the directory `dataset/` (ends in `.dir`)."""
    rows: int
    """Rows of the observations."""
    bytes: int


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """What `data/<challenge>/dataset.json` holds: where the dataset of this run can be fetched from."""

    md5: str
    rev: str
    """The commit on ``branch``."""
    branch: str
    rows: int
    bytes: int
    run_id: str


class _Stored(NamedTuple):
    md5: str
    bytes: int


def run(run: Run) -> None:
    """Store, record and tag the dataset; the same run on the same data again changes nothing.

    Raises ConfigurationError (refused), or PassingFault (unreachable, lost half-way).
    """
    contents = _contents(run)
    store = open_store()
    remote = data_repository()
    branch_name = data_branch(run.challenge.name)
    with _scratch_directory(run.files) as scratch:
        branch = open_branch(remote, branch_name, scratch)
        # A wrong key or address is told here, before any work.
        branch.fetch()
        store.get("dvc/writable")
        stored = _store(scratch, contents, store)
        print(f"stored {stored.bytes:,} bytes as {stored.md5} in s3://{store.bucket}/{store.prefix}dvc", flush=True)
        record = _record(run, stored)
        files = _write_metadata(scratch, run, record, remote.url)
        rev = branch.append(files, _message(record), done_already=lambda tip: _recorded(branch, tip, record))
    print(f"recorded as {rev} on {branch_name} of {remote.url}", flush=True)
    write_json(run.files.dataset, _dataset(record, rev, branch_name))
    open_tracking(run).set_tags({RunTag.DATASET_MD5: record.md5, RunTag.DATASET_REV: rev})


def _contents(run: Run) -> list[Path]:
    """The files of the dataset; only data that passed the gate is recorded."""
    files = run.files
    made_by = {files.observations: "ingest", files.features: "transform", files.quality: "validate"}
    for path, stage in made_by.items():
        if not path.exists():
            raise ConfigurationError(f"{path} is missing: run the stage {stage!r} first.")
    report = read_json(files.quality, QualityReport, made_by="validate")
    if report.as_of != run.identity.as_of:
        raise ConfigurationError(f"{files.quality} is of another run: run the stage 'validate' first.")
    if not report.passed:
        raise DataRejected(f"the observations failed the quality gate ({files.quality_report}): nothing is recorded.")
    return list(made_by)


@contextmanager
def _scratch_directory(files: RunFiles) -> Iterator[Path]:
    """An empty directory in the workspace that is gone afterwards; a killed attempt's is cleared away first."""
    scratch = files.dataset.with_name(".dvc-scratch").resolve()
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        message = f"{scratch} could not be written: {error}. Free or repair the disk, then run again."
        raise PassingFault(message) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _store(scratch: Path, contents: list[Path], store: Store) -> _Stored:
    """Put the files under DVC as the directory `dataset`, and push them. Leaves `dataset.dvc` and `.dvc/config`."""
    data = scratch / _DATA
    data.mkdir()
    for path in contents:
        shutil.copyfile(path, data / path.name)
    (scratch / ".dvc").mkdir()
    (scratch / ".dvc" / "config").write_text(_dvc_config(store), encoding="utf-8")
    from botocore.exceptions import BotoCoreError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # DVC's own look at Git would cost a second; the files are committed by `RecordBranch`.
    limits = {"connect_timeout": 5, "read_timeout": 30}
    settings = {"core": {"no_scm": True}, "remote": {"store": limits}}
    with _dvc_by_itself(scratch), Repo(str(scratch), config=settings) as repo:
        try:
            (stage,) = repo.add(str(data))
        except DvcException as error:
            raise PassingFault(f"DVC could not add the dataset: {error}. Run again.") from error
        try:
            repo.push(remote="store", jobs=4)
        except (DvcException, BotoCoreError, OSError) as error:
            # DVC tells little of why; the store tells it as what it is, if it lasts.
            store.put("dvc/writable", b"")
            raise PassingFault(f"DVC lost the connection to {store.client.meta.endpoint_url}: {error}.") from error
        (out,) = stage.outs
        return _Stored(out.hash_info.value, out.meta.size)


def _dvc_config(store: Store) -> str:
    lines = ["[core]", "    remote = store", "    analytics = false", "['remote \"store\"']"]
    lines += [f"    url = s3://{store.bucket}/{store.prefix}dvc", f"    region = {store.client.meta.region_name}"]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        lines.append(f"    endpointurl = {endpoint}")
    return "\n".join(lines) + "\n"


@contextmanager
def _dvc_by_itself(scratch: Path) -> Iterator[None]:
    """Neither the machine's DVC settings nor its shared caches count, and nothing is reported to anybody."""
    nowhere = str(scratch / ".dvc" / "tmp" / "none")
    ours = {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(scratch / ".dvc" / "tmp" / "site"),
        "DVC_GLOBAL_CONFIG_DIR": nowhere,
        "DVC_SYSTEM_CONFIG_DIR": nowhere,
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _record(run: Run, stored: _Stored) -> DatasetRecord:
    import pyarrow.parquet

    return DatasetRecord(
        challenge=run.challenge.name,
        run_id=run.identity.run_id,
        git_sha=run.identity.git_sha,
        as_of=run.identity.as_of,
        reason=run.identity.reason,
        md5=stored.md5,
        rows=pyarrow.parquet.read_metadata(run.files.observations).num_rows,
        bytes=stored.bytes,
    )


def _write_metadata(scratch: Path, run: Run, record: DatasetRecord, repository: str) -> list[str]:
    """The files of the commit, in ``scratch``; returns their names."""
    write_json(scratch / _RECORD, record)
    shutil.copyfile(run.files.quality, scratch / run.files.quality.name)
    (scratch / ".gitignore").write_text(f"/{_DATA}\n", encoding="utf-8")
    (scratch / "README.md").write_text(_readme(run, repository), encoding="utf-8")
    return [".dvc/config", ".gitignore", "README.md", f"{_DATA}.dvc", _RECORD, run.files.quality.name]


def _readme(run: Run, repository: str) -> str:
    return f"""# Datasets of the challenge `{run.challenge.name}`

One commit per pipeline run, added by the stage `version`; nothing here is merged into a code branch.
`dataset.json` says which run recorded what, `quality.json` what was checked. To fetch a dataset (with
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` of the store in the environment), name its commit:

    dvc get {repository} {_DATA} --rev <commit>
"""


def _message(record: DatasetRecord) -> str:
    subject = f"Record {record.rows:,} rows of {record.challenge} as of {record.as_of:%Y-%m-%d %H:%M} UTC"
    return f"{subject}\n\nDataset: {record.md5}\nGit-SHA: {record.git_sha}\n{_RUN_LINE}{record.run_id}"


def _recorded(branch: RecordBranch, tip: str, record: DatasetRecord) -> str | None:
    """The commit that says of this run what we would say, if there is one."""
    for commit in branch.commits_saying(f"{_RUN_LINE}{record.run_id}", tip):
        said = branch.read(commit, _RECORD)
        try:
            there = msgspec.json.decode(said or b"", type=DatasetRecord)
        except msgspec.DecodeError:
            continue
        if (there.run_id, there.md5) == (record.run_id, record.md5):
            return commit
    return None


def _dataset(record: DatasetRecord, rev: str, branch: str) -> Dataset:
    return Dataset(md5=record.md5, rev=rev, branch=branch, rows=record.rows, bytes=record.bytes, run_id=record.run_id)
