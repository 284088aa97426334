"""What the dashboards are made of: a few kinds of panels, variables and annotations that look alike everywhere.

A thin layer over Grafana's foundation SDK. `$instance`, `$__rate_interval` and the like are filled in by Grafana.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

DATA_SOURCE = models.DataSourceRef(type_val="prometheus", uid="prometheus")
TAG = "rps"
COLUMNS = 24
"""How wide Grafana's grid is."""
LIMIT = "limit"
"""The legend of a line that says from where on something is wrong; drawn red and dashed."""

Steps = Sequence[tuple[float | None, str]]
"""Colours, each with the value from which on it is used; the first has none."""
Panel = Builder[models.Panel]
PLAIN: Steps = ((None, "blue"),)
UP = {"0": ("down", "red"), "1": ("up", "green")}


@dataclass(frozen=True)
class Query:
    """PromQL, and what a series of the answer is called: `{{label}}` is the label's value."""

    expression: str
    legend: str


def bad_from(value: float) -> Steps:
    """Green, and red from ``value`` on."""
    return ((None, "green"), (value, "red"))


def chart(
    title: str,
    told: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    steps: Steps = PLAIN,
    stacked: bool = False,
    repeat: str = "",
) -> Panel:
    """Lines over time. With ``steps`` the values at which the colour changes are drawn as dashed lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(told)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .span(width)
        .height(height)
        .targets(_targets(queries))
        .line_width(1)
        .fill_opacity(60 if stacked else 8)
        .show_points(kinds.VisibilityMode.AUTO)
        .thresholds(_thresholds(steps))
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .override_by_regexp(
            f"/^{LIMIT}/",
            [
                models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"}),
                models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                models.DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if len(steps) > 1:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.DASHED))
    if repeat:
        panel = panel.repeat(repeat).repeat_direction("h")
    return panel


def number(
    title: str,
    told: str,
    unit: str,
    query: Query,
    *,
    width: int = 4,
    height: int = 4,
    steps: Steps = PLAIN,
    words: Mapping[str, tuple[str, str]] | None = None,
    names: bool = False,
) -> Panel:
    """The value now, large.

    words: what a value is called, and its colour; names: show the legend and not the value.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(told)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .span(width)
        .height(height)
        .targets(_targets([query], now=True))
        .thresholds(_thresholds(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.NAME if names else kinds.BigValueTextMode.AUTO)
        .no_value("no data")
    )
    return panel.mappings([_mapping(words)]) if words else panel


