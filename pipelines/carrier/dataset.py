"""Record the dataset of a run: its bytes with DVC in object storage, its hash as a commit on `data/<challenge>`.

The bytes are stored before the commit names them, so `dvc get` can fetch every commit of that branch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from clients.disk import scratch_path
from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.git import RecordBranch, data_repository, open_branch
from clients.store import Store, open_store
from pipelines.carrier.tracked_run import open_tracking
from pipelines.files import read_json, require_files, write_json
from pipelines.run import Dataset, Run
from records.mlflow_names import RunTag
from records.quality import QualityReport
from records.stages import data_branch

_DATA = "dataset"
_RECORD = "dataset.json"
_RUN_LINE = "RPS-Run: "


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`dataset.json` on the branch: which run recorded what."""

    challenge: str
    run_id: str
    git_sha: str
    as_of: datetime
    reason: str
    md5: str
    """DVC's hash of the directory `dataset/` (ends in `.dir`)."""
    rows: int
    """Rows of the observations."""
    bytes: int


def record_dataset(run: Run) -> None:
    """Store, record and tag the dataset; a repetition on the same data changes nothing."""
    contents, identity, branch_name = _contents(run), run.identity, data_branch(run.challenge.name)
    store, remote = open_store(), data_repository()
    rows = pq.read_metadata(run.files.observations).num_rows
    with scratch_path(run.files.dataset.with_name("dvc-scratch").resolve()) as scratch:
        scratch.mkdir()
        branch = open_branch(remote, branch_name, scratch)
        # A wrong key or address shows here, before any work.
        branch.fetch()
        store.get("dvc/writable")
        md5, size = _store(scratch, contents, store)
        print(f"stored {size:,} bytes as {md5} in s3://{store.bucket}/{store.prefix}dvc", flush=True)
        record = DatasetRecord(
            challenge=run.challenge.name,
            run_id=identity.run_id,
            git_sha=identity.git_sha,
            as_of=identity.as_of,
            reason=identity.reason,
            md5=md5,
            rows=rows,
            bytes=size,
        )
        files = _write_metadata(scratch, run, record, remote.url)
        rev = branch.append(files, _message(record), done_already=lambda tip: _recorded(branch, tip, record))
    print(f"recorded as {rev} on {branch_name} of {remote.url}", flush=True)
    dataset = Dataset(md5=md5, rev=rev, branch=branch_name, rows=rows, bytes=size, run_id=identity.run_id)
    write_json(run.files.dataset, dataset)
    open_tracking(run).set_tags({RunTag.DATASET_MD5: md5, RunTag.DATASET_REV: rev})


def _contents(run: Run) -> list[Path]:
    """The files of the dataset; only data that passed the gate is recorded."""
    files = run.files
    made_by = {files.observations: "merge", files.features: "transform", files.quality: "validate"}
    require_files(made_by)
    report = read_json(files.quality, QualityReport, made_by="validate")
    if report.as_of != run.identity.as_of:
        raise ConfigurationError(f"{files.quality} is of another run: run the stage 'validate' first.")
    if not report.passed:
        raise DataRejected(f"the observations failed the quality gate ({files.quality_report}): nothing is recorded.")
    return list(made_by)


def _store(scratch: Path, contents: list[Path], store: Store) -> tuple[str, int]:
    """Push the files with DVC as the directory `dataset`; its hash and size. Leaves `dataset.dvc` and `.dvc/config`."""
    data = scratch / _DATA
    data.mkdir()
    for path in contents:
        shutil.copyfile(path, data / path.name)
    (scratch / ".dvc").mkdir()
    (scratch / ".dvc" / "config").write_text(_dvc_config(store), encoding="utf-8")
    from botocore.exceptions import BotoCoreError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # `RecordBranch` commits the files; DVC's own use of Git would cost a second.
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
            # DVC's error names no cause; the store's own does, if the fault lasts.
            store.put("dvc/writable", b"")
            raise PassingFault(f"DVC lost the connection to {store.client.meta.endpoint_url}: {error}.") from error
        (out,) = stage.outs
        return out.hash_info.value, out.meta.size


def _dvc_config(store: Store) -> str:
    lines = ["[core]", "    remote = store", "    analytics = false", "['remote \"store\"']"]
    lines += [f"    url = s3://{store.bucket}/{store.prefix}dvc", f"    region = {store.client.meta.region_name}"]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        lines.append(f"    endpointurl = {endpoint}")
    return "\n".join(lines) + "\n"


@contextmanager
def _dvc_by_itself(scratch: Path) -> Iterator[None]:
    """DVC without the machine's settings and shared caches, and without telemetry."""
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


def _write_metadata(scratch: Path, run: Run, record: DatasetRecord, repository: str) -> list[str]:
    """The files of the commit, in ``scratch``; returns their names."""
    readme = f"""# Datasets of the challenge `{run.challenge.name}`

One commit per pipeline run, added by `version`; nothing here is merged into a code branch.
`dataset.json` says which run recorded what, `quality.json` what was checked. To fetch a dataset (with
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` of the store in the environment), name its commit:

    dvc get {repository} {_DATA} --rev <commit>
"""
    write_json(scratch / _RECORD, record)
    shutil.copyfile(run.files.quality, scratch / run.files.quality.name)
    (scratch / ".gitignore").write_text(f"/{_DATA}\n", encoding="utf-8")
    (scratch / "README.md").write_text(readme, encoding="utf-8")
    return [".dvc/config", ".gitignore", "README.md", f"{_DATA}.dvc", _RECORD, run.files.quality.name]


def _message(record: DatasetRecord) -> str:
    subject = f"Record {record.rows:,} rows of {record.challenge} as of {record.as_of:%Y-%m-%d %H:%M} UTC"
    return f"{subject}\n\nDataset: {record.md5}\nGit-SHA: {record.git_sha}\n{_RUN_LINE}{record.run_id}"


def _recorded(branch: RecordBranch, tip: str, record: DatasetRecord) -> str | None:
    """The commit that already records the same dataset of this run, if there is one."""
    for commit in branch.commits_saying(f"{_RUN_LINE}{record.run_id}", tip):
        with suppress(msgspec.DecodeError):
            there = msgspec.json.decode(branch.read(commit, _RECORD) or b"", type=DatasetRecord)
            if (there.run_id, there.md5) == (record.run_id, record.md5):
                return commit
    return None
