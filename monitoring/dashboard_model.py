"""The dashboard of the served model as a model: forecast and truth, live error and skill, drift, releases."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.models import dashboard as models

from monitoring import dashboard_panels as panels
from monitoring.alerts import COVERAGE, OBSERVATIONS_HOURS, SPIKE_HOURS, WIDTH

SERVED = 'instance=~"$instance"'
ALL = f'{SERVED}, horizon="all"'
EACH = f'{SERVED}, horizon=~"$horizon|all"'
SERVED_BY = "* on (instance) group_left ({}) rps_model_info"
OFF_LIMIT = (
    f"rps_population_stability_index{{{SERVED}}} / on (instance, feature) rps_population_stability_limit{{{SERVED}}}"
)


def model_dashboard() -> models.Dashboard:
    served = 'rps_model_info{challenge=~"$challenge"}'
    return panels.dashboard(
        "model",
        "Is the model still good, and does the data still look like its training data?",
        _rows(),
        [
            panels.variable("challenge", "Challenge", "What is predicted", "rps_model_info"),
            panels.variable("instance", "Instance", "A process of the service", served),
            panels.variable("unique_id", "Series", "A series of the challenge", f"rps_target_value{{{SERVED}}}"),
            panels.variable("horizon", "Horizon", "Steps ahead", f"rps_forecast_value{{{SERVED}}}", numbers=True),
        ],
        released=SERVED,
        area="model",
        refresh="1m",
        since="now-2d",
    )


def _rows() -> Iterator[panels.Row]:
    limit = f'rps_drift_threshold{{{SERVED}, signal="live_error_ratio"}}'
    yield panels.row(
        "",
        panels.number(
            "Version",
            "The served version. Two versions mean that a release is in progress or a replica was not updated.",
            (f"max by (challenge, version) (rps_model_info{{{SERVED}}})", "{{challenge}} {{version}}"),
            names=True,
        ),
        panels.alerts_now("model"),
        panels.number(
            "Concept drift",
            "Live error over the folds', as a share of the challenge's limit. At 100 % it is concept drift.",
            (f"max(rps_live_error_ratio{{{ALL}}} / on (instance) {limit})", "of the limit"),
            unit="percentunit",
            steps=((None, "green"), (0.8, "yellow"), (1, "red")),
        ),
        panels.number(
            "Live skill",
            "1 minus the live error over the baseline's. Below 0, the baseline would have been the better forecast.",
            (f"min(rps_live_skill{{{ALL}}})", "skill"),
            unit="percentunit",
            steps=((None, "red"), (0, "yellow"), (0.1, "green")),
        ),
        panels.number(
            "Interval coverage",
            "Share of observed values inside their 90 % interval. 82 to 97 % is right.",
            (f"min(rps_live_interval_coverage{{{ALL}}})", "coverage"),
            unit="percentunit",
            steps=((None, "red"), (COVERAGE[0], "green"), (COVERAGE[1], "red")),
        ),
        panels.number(
            "Features that drifted",
            "Features whose population stability index is above their limit.",
            (f"count({OFF_LIMIT} > 1) or 0 * count({OFF_LIMIT})", "features"),
            steps=panels.bad_from(1),
        ),
    )
    yield panels.row(
        "Forecast and truth",
        panels.chart(
            "$unique_id",
            "The newest observation, and the forecasts made for its time that many steps earlier, in the target's "
            "unit. Where the lines coincide, the forecast was right.",
            (f'rps_target_value{{{SERVED}, unique_id=~"$unique_id"}}', "truth"),
            (
                f'rps_forecast_value{{{SERVED}, unique_id=~"$unique_id", horizon=~"$horizon"}}',
                "{{horizon}} steps before",
            ),
            width=24,
            height=10,
            repeat="unique_id",
        ),
    )
    yield panels.row(
        "Live error",
        panels.chart(
            "Live error by horizon",
            "Error of the last scored forecasts, in the measure of the challenge's loss.",
            (f"rps_live_error{{{EACH}}} {SERVED_BY.format('measure')}", "{{measure}} {{horizon}} ({{instance}})"),
        ),
        panels.chart(
            "Live error over the folds'",
            "The signal of concept drift. The dashed line is the challenge's limit.",
            (f"rps_live_error_ratio{{{EACH}}}", "{{horizon}} ({{instance}})"),
            (f"max({limit})", panels.LIMIT),
        ),
        panels.chart(
            "Live skill by horizon",
            "1 minus the error over the baseline's. Below 0 the model is worse than the baseline.",
            (
                f"rps_live_skill{{{EACH}}} {SERVED_BY.format('baseline')}",
                "{{horizon}} over {{baseline}} ({{instance}})",
            ),
            unit="percentunit",
            steps=((None, "red"), (0, "green")),
        ),
        panels.chart(
            "Interval coverage by horizon",
            "Share of observed values inside their 90 % interval; it should stay between the dashed lines.",
            (f"rps_live_interval_coverage{{{EACH}}}", "{{horizon}} ({{instance}})"),
            unit="percentunit",
            steps=((None, "red"), (COVERAGE[0], "green"), (COVERAGE[1], "red")),
        ),
        panels.chart(
            "Interval width over the folds'",
            "Mean width of the intervals of the last scored forecasts over that of the folds: intervals follow the "
            "size of the last errors, so their width shows what their coverage hides.",
            (f"rps_live_interval_width_ratio{{{EACH}}}", "{{horizon}} ({{instance}})"),
            steps=panels.bad_from(WIDTH),
        ),
        panels.chart(
            "Interval scale by series",
            "The size of each series' last errors, on the target's scale, that its intervals follow.",
            (
                f'rps_interval_scale{{{SERVED}, unique_id=~"$unique_id", horizon=~"$horizon"}}',
                "{{unique_id}}, {{horizon}} steps",
            ),
        ),
        width=12,
    )
    yield panels.row(
        "Drift",
        panels.bars(
            "Drift by feature",
            "Population stability index of each feature over its own limit, largest first. At 100 % it has drifted.",
            (f"sort_desc(max by (feature) ({OFF_LIMIT}))", "{{feature}}"),
            unit="percentunit",
            width=8,
            height=20,
            steps=((None, "green"), (0.8, "yellow"), (1, "red")),
        ),
        panels.chart(
            "The features that drift most",
            "Population stability index over the limit, of the features that were among the first five.",
            (f"topk(5, max by (feature) ({OFF_LIMIT}))", "{{feature}}"),
            unit="percentunit",
            width=16,
            height=10,
            steps=panels.bad_from(1),
        ),
        panels.chart(
            "Out of distribution",
            "Share of the predicted rows with a feature outside the training range: over the last predictions (the "
            f"drift window), and over the last {SPIKE_HOURS} hours, as InputsOutOfDistribution measures it.",
            (f"rps_out_of_distribution_ratio{{{SERVED}}}", "window ({{instance}})"),
            (f"rps:out_of_distribution:ratio{{{SERVED}}}", f"{SPIKE_HOURS} hours ({{{{instance}}}})"),
            (f'max(rps_drift_threshold{{{SERVED}, signal="out_of_distribution_ratio"}})', panels.LIMIT),
            unit="percentunit",
            width=16,
            height=10,
        ),
    )
    fault = f"max by (unique_id, detector, variable) (rps_sensor_fault{{{SERVED}}})"
    age = f"(time() - rps_model_train_end_timestamp_seconds{{{SERVED}}})"
    yield panels.row(
        "Data",
        panels.chart(
            "New observations",
            f"Observations per hour that advanced a series. None for {OBSERVATIONS_HOURS} hours fires NoObservations.",
            (f'sum by (instance) (increase(rps_observations_total{{{SERVED}, arrival="newest"}}[1h]))', "{{instance}}"),
        ),
        panels.chart(
            "Forecasts met by their truth",
            "Forecasts scored per hour. Without any, no truth arrives and the live figures do not change.",
            (f"sum by (horizon) (increase(rps_forecasts_scored_total{{{SERVED}}}[1h]))", "{{horizon}} steps"),
        ),
        panels.chart(
            "Sensor faults",
            "1 while a detector finds a sensor of a series faulty; SensorFault fires then.",
            (fault, "{{unique_id}}: {{detector}}, {{variable}}"),
            steps=panels.bad_from(1),
        ),
        panels.chart(
            "Age of the training data",
            "Time since the last observation used in training.",
            (f"{age} * on (instance) group_left (challenge, version) rps_model_info", "{{challenge}} {{version}}"),
            unit="s",
        ),
        width=12,
    )
