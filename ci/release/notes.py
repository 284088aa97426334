"""The notes of a release: which model and how good, what changed in the code, the image, and where to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ci import markdown, wording
from ci.release.choose import Choice
from ci.release.code_history import Change, Commit
from ci.release.numbering import Named
from ci.release.plan import Plan
from forecasting.judging.evaluation import Model
from forecasting.judging.losses import LOSSES
from forecasting.models.manifest import Manifest
from records.mlflow_names import Metric, RunTag, horizons_of, levels_of, metric
from records.stages import data_branch

COMMITS_SHOWN = 50
_HEADINGS: Mapping[Change, str] = {
    "breaking": "Breaking changes",
    "feature": "Features",
    "fix": "Fixes",
    "other": "Other changes",
}
_IMAGE = (
    "Also as `{tagged}`. What is in it, and what it was made from, is in `sbom.spdx.json` and `provenance.json` below. "
    "`python -m ci verify` with that name runs it and checks what it answers."
)


@dataclass(frozen=True, kw_only=True)
class Released:
    """The content of the notes."""

    plan: Plan
    choice: Choice
    manifest: Manifest
    before: Named | None
    """The challenge's release before this one."""
    since: Named | None
    """The last release of any challenge."""
    commits: Sequence[Commit]
    """Since then, newest first."""
    image: str
    repository_url: str
    """Of the code; empty when unknown."""
    model_url: str


def render(released: Released) -> str:
    """GitHub's Markdown. Texts of others (subjects, titles) cannot mark it up or mention anybody, and are cut."""
    plan = released.plan
    blocks = [
        _opening(released),
        "## Model",
        _model(released),
        f"Chosen: {markdown.text(released.choice.reason)}.",
        markdown.details(
            f"{len(released.choice.considered)} versions were considered",
            markdown.bullets(markdown.text(one.summary) for one in released.choice.considered[:COMMITS_SHOWN]),
        ),
        "## Code",
        _code(released),
        "## Image",
        f"```sh\ndocker pull {released.image}\n```",
        _IMAGE.format(tagged=f"{released.image.partition('@')[0]}:{plan.tag}"),
    ]
    return "\n\n".join(blocks) + "\n"


def without_latest(notes: str, image: str) -> str:
    """The notes of a release whose registry did not move `latest`."""
    latest = f"{image.partition('@')[0]}:latest"
    return f"{notes}\n`{latest}` is not this image: the registry does not move its tags. Pull the names above.\n"


def _opening(released: Released) -> str:
    plan, before = released.plan, released.before
    opening = f"**{markdown.text(plan.title)}**: version {plan.model.version} of {markdown.code(plan.challenge)}"
    if before is None:
        return f"{opening}. The first release."
    earlier = f"{before.number.tag} had version {before.model_version}" if before.model_version else before.number.tag
    if before.model_version == plan.model.version:
        return f"{opening}, as in {before.number.tag}: only the code has changed."
    if plan.withdraws is not None:
        first, last = plan.model.version + 1, plan.withdraws
        gone = f"version {last}" if first == last else f"versions {first} to {last}"
        return f"{opening}. **A roll-back**: {gone} will not be chosen again by itself ({earlier})."
    return f"{opening}; {earlier}."


def _model(released: Released) -> str:
    plan, manifest = released.plan, released.manifest
    metrics, opponent = plan.model.metrics, plan.model.opponent
    measure, baseline = LOSSES[manifest.loss].measure, markdown.text(manifest.baseline.title)
    columns: list[tuple[Model, str]] = [("candidate", f"version {plan.model.version}")]
    if metric(measure, model="production") in metrics:
        columns.append(("production", f"production then ({opponent})" if opponent else "production then"))
    if metric(measure, model="baseline") in metrics:
        columns.append(("baseline", baseline))
    rows = [
        [label, *(_shown(name, metrics.get(metric(name, model=model))) for model, _ in columns)]
        for name, label in _measures(metrics, manifest)
    ]
    span = f"{wording.moment(manifest.train_start)} to {wording.moment(manifest.train_end)} UTC"
    revision = plan.model.tags.get(RunTag.DATASET_REV, "")
    recorded = f" (commit {markdown.code(revision[:12])} of `{data_branch(plan.challenge)}`)" if revision else ""
    facts = [
        f"trained on {span}, dataset {markdown.code(manifest.dataset_md5)}{recorded}",
        f"made by commit {_commit_link(released, plan.model.git_sha)}, run {markdown.code(plan.model.run_id)}",
        markdown.link("the version in the registry", released.model_url),
    ]
    if not rows:
        return markdown.bullets(facts)
    table = markdown.table(["on its folds", *(label for _, label in columns)], rows, "l" + "r" * len(columns))
    return f"{table}\n\n{markdown.bullets(facts)}"


def _measures(metrics: Mapping[str, float], manifest: Manifest) -> list[tuple[str, str]]:
    loss = LOSSES[manifest.loss]
    unit = markdown.text(loss.unit(manifest.unit))
    named: list[tuple[str, str]] = [
        (loss.measure, f"{loss.label}, {unit}" if unit else loss.label),
        (Metric.SKILL, f"skill against {markdown.text(manifest.baseline.title)}, of the loss"),
    ]
    named += [(name, f"coverage of the {level} % interval") for name, level in levels_of(metrics).items()]
    steps = horizons_of(metrics, loss.measure)
    named += [(metric(loss.measure, horizon=step), f"{loss.label}, {step} steps ahead") for step in steps]
    return [(name, label) for name, label in named if name in metrics]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return wording.percent(value) if name.startswith((Metric.COVERAGE, Metric.SKILL)) else wording.number(value)


def _code(released: Released) -> str:
    plan = released.plan
    built = f"Built from commit {_commit_link(released, plan.sha)}."
    if not released.commits:
        return f"{built} Nothing was committed since the last release."
    if released.since is None:
        return f"{built} It holds {len(released.commits)} commits."
    blocks = [built]
    for change, heading in _HEADINGS.items():
        of_kind = [commit for commit in released.commits if commit.change == change]
        lines = [f"{markdown.text(commit.subject)} ({commit.sha[:7]})" for commit in of_kind[:COMMITS_SHOWN]]
        if len(of_kind) > COMMITS_SHOWN:
            lines.append(f"and {len(of_kind) - COMMITS_SHOWN} more")
        if lines:
            blocks.append(f"### {heading}\n\n{markdown.bullets(lines)}")
    return "\n\n".join(blocks)


def _commit_link(released: Released, sha: str) -> str:
    if not released.repository_url:
        return markdown.code(sha[:12])
    return markdown.link(sha[:7], f"{released.repository_url}/commit/{sha}")
