"""What the tests of training, evaluation and registration share: a run up to its features, and the stages after it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec
import pandas as pd

from forecasting.challenge.schema import load_challenge
from forecasting.judging.evaluation import Evaluation
from pipelines import transform
from pipelines.carrier.registry import Registered
from pipelines.files import read_json, write_json
from pipelines.run import Dataset, Run, RunIdentity
from records.stages import RunFiles
from tests.runs import AS_OF, ROOT, carried, made_up_weather, write_observations

NO_EDITS: Mapping[str, str] = {}
QUICK = {
    "count = 12": "count = 3",
    "max_iter = 100": "max_iter = 20",
    "learning_rate = 0.05": "learning_rate = 0.2",
    "max_leaf_nodes = 31": "max_leaf_nodes = 8",
}
"""Edits of the challenge: few folds and few trees, which learn fast enough to beat the baseline."""


def featured_run(
    root: Path,
    name: str,
    run_id: str = "manual__1",
    *,
    as_of: datetime = AS_OF,
    git_sha: str = "a" * 40,
    edits: Mapping[str, str] = NO_EDITS,
    observations: pd.DataFrame | None = None,
) -> Run:
    """A run whose features are made, on weather that is made up to ``as_of``, with a model that is quick to fit.

    name: of the challenge, one's own, so that tests that share an MLflow do not meet; edits: of the challenge's text.
    """
    text = (ROOT / "challenges" / "weather.toml").read_text(encoding="utf-8")
    for old, new in {'name = "weather"': f'name = "{name}"', **QUICK, **edits}.items():
        assert old in text, f"the challenge has no {old!r} to change"
        text = text.replace(old, new, 1)
    path = root / "challenges" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    identity = RunIdentity(run_id=run_id, git_sha=git_sha, as_of=as_of, reason="test", pull_request="7")
    run = Run(load_challenge(path), path, RunFiles(root / "data" / name), identity)
    table = made_up_weather() if observations is None else observations
    write_json(run.files.run, identity)
    write_observations(run, table[table["ds"] <= as_of])
    transform.run(run)
    write_json(
        run.files.dataset,
        Dataset(md5="0" * 32 + ".dir", rev="b" * 40, branch=f"data/{name}", rows=len(table), bytes=1, run_id=run_id),
    )
    return run


def trained(run: Run) -> Run:
    carried("train", run)
    return run


def evaluated(run: Run) -> Evaluation:
    return measured(trained(run))


def measured(run: Run) -> Evaluation:
    """The evaluation of a run that is trained."""
    carried("evaluate", run)
    return read_json(run.files.evaluation, Evaluation, made_by="evaluate")


def registered(run: Run) -> Registered:
    evaluated(run)
    carried("register", run)
    return read_json(run.files.registered, Registered, made_by="register")


def copied(run: Run, root: Path) -> Run:
    """The same run in another workspace, as far as it has got, for a test that changes it."""
    shutil.copytree(run.challenge_path.parents[1], root, dirs_exist_ok=True)
    name = run.challenge.name
    return Run(run.challenge, root / "challenges" / f"{name}.toml", RunFiles(root / "data" / name), run.identity)


def with_learner(run: Run, **changes: object) -> Run:
    """The run with other settings of its learner."""
    learner = msgspec.structs.replace(run.challenge.learner, **changes)
    challenge = msgspec.structs.replace(run.challenge, learner=learner)
    return Run(challenge, run.challenge_path, run.files, run.identity)
