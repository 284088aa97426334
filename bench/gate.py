"""How often the gate errs: models trained anew on the recorded weather meet, and the weather's own policy judges them.

`python -m bench.gate` prints Markdown. A trial is a production model and the candidates that meet it on one hold-out;
what they predict is kept under `.rps/bench/gate/`, so that another policy is judged without training again.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from bench.gate_trials import MONTH_ENDS, WORSE, Damage, Fitting, Model, draw_weeks, evaluated, season, sizes_for, train
from bench.recorded_models import CHALLENGE, fingerprint, in_processes
from bench.report import arguments, run, table
from forecasting.challenge.schema import load_challenge
from forecasting.judging.evaluation import Evaluation
from forecasting.judging.panel import Panel, read_panel
from forecasting.judging.verdict import Verdict, judge
from scripts.services import ROOT

CACHE = ROOT / ".rps" / "bench" / "gate"
JUDGING = {"schema.py", "verdict.py", "contests.py", "bootstrap.py", "equal_accuracy.py"}
"""What has no part in the predictions, but for the challenge's values, which are looked at by themselves."""
TWINS, DAMAGED, OTHERS = 9, 6, 1
"""How many trials of each of the twelve hold-outs have such candidates."""
WORSE_IN_A_SERIES = 0.10
CURVE = (0.01, 0.02, 0.03, 0.08)
TWIN_NAMES = ("twin", "twin, exchanged")
EXCHANGED = {"better": ("production", "noise"), "twin, exchanged": ("production", "twin")}
"""Meetings in which a trial's production model is the candidate, and against which of the trial's candidates."""
ROWS = (
    ("same code, other weeks", TWIN_NAMES, "≤ 5 %"),
    ("5 % worse: all three kinds", ("noise", "lag", "stale"), "≥ 95 %"),
    ("5 % worse: noise", ("noise",), "≥ 95 %"),
    ("5 % worse: lag", ("lag",), "≥ 95 %"),
    ("5 % worse: stale", ("stale",), "≥ 95 %"),
    ("5 % better", ("better",), ""),
    ("one series 10 % worse", ("one series",), ""),
    ("5 % worse: noise, and other weeks", ("noise, other weeks",), ""),
    *((f"{worse:.0%} worse: noise", (f"noise +{worse:.0%}",), "") for worse in CURVE),
)
"""The rows of the report: label, names of the candidates, goal."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a trial beside a table of predictions with a column for each model."""

    as_of: datetime
    fittings: dict[str, Fitting]
    """By model: `production`, and the names of its candidates."""
    evaluations: dict[str, Evaluation]
    """By meeting: a candidate's name, or one of `EXCHANGED`."""


@dataclass(frozen=True)
class Judged:
    """One meeting: the gate's verdict, and what each naive rule says."""

    as_of: datetime
    name: str
    verdict: Verdict
    naive_weeks: bool
    """Blocked, when each model is tested on the weeks that its own training left out."""
    naive_months: bool
    """Blocked, when the candidate is tested on this month, and production was on the month before."""

    @property
    def blocked(self) -> bool:
        return self.verdict.outcome == "block"

    @property
    def change(self) -> float:
        return self.verdict.overall.change or 0.0


def report() -> list[str]:
    """Error rates beside the naive rules', by rule, by hold-out, and by how much worse."""
    # The policy has no part in what is predicted: another one is judged without training again.
    challenge = {**msgspec.to_builtins(load_challenge(CHALLENGE)), "gate": None}
    cache = CACHE / fingerprint(challenge, "gate_trials", without=JUDGING)
    cache.mkdir(parents=True, exist_ok=True)
    make_all(cache)
    judged = judge_all(cache)
    return [*_setting(judged), "", *_rates(judged), "", *_by_rule(judged), "", *_by_holdout(judged)]


def make_all(cache: Path) -> None:
    """Train what is not there yet. A hold-out's trials come one after the other, so that its features are made once."""
    in_processes(find_sizes, [(as_of, cache) for as_of in MONTH_ENDS], "hold-outs whose damages are sized")
    trials = [(as_of, number, cache) for as_of in MONTH_ENDS for number in range(TWINS)]
    in_processes(make_trial, [trial for trial in trials if not _path(*trial).exists()], "trials")


