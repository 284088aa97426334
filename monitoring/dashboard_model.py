"""The dashboard of the served model as a model: forecast and truth, live error and skill, drift, releases."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models import dashboard as models

from monitoring.alerts import COVERAGE, OBSERVATIONS_HOURS, SPIKE_HOURS
from monitoring.dashboard_panels import (
    LIMIT,
    Panel,
    Query,
    alerts_now,
    bad_from,
    bars,
    chart,
    dashboard,
    firing,
    number,
    releases,
    variable,
)

SERVED = 'instance=~"$instance"'
ALL = f'{SERVED}, horizon="all"'
EACH = f'{SERVED}, horizon=~"$horizon|all"'
OFF_LIMIT = (
    f"rps_population_stability_index{{{SERVED}}} / on (instance, feature) rps_population_stability_limit{{{SERVED}}}"
)


def model_dashboard() -> models.Dashboard:
    served = 'rps_model_info{challenge=~"$challenge"}'
    return dashboard(
        "model",
        "Is the model still good, and does the data still look like its training data?",
        {"": _first(), "Forecast and truth": _truth(), "Live error": _error(), "Drift": _drift(), "Data": _data()},
        [
            variable("challenge", "Challenge", "What is predicted", "rps_model_info"),
            variable("instance", "Instance", "A process of the service", served),
            variable("unique_id", "Series", "A series of the challenge", f"rps_target_value{{{SERVED}}}"),
            variable("horizon", "Horizon", "Steps ahead", f"rps_forecast_value{{{SERVED}}}", numbers=True),
        ],
        [releases(SERVED), firing("model")],
        refresh="1m",
        since="now-2d",
    )


def _first() -> Sequence[Panel]:
    return (
        number(
            "Version",
            "The served version. Two versions mean that a release is in progress or a replica was not updated.",
            "none",
            Query(f"max by (challenge, version) (rps_model_info{{{SERVED}}})", "{{challenge}} {{version}}"),
            names=True,
        ),
        alerts_now("model"),
        number(
            "Concept drift",
            "Live error over the hold-out's, as a share of the challenge's limit. At 100 % it is concept drift.",
            "percentunit",
            Query(
                f"max(rps_live_error_ratio{{{ALL}}} "
                f'/ on (instance) rps_drift_threshold{{{SERVED}, signal="live_error_ratio"}})',
                "of the limit",
            ),
            steps=((None, "green"), (0.8, "yellow"), (1, "red")),
        ),
        number(
            "Live skill",
            "1 minus the live error over persistence's. Below 0, the last value would have been the better forecast.",
            "percentunit",
            Query(f"min(rps_live_skill{{{ALL}}})", "skill"),
            steps=((None, "red"), (0, "yellow"), (0.1, "green")),
        ),
        number(
            "Interval coverage",
            "Share of observed values inside their 90 % interval. 85 to 95 % is right.",
            "percentunit",
            Query(f"min(rps_live_interval_coverage{{{ALL}}})", "coverage"),
            steps=((None, "red"), (COVERAGE[0], "green"), (COVERAGE[1], "red")),
        ),
        number(
            "Features that drifted",
            "Features whose population stability index is above their limit.",
            "none",
            Query(f"count({OFF_LIMIT} > 1) or 0 * count({OFF_LIMIT})", "features"),
            steps=bad_from(1),
        ),
    )


def _truth() -> Sequence[Panel]:
    return (
        chart(
            "$unique_id",
            "The newest observation, and the forecasts made for its time that many steps earlier, in the target's "
            "unit. Where the lines coincide, the forecast was right.",
            "none",
            Query(f'rps_target_value{{{SERVED}, unique_id=~"$unique_id"}}', "truth"),
            Query(
                f'rps_forecast_value{{{SERVED}, unique_id=~"$unique_id", horizon=~"$horizon"}}',
                "{{horizon}} steps before",
            ),
            width=24,
            height=10,
            repeat="unique_id",
        ),
    )


def _error() -> Sequence[Panel]:
    return (
        chart(
            "Live error by horizon",
            "RMSE (or MAE, depending on the challenge) of the last scored forecasts, in the target's unit.",
            "none",
            Query(f"rps_live_error{{{EACH}}}", "{{horizon}} ({{instance}})"),
            width=12,
        ),
        chart(
            "Live error over the hold-out's",
            "The signal of concept drift. The dashed line is the challenge's limit.",
            "none",
            Query(f"rps_live_error_ratio{{{EACH}}}", "{{horizon}} ({{instance}})"),
            Query(f'max(rps_drift_threshold{{{SERVED}, signal="live_error_ratio"}})', LIMIT),
            width=12,
        ),
        chart(
            "Live skill by horizon",
            "1 minus the error over persistence's. Below 0 the model is worse than the last value.",
            "percentunit",
            Query(f"rps_live_skill{{{EACH}}}", "{{horizon}} ({{instance}})"),
            width=12,
            steps=((None, "red"), (0, "green")),
        ),
        chart(
            "Interval coverage by horizon",
            "Share of observed values inside their 90 % interval; it should stay between the dashed lines.",
            "percentunit",
            Query(f"rps_live_interval_coverage{{{EACH}}}", "{{horizon}} ({{instance}})"),
            width=12,
            steps=((None, "red"), (COVERAGE[0], "green"), (COVERAGE[1], "red")),
        ),
    )


def _drift() -> Sequence[Panel]:
    return (
        bars(
            "Drift by feature",
            "Population stability index of each feature over its own limit, largest first. At 100 % it has drifted.",
            "percentunit",
            Query(f"sort_desc(max by (feature) ({OFF_LIMIT}))", "{{feature}}"),
            width=8,
            height=20,
            steps=((None, "green"), (0.8, "yellow"), (1, "red")),
        ),
        chart(
            "The features that drift most",
            "Population stability index over the limit, of the features that were among the first five.",
            "percentunit",
            Query(f"topk(5, max by (feature) ({OFF_LIMIT}))", "{{feature}}"),
            width=16,
            height=10,
            steps=bad_from(1),
        ),
        chart(
            "Out of distribution",
            "Share of the predicted rows with a feature outside the training range: over the last predictions (the "
            f"drift window), and over the last {SPIKE_HOURS} hours, as InputsOutOfDistribution measures it.",
            "percentunit",
            Query(f"rps_out_of_distribution_ratio{{{SERVED}}}", "window ({{instance}})"),
            Query(f"rps:out_of_distribution:ratio{{{SERVED}}}", f"{SPIKE_HOURS} hours ({{{{instance}}}})"),
            Query(f'max(rps_drift_threshold{{{SERVED}, signal="out_of_distribution_ratio"}})', LIMIT),
            width=16,
            height=10,
        ),
    )


def _data() -> Sequence[Panel]:
    return (
        chart(
            "New observations",
            f"Observations per hour that advanced a series. None for {OBSERVATIONS_HOURS} hours fires NoObservations.",
            "none",
            Query(
                f'sum by (instance) (increase(rps_observations_total{{{SERVED}, arrival="newest"}}[1h]))',
                "{{instance}}",
            ),
        ),
        chart(
            "Forecasts met by their truth",
            "Forecasts scored per hour. Without any, no truth arrives and the live figures do not change.",
            "none",
            Query(f"sum by (horizon) (increase(rps_forecasts_scored_total{{{SERVED}}}[1h]))", "{{horizon}} steps"),
        ),
        chart(
            "Age of the training data",
            "Time since the last observation used in training.",
            "s",
            Query(
                f"(time() - rps_model_train_end_timestamp_seconds{{{SERVED}}}) "
                "* on (instance) group_left (challenge, version) rps_model_info",
                "{{challenge}} {{version}}",
            ),
        ),
    )
