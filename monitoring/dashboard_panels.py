"""What the dashboards consist of: a few kinds of panels, variables and annotations that look alike everywhere.

A thin layer over Grafana's foundation SDK. `$instance`, `$__rate_interval` and the like are filled in by Grafana.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import TypedDict, TypeVar, Unpack

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
Query = tuple[str, str]
"""PromQL, and what a series of the answer is called: `{{label}}` is the label's value."""
Words = Mapping[str, tuple[str, str]]
"""What a value is called, and its colour."""
Panel = timeseries.Panel | stat.Panel | bargauge.Panel | statetimeline.Panel
Row = tuple[str, Sequence[Panel]]
"""Title and panels; the empty title is that of what stands above all rows."""
PLAIN: Steps = ((None, "blue"),)
UP: Words = {"0": ("down", "red"), "1": ("up", "green")}
_Kind = TypeVar("_Kind", timeseries.Panel, stat.Panel, bargauge.Panel, statetimeline.Panel)


class Layout(TypedDict, total=False):
    """What any panel may set; ``unit`` is one of Grafana's names."""

    unit: str
    width: int
    height: int
    steps: Steps


def bad_from(value: float) -> Steps:
    """Green, and red from ``value`` on."""
    return ((None, "green"), (value, "red"))


def chart(
    title: str, meaning: str, *queries: Query, stacked: bool = False, repeat: str = "", **layout: Unpack[Layout]
) -> Panel:
    """Lines over time. With ``steps`` the values at which the colour changes are drawn as dashed lines."""
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST)
    limit = {
        "color": {"mode": "fixed", "fixedColor": "red"},
        "custom.lineStyle": {"fill": "dash", "dash": [10, 10]},
        "custom.fillOpacity": 0,
    }
    panel = (
        _panel(timeseries.Panel(), title, meaning, queries, **layout)
        .line_width(1)
        .fill_opacity(60 if stacked else 8)
        .show_points(kinds.VisibilityMode.AUTO)
        .legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(show_legend=True))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .override_by_regexp(f"/^{LIMIT}/", [models.DynamicConfigValue(name, value) for name, value in limit.items()])
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if len(layout.get("steps", PLAIN)) > 1:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.DASHED))
    return panel.repeat(repeat).repeat_direction("h") if repeat else panel


def number(
    title: str, meaning: str, query: Query, *, words: Words | None = None, names: bool = False, **layout: Unpack[Layout]
) -> Panel:
    """The value now, large. names: show the legend and not the value."""
    layout = {"width": 4, "height": 4, **layout}
    panel = (
        _panel(stat.Panel(), title, meaning, [query], now=True, **layout)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.NAME if names else kinds.BigValueTextMode.AUTO)
        .no_value("no data")
    )
    return panel.mappings([_mapping(words)]) if words else panel


def bars(title: str, meaning: str, query: Query, **layout: Unpack[Layout]) -> Panel:
    """The values now, one bar for each series, in the order that the query gives."""
    return (
        _panel(bargauge.Panel(), title, meaning, [query], now=True, **layout)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .min(0)
    )


def states(title: str, meaning: str, query: Query, words: Words, **layout: Unpack[Layout]) -> Panel:
    """Which of a few states each series was in, over time."""
    panel = _panel(statetimeline.Panel(), title, meaning, [query], **layout)
    return panel.mappings([_mapping(words)]).show_value(kinds.VisibilityMode.AUTO).fill_opacity(80)


def row(title: str, *panels: Panel, width: int = 0) -> Row:
    """width: of each panel, when all have the same."""
    for panel in panels if width else ():
        panel.span(width)
    return title, panels


def variable(
    name: str, label: str, meaning: str, metric: str, *, numbers: bool = False
) -> Builder[models.VariableModel]:
    """A variable with the values that the label ``name`` takes in ``metric``; several, or all, can be chosen."""
    order = models.VariableSort.NUMERICAL_ASC if numbers else models.VariableSort.ALPHABETICAL_ASC
    return (
        build.QueryVariable(name)
        .label(label)
        .description(meaning)
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
        self._own: dict[str, object] = {"titleFormat": title, "textFormat": text, "tagKeys": labels}

    def build(self) -> models.AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "step": "30s", **self._own}


def alerts_now(area: str) -> Panel:
    """How many alerts of ``area`` (a regular expression) fire; what an operator looks at first."""
    return number(
        "Alerts firing",
        f"Alerts of the area {area.replace('|', ' or ')} that are firing. Red marks on the charts show their names.",
        (f'count(ALERTS{{alertstate="firing", area=~"{area}"}}) or vector(0)', "alerts"),
        steps=bad_from(1),
    )


def dashboard(
    name: str,
    meaning: str,
    rows: Iterable[Row],
    variables: Sequence[Builder[models.VariableModel]],
    *,
    released: str,
    area: str,
    refresh: str,
    since: str,
) -> models.Dashboard:
    """A read-only dashboard `rps-<name>` that marks releases and firing alerts on its charts.

    released: the selector of the models whose releases it marks; area: of the alerts, a regular expression.
    """
    served, before = (
        f"max by (challenge, version, git_sha) (rps_model_info{{{released}}}{offset})" for offset in ("", " offset 5m")
    )
    releases = Marks(
        "Releases",
        "purple",
        f"{served} unless {before}",
        title="{{challenge}}: version {{version}}",
        text="commit {{git_sha}}",
        labels="challenge,version",
    )
    firing = Marks(
        "Alerts",
        "red",
        f'max by (alertname, severity) (ALERTS{{alertstate="firing", area=~"{area}"}})',
        title="{{alertname}}",
        text="{{severity}}",
        labels="alertname,severity",
    )
    made = (
        build.Dashboard(f"RPS: {name}")
        .uid(f"{TAG}-{name}")
        .description(meaning)
        .tags([TAG])
        .readonly()
        .timezone("utc")
        .time(since, "now")
        .refresh(refresh)
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .annotations([releases, firing])
        .link(
            build.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
    )
    for title, panels in rows:
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


def _panel(
    panel: _Kind,
    title: str,
    meaning: str,
    queries: Sequence[Query],
    *,
    now: bool = False,
    unit: str = "none",
    width: int = 8,
    height: int = 8,
    steps: Steps = PLAIN,
) -> _Kind:
    targets: list[Builder[Dataquery]] = []
    for name, (expression, legend) in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(name).datasource(DATA_SOURCE)
        targets.append(target.instant() if now else target.range())
    thresholds = build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    thresholds.steps([models.Threshold(value=value, color=colour) for value, colour in steps])
    panel.title(title).description(meaning).unit(unit).span(width).height(height)
    return panel.datasource(DATA_SOURCE).targets(targets).thresholds(thresholds)


def _mapping(words: Words) -> models.ValueMap:
    return models.ValueMap(
        {
            value: models.ValueMappingResult(text=text, color=colour, index=place)
            for place, (value, (text, colour)) in enumerate(words.items())
        }
    )