def find_sizes(as_of: datetime, cache: Path) -> dict[str, float]:
    """How much damage makes a model 5 % worse on this hold-out: looked up, or measured on the middle horizon."""
    path = cache / f"{as_of:%Y-%m-%d}.sizes.json"
    if not path.exists():
        horizons = load_challenge(CHALLENGE).target.horizons
        with tempfile.TemporaryDirectory(prefix="rps-gate-") as scratch:
            sizes = sizes_for(season(as_of, horizons[len(horizons) // 2]), Path(scratch) / "model")
        _write(path, msgspec.json.encode(sizes))
    return msgspec.json.decode(path.read_bytes(), type=dict[str, float])


def make_trial(as_of: datetime, number: int, cache: Path) -> None:
    """Train production and its candidates, and keep what they predict."""
    random = np.random.default_rng([1, as_of.month, number])
    with tempfile.TemporaryDirectory(prefix="rps-gate-") as scratch:
        year = season(as_of)
        own, other = draw_weeks(year, random), draw_weeks(year, random)
        production = train(year, own, Damage(), 0, Path(scratch) / "production")
        models, evaluations = {"production": production}, {}
        for name, damage in _damages(number, find_sizes(as_of, cache), production).items():
            weeks = other if name in {"twin", "noise, other weeks"} else own
            seed = int(random.integers(2**32))
            models[name] = train(year, weeks, damage, seed, Path(scratch) / name)
            evaluations[name] = evaluated(year, models[name], production)
        evaluations["twin, exchanged"] = evaluated(year, production, models["twin"])
        if "noise" in models:
            evaluations["better"] = evaluated(year, production, models["noise"])
    rows = production.rows[["unique_id", "ds", "horizon", "truth", "baseline"]]
    predictions = rows.assign(**{name: model.rows["candidate"] for name, model in models.items()})
    fittings = {name: model.fitting for name, model in models.items()}
    path = _path(as_of, number, cache)
    predictions.to_parquet(path.with_suffix(".parquet"), compression="zstd")
    _write(path, msgspec.json.encode(Trial(as_of=as_of, fittings=fittings, evaluations=evaluations)))


def _damages(number: int, sizes: dict[str, float], production: Model) -> dict[str, Damage]:
    """The candidates of a trial, by name."""
    noise = sizes["noise"]
    damages = {"twin": Damage()}
    if number < DAMAGED:
        damages |= {"noise": Damage("noise", noise), "lag": Damage("lag", sizes["lag"])}
        damages["stale"] = Damage("stale", sizes["stale"])
    if number < OTHERS:
        damages["noise, other weeks"] = Damage("noise", noise)
        damages |= {f"noise +{worse:.0%}": Damage("noise", noise * _noisier(worse)) for worse in CURVE}
        squares = (production.rows["candidate"] - production.rows["truth"]) ** 2
        names = sorted(production.rows["unique_id"].unique())
        series = names[number % len(names)]
        share = float(squares[production.rows["unique_id"] == series].mean() / squares.mean())
        damages["one series"] = Damage("noise", noise * _noisier(WORSE_IN_A_SERIES) * math.sqrt(share), series)
    return damages


def _noisier(worse: float) -> float:
    """How many times the noise that makes a model 5 % worse makes it ``worse``: squared error adds up."""
    return math.sqrt(((1.0 + worse) ** 2 - 1.0) / ((1.0 + WORSE) ** 2 - 1.0))


def judge_all(cache: Path) -> list[Judged]:
    """Every meeting of every trial, judged by the policy as it is now."""
    paths = {(as_of, number): _path(as_of, number, cache) for as_of in MONTH_ENDS for number in range(TWINS)}
    logged = {trial: _read(path).fittings["production"].holdout_rmse for trial, path in paths.items()}
    tasks = [(path, logged[MONTH_ENDS[MONTH_ENDS.index(as_of) - 1], number]) for (as_of, number), path in paths.items()]
    return [one for trial in in_processes(judge_trial, tasks, "trials judged") for one in trial]


def judge_trial(path: Path, month_before: float) -> list[Judged]:
    """month_before: the RMSE that a production model was logged with a month earlier."""
    policy = load_challenge(CHALLENGE).gate
    trial, table = _read(path), pd.read_parquet(path.with_suffix(".parquet"))
    found = []
    for name, evaluation in trial.evaluations.items():
        sides = EXCHANGED.get(name, (name, "production"))
        candidate, production = (trial.fittings[side] for side in sides)
        verdict = judge(_panel(table, trial, *sides), evaluation, policy)
        found.append(
            Judged(
                trial.as_of,
                name,
                verdict,
                naive_weeks=not candidate.own_test_rmse < production.own_test_rmse,
                naive_months=not candidate.holdout_rmse < month_before,
            )
        )
    return found


def _panel(table: pd.DataFrame, trial: Trial, candidate: str, production: str) -> Panel:
    columns = {name: table[name].to_numpy() for name in ("unique_id", "horizon", "truth", "baseline")}
    columns["ds"] = table["ds"].dt.tz_localize(None).to_numpy()
    columns["compared"] = np.ones(len(table), dtype=bool)
    for role, name in (("candidate", candidate), ("production", production)):
        offsets = np.array([trial.fittings[name].offsets[horizon] for horizon in table["horizon"]])
        columns[role] = table[name].to_numpy()
        columns[f"{role}_lower"], columns[f"{role}_upper"] = (columns[role][:, None] + offsets).T
    return read_panel(columns)


def _setting(judged: list[Judged]) -> list[str]:
    policy = msgspec.to_builtins(load_challenge(CHALLENGE).gate)
    limits = {name: list(value) if isinstance(value, tuple) else value for name, value in policy.items()}
    settings = ", ".join(f"`{name} = {str(value).lower()}`" for name, value in limits.items())
    return [
        f"{len(judged):,} meetings of a candidate and a production model on {len(MONTH_ENDS)} hold-outs of four weeks,",
        "one before each month's end; each model trained on its own block-bootstrap sample of the weeks of the year",
        "before, by the pipeline's own code, and judged by `forecasting.judging.verdict.judge` with the policy of",
        f"`challenges/weather.toml`: {settings}.",
        "",
        "- **same code, other weeks**: both sound, each from weeks of its own. They differ by chance alone.",
        "- **noise**, **lag**, **stale**: trained like production, on the same weeks, but with noise on the newest",
        "  temperature lag; with that lag lost in a share of the hours, the one before standing in; on data that end",
        "  weeks earlier. How much of it makes a model 5 % worse on a hold-out was measured on other samples of weeks.",
        "- **better**: the sound production model as the candidate, and the one with noise in production.",
        "- **naive**: a candidate is blocked unless its own logged RMSE is lower (`<`) than production's, each from",
        "  its own test split: the weeks that its training left out by chance; or the newest four weeks when it was",
        "  trained, which for production was a month before.",
        "",
    ]


def _rates(judged: list[Judged]) -> list[str]:
    rows = []
    for label, names, goal in ROWS:
        those = [one for one in judged if one.name in names]
        changes = np.array([one.change for one in those])
        quantiles = f"({np.quantile(changes, 0.1):+.1%} to {np.quantile(changes, 0.9):+.1%})"
        low, high = _wilson(sum(one.blocked for one in those), len(those))
        blocked = f"**{_share(one.blocked for one in those)}** ({low:.1%} to {high:.1%})"
        naive = (_share(one.naive_weeks for one in those), _share(one.naive_months for one in those))
        rows.append((label, len(those), f"{changes.mean():+.1%} {quantiles}", blocked, goal, *naive))
    heads = "candidate", "trials", "change of RMSE (10–90 %)", "blocked (95 % sure)", "goal", "naive, weeks"
    return table("lrrrrrr", (*heads, "naive, months"), rows)


def _by_rule(judged: list[Judged]) -> list[str]:
    rules = sorted({reason.rule for one in judged for reason in one.verdict.reasons})
    rows = []
    for label, names, _ in ROWS:
        broken = [{reason.rule for reason in one.verdict.reasons} for one in judged if one.name in names]
        rows.append((label, *(_share(rule in those for those in broken) for rule in rules)))
    lines = table("l" + "r" * len(rules), ("candidate", *rules), rows)
    return ["How often each rule was broken (a verdict may have several reasons):", "", *lines]


def _by_holdout(judged: list[Judged]) -> list[str]:
    damages = ("noise", "lag", "stale")
    rows = []
    for as_of in MONTH_ENDS:
        here = [one for one in judged if one.as_of == as_of]
        twins = [one for one in here if one.name in TWIN_NAMES]
        coverage = [one.verdict.coverage for one in twins]
        covered = f"{np.mean(coverage):.1%} ({min(coverage):.1%} to {max(coverage):.1%})"
        reached = (f"{np.mean([one.change for one in here if one.name == name]):+.1%}" for name in damages)
        deviation = f"{np.std([one.change for one in twins]):.1%}"
        rows.append((f"{as_of:%d %B}", _share(one.blocked for one in twins), deviation, covered, *reached))
    return [
        "By hold-out. Of the same code on other weeks: the share blocked, the standard deviation of the change of",
        "RMSE, what the 90 % intervals cover (lowest to highest). Of the damages: the mean change of RMSE.",
        "",
        *table("lrrrrrr", ("hold-out until", "blocked", "deviation", "coverage", *damages), rows),
    ]


def _wilson(count: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share, weight = count / trials, z * z / trials
    half = z * math.sqrt(share * (1.0 - share) / trials + weight / (4.0 * trials))
    return (share + weight / 2.0 - half) / (1.0 + weight), (share + weight / 2.0 + half) / (1.0 + weight)


def _share(blocked: Iterable[bool]) -> str:
    return f"{np.mean(list(blocked)):.1%}"


def _path(as_of: datetime, number: int, cache: Path) -> Path:
    return cache / f"{as_of:%Y-%m-%d}.{number:02d}.json"


def _read(path: Path) -> Trial:
    return msgspec.json.decode(path.read_bytes(), type=Trial)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: what is there counts as done."""
    scratch = path.with_suffix(".scratch")
    scratch.write_bytes(content)
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(run(arguments(), report))
