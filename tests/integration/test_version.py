from __future__ import annotations

import filecmp
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from mlflow.tracking import MlflowClient

from clients.errors import ConfigurationError, DataRejected, PassingFault
from clients.git import Git, data_repository, open_branch
from doubles.connection import CutConnection
from pipelines.files import write_json
from pipelines.run import Dataset, Run
from records.quality import QualityReport
from tests.runs import ROOT, carried, made_up_weather, make_run, write_observations

BRANCH = "data/weather"


def git(directory: Path, *arguments: str) -> str:
    return Git(directory).text(*arguments)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, on a machine without home, Git identity or Git settings."""
    bare = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    monkeypatch.setenv("RPS_REPOSITORY", str(bare))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return bare


def checked_run(root: Path, run_id: str = "manual__1", *, seed: int = 1, passed: bool = True) -> Run:
    """A run whose data has been judged and made into features."""
    run = make_run(root, run_id)
    observations = made_up_weather(seed=seed)
    write_observations(run, observations)
    observations.to_parquet(run.files.features, index=False)
    report = QualityReport(
        challenge="weather", as_of=run.identity.as_of, rows=7200, series={}, passed=passed, violations=()
    )
    write_json(run.files.quality, report)
    return run


def recorded(run: Run) -> Dataset:
    return msgspec.json.decode(run.files.dataset.read_bytes(), type=Dataset)


def commits(remote: Path) -> list[str]:
    """Newest first; none when the branch is not there."""
    return git(remote, "log", "--format=%H", "--all").split()


def state_of(repository: Path) -> list[str]:
    """What is checked out, where, and what differs from it."""
    asked = (["status", "--porcelain"], ["rev-parse", "HEAD"], ["symbolic-ref", "HEAD"])
    return [git(repository, *arguments) for arguments in asked]


def start_stage(workspace: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.carrier", "version", "--challenge", "weather"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("store_env")
def test_a_recorded_dataset_comes_back_byte_for_byte(remote: Path, tracking_env: str, tmp_path: Path) -> None:
    run = checked_run(tmp_path)
    carried("version", run)
    dataset = recorded(run)
    got = tmp_path / "got"
    fetch = ["get", str(remote), "dataset", "--rev", dataset.rev, "--out", str(got)]
    subprocess.run([sys.executable, "-m", "dvc", *fetch], check=True, capture_output=True, cwd=tmp_path)
    names = ["observations.parquet", "features.parquet", "quality.json"]
    assert filecmp.cmpfiles(got, run.files.root, names, shallow=False) == (names, [], [])
    assert dataset.branch == BRANCH
    assert dataset.rev == git(remote, "rev-parse", BRANCH)
    assert f"md5: {dataset.md5}" in git(remote, "show", f"{BRANCH}:dataset.dvc")
    assert dataset.bytes == sum((run.files.root / name).stat().st_size for name in names)
    (found,) = MlflowClient(tracking_env).search_runs(
        [MlflowClient(tracking_env).get_experiment_by_name("weather").experiment_id],
        f"tags.`rps.dataset_rev` = '{dataset.rev}'",
    )
    assert found.data.tags["rps.dataset_md5"] == dataset.md5
    assert [path.name for path in run.files.root.iterdir() if "scratch" in path.name] == []


@pytest.mark.usefixtures("tracking_env")
def test_no_secret_is_recorded(remote: Path, store_env: dict[str, str], tmp_path: Path) -> None:
    carried("version", checked_run(tmp_path))
    paths = git(remote, "ls-tree", "-r", "--name-only", BRANCH).split()
    held = "".join(git(remote, "show", f"{BRANCH}:{path}") for path in paths)
    assert store_env["AWS_ENDPOINT_URL"] in held
    assert store_env["AWS_SECRET_ACCESS_KEY"] not in held
    assert store_env["AWS_ACCESS_KEY_ID"] not in held


@pytest.mark.usefixtures("store_env", "tracking_env")
def test_a_repeated_run_adds_no_commit_and_another_run_adds_one_on_top(remote: Path, tmp_path: Path) -> None:
    first = checked_run(tmp_path / "first")
    carried("version", first)
    before = recorded(first)
    carried("version", first)
    assert recorded(first) == before
    second = checked_run(tmp_path / "second", "manual__10")
    carried("version", second)
    assert recorded(second).md5 == before.md5, "the same data has the same hash"
    assert commits(remote) == [recorded(second).rev, before.rev]
    carried("version", first)
    assert recorded(first) == before, "an older commit of the run is found below newer ones"
    assert len(commits(remote)) == 2


@pytest.mark.usefixtures("store_env", "tracking_env")
def test_two_runs_at_once_are_both_recorded(remote: Path, tmp_path: Path) -> None:
    runs = [checked_run(tmp_path / name, name, seed=seed) for seed, name in enumerate(["one", "two"], 1)]
    stages = [start_stage(tmp_path / run.identity.run_id) for run in runs]
    for stage in stages:
        _, said = stage.communicate(timeout=120)
        assert stage.returncode == 0, said
    assert set(commits(remote)) == {recorded(run).rev for run in runs}


def test_a_commit_that_was_overtaken_is_made_anew_on_top(remote: Path, tmp_path: Path) -> None:
    branches = []
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
        branches.append(open_branch(data_repository(), BRANCH, tmp_path / name))
    ours, theirs = branches
    first = theirs.append(["theirs"], "first", done_already=lambda _: None)
    overtaken = []

    def overtake(_: str) -> None:
        """Called once ours has looked at the branch, and before it pushes."""
        if len(overtaken) < 2:
            overtaken.append(theirs.append(["theirs"], f"overtaking {len(overtaken)}", done_already=lambda _: None))

    rev = ours.append(["ours"], "ours", done_already=overtake)
    assert commits(remote) == [rev, *reversed(overtaken), first]
    assert git(remote, "ls-tree", "--name-only", rev).split() == ["ours", "theirs"], "what others added stays"


def test_a_branch_that_is_always_overtaken_is_a_passing_fault(remote: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    branch = open_branch(data_repository(), BRANCH, tmp_path)
    kept = branch.append(["file"], "first", done_already=lambda _: None)
    hook = remote / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho cannot lock ref >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(PassingFault, match="somebody else pushed"):
        branch.append(["file"], "second", done_already=lambda _: None)
    assert commits(remote) == [kept]


@pytest.mark.usefixtures("store_env", "tracking_env")
def test_a_push_that_rules_forbid_is_reported_as_configuration(remote: Path, tmp_path: Path) -> None:
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho only people may push >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ConfigurationError, match="only people may push"):
        carried("version", checked_run(tmp_path))
    hook.unlink()
    carried("version", checked_run(tmp_path))
    assert len(commits(remote)) == 1


@pytest.mark.usefixtures("store_env")
def test_a_repository_that_is_not_there_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPS_REPOSITORY", str(tmp_path / "nowhere.git"))
    with pytest.raises(ConfigurationError, match=r"nowhere\.git.*RPS_REPOSITORY"):
        carried("version", checked_run(tmp_path))


def test_a_host_that_is_down_is_a_passing_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        monkeypatch.setenv("RPS_REPOSITORY", f"http://someone:hunter2@127.0.0.1:{held.getsockname()[1]}/x.git")
        with pytest.raises(PassingFault) as shown:
            open_branch(data_repository(), BRANCH, tmp_path).fetch()
    assert "hunter2" not in str(shown.value)


@pytest.mark.usefixtures("store_env")
def test_wrong_keys_are_reported_by_name_and_record_nothing(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        carried("version", checked_run(tmp_path))
    assert commits(remote) == []


@pytest.mark.usefixtures("tracking_env")
def test_a_store_lost_half_way_is_a_passing_fault_and_the_next_attempt_succeeds(
    remote: Path, store_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checked_run(tmp_path)
    with CutConnection(store_env["AWS_ENDPOINT_URL"], after_bytes=200_000) as cut:
        monkeypatch.setenv("AWS_ENDPOINT_URL", cut.url)
        with pytest.raises(PassingFault):
            carried("version", run)
    assert cut.was_cut
    assert commits(remote) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", store_env["AWS_ENDPOINT_URL"])
    carried("version", run)
    assert commits(remote) == [recorded(run).rev]


@pytest.mark.usefixtures("store_env")
def test_data_that_failed_the_gate_is_not_recorded(remote: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRejected):
        carried("version", checked_run(tmp_path, passed=False))
    assert commits(remote) == []


@pytest.mark.usefixtures("store_env", "tracking_env")
def test_the_current_repository_serves_and_its_working_tree_is_left_alone(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    run = checked_run(own)
    git(own, "init", "--quiet", "--initial-branch=main")
    (own / ".gitignore").write_text("data/\n")
    git(own, "add", ".")
    git(own, "-c", "user.name=n", "-c", "user.email=e@x", "commit", "--quiet", "-m", "code")
    (own / "unsaved").write_text("work in progress")
    before = state_of(own)
    monkeypatch.delenv("RPS_REPOSITORY")
    monkeypatch.chdir(own)
    carried("version", run)
    assert git(own, "rev-parse", BRANCH) == recorded(run).rev
    assert state_of(own) == before
    git(own, "remote", "add", "origin", "../remote.git")
    carried("version", run)
    assert commits(remote) == [recorded(run).rev], "origin goes before the repository itself"


@pytest.mark.usefixtures("store_env", "tracking_env")
def test_what_a_killed_attempt_has_left_is_cleared_away(remote: Path, tmp_path: Path) -> None:
    run = checked_run(tmp_path)
    scratch = run.files.root / ".dvc-scratch.1"
    for name in ("dataset", ".dvc/tmp", ".dvc/cache"):
        (scratch / name).mkdir(parents=True)
    (scratch / "dataset" / "observations.parquet").write_bytes(b"PAR1 half")
    (scratch / "dataset.dvc").write_text("outs:\n- md5: half")
    (scratch / ".dvc" / "tmp" / "rwlock").write_text("{ half")
    git(scratch, "init", "--quiet")
    (scratch / ".git" / "index.lock").touch()
    carried("version", run)
    assert commits(remote) == [recorded(run).rev]
    assert not list(run.files.root.glob(".dvc-scratch*"))