def bars(
    title: str, told: str, unit: str, query: Query, *, width: int = 8, height: int = 8, steps: Steps = PLAIN
) -> Panel:
    """The values now, one bar for each series, in the order that the query gives."""
    return (
        bargauge.Panel()
        .title(title)
        .description(told)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .span(width)
        .height(height)
        .targets(_targets([query], now=True))
        .thresholds(_thresholds(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .min(0)
    )


def states(
    title: str,
    told: str,
    query: Query,
    words: Mapping[str, tuple[str, str]],
    *,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Which of a few states each series was in, over time."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(told)
        .unit("none")
        .datasource(DATA_SOURCE)
        .span(width)
        .height(height)
        .targets(_targets([query]))
        .mappings([_mapping(words)])
        .thresholds(_thresholds(PLAIN))
        .show_value(kinds.VisibilityMode.AUTO)
        .fill_opacity(80)
    )


def variable(name: str, label: str, told: str, metric: str, *, numbers: bool = False) -> Builder[models.VariableModel]:
    """A variable with the values that the label ``name`` takes in ``metric``; several, or all, can be chosen."""
    order = models.VariableSort.NUMERICAL_ASC if numbers else models.VariableSort.ALPHABETICAL_ASC
    return (
        build.QueryVariable(name)
        .label(label)
        .description(told)
        .datasource(DATA_SOURCE)
        .query({"qryType": 1, "query": f"label_values({metric}, {name})", "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(order)
        .multi(multi=True)
        .include_all(include_all=True)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


class Marks(models.AnnotationQuery, Builder[models.AnnotationQuery]):
    """A mark on every chart wherever the expression has a value. Prometheus' own fields are not known to the SDK."""

    def __init__(self, name: str, colour: str, expression: str, *, title: str, text: str, labels: str) -> None:
        """title, text: of a mark, with `{{label}}` for a label's value; labels: those that are its tags."""
        super().__init__(name=name, datasource=DATA_SOURCE, enable=True, icon_color=colour, expr=expression)
        self._told: dict[str, object] = {"titleFormat": title, "textFormat": text, "tagKeys": labels}

    def build(self) -> models.AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "step": "30s", **self._told}


def releases(selector: str) -> Marks:
    """Marks where a version began to be served: it is there now, and was not five minutes before."""
    info = f"max by (challenge, version, git_sha) (rps_model_info{{{selector}}})"
    return Marks(
        "Releases",
        "purple",
        f"{info} unless max by (challenge, version, git_sha) (rps_model_info{{{selector}}} offset 5m)",
        title="{{challenge}}: version {{version}}",
        text="commit {{git_sha}}",
        labels="challenge,version",
    )


def firing(area: str) -> Marks:
    """Marks while an alert of ``area`` (a regular expression) fires."""
    return Marks(
        "Alerts",
        "red",
        f'max by (alertname, severity) (ALERTS{{alertstate="firing", area=~"{area}"}})',
        title="{{alertname}}",
        text="{{severity}}",
        labels="alertname,severity",
    )


def alerts_now(area: str) -> Panel:
    """How many alerts of ``area`` (a regular expression) fire; what an operator looks at first."""
    return number(
        "Alerts firing",
        f"Alerts of the area {area.replace('|', ' or ')} that are firing. Red marks on the charts show their names.",
        "none",
        Query(f'count(ALERTS{{alertstate="firing", area=~"{area}"}}) or vector(0)', "alerts"),
        steps=bad_from(1),
    )


def dashboard(
    name: str,
    told: str,
    rows: Mapping[str, Sequence[Panel]],
    variables: Sequence[Builder[models.VariableModel]],
    marks: Sequence[Marks],
    *,
    refresh: str,
    since: str,
) -> models.Dashboard:
    """A dashboard `rps-<name>`, to be read only. rows: panels by the row's title, "" for what stands above all rows."""
    made = (
        build.Dashboard(f"RPS: {name}")
        .uid(f"{TAG}-{name}")
        .description(told)
        .tags([TAG])
        .readonly()
        .timezone("utc")
        .time(since, "now")
        .refresh(refresh)
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .annotations(list(marks))
        .link(
            build.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
    )
    for title, panels in rows.items():
        if title:
            made = made.with_row(build.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    _place(built.panels or ())
    return built


def _place(items: Sequence[models.Panel | models.RowPanel]) -> None:
    """Number the panels, and put each as high as it goes, then as far left; a row's title is below all before it."""
    filled = [0] * COLUMNS
    for identity, item in enumerate(items, start=1):
        item.id_val = identity
        position = item.grid_pos or models.GridPos()
        item.grid_pos = position
        if isinstance(item, models.RowPanel):
            position.w = COLUMNS
        free = [max(filled[left : left + position.w]) for left in range(COLUMNS - position.w + 1)]
        position.y = min(free)
        position.x = free.index(position.y)
        filled[position.x : position.x + position.w] = [position.y + position.h] * position.w


def _targets(queries: Sequence[Query], *, now: bool = False) -> list[Builder[Dataquery]]:
    return [_target(query, chr(ord("A") + place), now=now) for place, query in enumerate(queries)]


def _target(query: Query, reference: str, *, now: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(reference)
    target = target.datasource(DATA_SOURCE)
    return target.instant() if now else target.range()


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _mapping(words: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        {
            value: models.ValueMappingResult(text=text, color=colour, index=place)
            for place, (value, (text, colour)) in enumerate(words.items())
        }
    )
