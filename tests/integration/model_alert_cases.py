"""What the alerts of a model must say of which series; as in `alert_cases.py`, which has the others."""

from __future__ import annotations

from tests.integration.alert_series import (
    DAY,
    HOUR,
    A,
    B,
    Case,
    Fires,
    absent,
    arrived,
    counter,
    gauge,
    gone,
    info,
    live,
    rows,
    stability,
)

WEATHER = {"challenge": "weather", "version": "3"}

NONE = Fires("No new observation of weather has arrived for 6 hours.", {"challenge": "weather"})
NO_OBSERVATIONS = [
    Case(
        "six hours and a quarter after the last one, until the next",
        {info(): gauge((120, 1)), **arrived(counter((24, 1), (80, 0), (2, 1)))},
        {"8h": [], "8h10m": [], "8h15m": [NONE], "8h40m": [NONE], "8h45m": []},
    ),
    Case(
        "a service that has just been started, and then goes on without any",
        {info(): gauge((120, 1)), **arrived(gauge((120, 0)))},
        {"20m": [], "5h55m": [], "6h10m": [], "6h15m": [NONE]},
    ),
    Case(
        "the same over a restart",
        {info(): gauge((120, 1)), **arrived(gauge((60, 9), (60, 0)))},
        {"6h10m": [], "6h15m": [NONE]},
    ),
    Case(
        "one an hour",
        {info(): gauge((180, 1)), **arrived(counter(*[(11, 0), (1, 3)] * 14))},
        {"7h": [], "13h50m": []},
    ),
    Case(
        "all of them go to the other replica",
        {
            info(): gauge((120, 1)),
            info(B): gauge((120, 1)),
            **arrived(gauge((120, 0))),
            **arrived(counter((120, 1)), where=B),
        },
        {"9h": []},
    ),
    Case(
        "only repeated ones come",
        {info(): gauge((120, 1)), **arrived(gauge((120, 0))), **arrived(counter((120, 1)), "repeated")},
        {"9h": [NONE]},
    ),
    Case(
        "the service is down: another alert",
        {info(): gone(gauge((100, 1))), **arrived(gone(gauge((100, 0))))},
        {"8h15m": [NONE], "8h20m": []},
    ),
]


def sensor(values: str, unique_id: str = "JFK", where: str = A) -> dict[str, str]:
    labels = f'{where},unique_id="{unique_id}",detector="physics",variable="humidity"'
    return {f"rps_sensor_fault{{{labels}}}": values}


def faulty(unique_id: str) -> Fires:
    labels = {"challenge": "weather", "unique_id": unique_id, "detector": "physics", "variable": "humidity"}
    return Fires(f"A sensor of {unique_id} in weather looks faulty: physics blames humidity.", labels)


SENSOR_FAULT = [
    Case(
        "of one series, from the first look on until it is repaired",
        {
            info(): gauge((60, 1)),
            **sensor(gauge((20, 0), (10, 1), (30, 0))),
            **sensor(gauge((60, 0)), unique_id="EWR"),
        },
        {"15m": [], "20m": [faulty("JFK")], "29m": [faulty("JFK")], "30m": []},
    ),
    Case(
        "two replicas give one alert, each series its own",
        {
            info(): gauge((60, 1)),
            info(B): gauge((60, 1)),
            **sensor(gauge((60, 1))),
            **sensor(gauge((60, 1)), where=B),
            **sensor(gauge((60, 1)), unique_id="EWR", where=B),
        },
        {"30m": [faulty("EWR"), faulty("JFK")]},
    ),
    Case("the service is gone", {info(): gone(gauge((20, 1))), **sensor(gone(gauge((20, 1))))}, {"30m": []}),
]


def unusual(share: str) -> Fires:
    shown = f"{share} of the last rows of weather have a feature outside what version 3 was trained on."
    return Fires(shown, WEATHER)


INPUTS_OUT_OF_DISTRIBUTION = [
    Case(
        "a quarter of the day's rows, until they are usual again; two replicas give one alert",
        {
            info(): gauge((3 * DAY, 1)),
            info(B): gauge((3 * DAY, 1)),
            **rows(counter((DAY, 0), (6 * HOUR, 1), (DAY, 0)), counter((3 * DAY, 1))),
            **rows(counter((DAY, 0), (6 * HOUR, 1), (DAY, 0)), counter((3 * DAY, 1)), where=B),
        },
        {"28h40m": [], "29h40m": [], "30h": [unusual("25%")], "50h": []},
    ),
    Case(
        "just the limit",
        {info(): gauge((3 * DAY, 1)), **rows(counter((2 * DAY, 1)), counter((2 * DAY, 5)))},
        {"26h": [], "47h": []},
    ),
    Case(
        "all of few rows",
        {info(): gauge((3 * DAY, 1)), **rows(counter((2 * DAY, 0.2)), counter((2 * DAY, 0.2)))},
        {"26h": [], "47h": []},
    ),
    Case(
        "no rows for a day",
        {info(): gauge((3 * DAY, 1)), **rows(counter((HOUR, 9), (2 * DAY, 0)), counter((HOUR, 9), (2 * DAY, 0)))},
        {"26h": [], "47h": []},
    ),
    Case(
        "a service that has just been started",
        {info(): gauge((3 * DAY, 1)), **rows(counter((2 * DAY, 1)), counter((2 * DAY, 1)))},
        {"12h": [], "24h50m": [], "25h": [unusual("100%")]},
    ),
    Case(
        "a new model ends it, and is not blamed for what the old one had seen",
        {
            info(): gone(gauge((30 * HOUR, 1))),
            info(version="4"): f"{absent(30 * HOUR)} {gauge((30 * HOUR, 1))}",
            **rows(
                f"{counter((30 * HOUR - 1, 1))} {counter((30 * HOUR, 0))}",
                f"{counter((30 * HOUR - 1, 1))} {counter((30 * HOUR, 1))}",
            ),
        },
        {"29h50m": [unusual("100%")], "30h": [], "40h": [], "52h": [], "56h": []},
    ),
]

MOVED = " of the features of weather lie farther from what version 3 was trained on than training itself ever did."
FEATURE_DRIFT = [
    Case(
        "after an hour, until it is back; two replicas give one alert",
        {
            info(): gauge((300, 1)),
            info(B): gauge((300, 1)),
            **stability(gauge((60, 0.2), (120, 0.3), (120, 0.2))),
            **stability(gauge((60, 0.2), (120, 0.9), (120, 0.2)), "lag_1"),
            **stability(gauge((60, 0.2), (120, 0.3), (120, 0.2)), where=B),
        },
        {"1h": [], "1h59m": [], "2h": [Fires(f"2{MOVED}", WEATHER)], "2h59m": [Fires(f"2{MOVED}", WEATHER)], "3h": []},
    ),
    Case("just the limit", {info(): gauge((300, 1)), **stability(gauge((300, 0.25)))}, {"1h": [], "4h": []}),
    Case(
        "for less than an hour",
        {info(): gauge((300, 1)), **stability(gauge((60, 0.2), (50, 0.9), (190, 0.2)))},
        {"1h49m": [], "2h": [], "4h": []},
    ),
    Case("too few rows for an index", {info(): gauge((300, 1))}, {"4h": []}),
    Case(
        "a new model ends it",
        {
            info(): gone(gauge((180, 1))),
            info(version="4"): f"{absent(180)} {gauge((120, 1))}",
            **stability(gone(gauge((180, 0.9)))),
        },
        {"2h59m": [Fires(f"1{MOVED}", WEATHER)], "3h": [], "4h30m": []},
    ),
    Case(
        "each challenge has its own",
        {
            info(): gauge((300, 1)),
            info(B, challenge="crypto"): gauge((300, 1)),
            **stability(gauge((300, 0.1))),
            **stability(gauge((300, 0.9)), where=B),
        },
        {"4h": [Fires(f"1{MOVED}".replace("weather", "crypto"), {"challenge": "crypto", "version": "3"})]},
    ),
]

WORSE = Fires("The live error of weather is 1.6 times what version 3 had on its folds.", WEATHER)
CONCEPT_DRIFT = [
    Case(
        "after an hour, until it is less",
        {info(): gauge((300, 1)), **live("rps_live_error_ratio", gauge((60, 1.2), (120, 1.6), (120, 1.4)), 1500)},
        {"1h": [], "1h59m": [], "2h": [WORSE], "2h59m": [WORSE], "3h": []},
    ),
    Case(
        "just the limit",
        {info(): gauge((300, 1)), **live("rps_live_error_ratio", gauge((300, 1.5)), 6000)},
        {"4h": []},
    ),
    Case(
        "too few forecasts have met their truth",
        {info(): gauge((300, 1)), **live("rps_live_error_ratio", gauge((300, 9)), 1499)},
        {"4h": []},
    ),
    Case(
        "one horizon alone",
        {info(): gauge((300, 1)), **live("rps_live_error_ratio", gauge((300, 9)), 6000, horizon="6")},
        {"4h": []},
    ),
    Case(
        "a new model ends it",
        {
            info(): gone(gauge((180, 1))),
            info(version="4"): f"{absent(180)} {gauge((120, 1))}",
            **live("rps_live_error_ratio", gone(gauge((180, 1.6))), 6000),
        },
        {"2h59m": [WORSE], "3h": [], "4h30m": []},
    ),
    Case(
        "two replicas give one alert, of the larger error",
        {
            info(): gauge((300, 1)),
            info(B): gauge((300, 1)),
            **live("rps_live_error_ratio", gauge((300, 1.6)), 6000),
            **live("rps_live_error_ratio", gauge((300, 1.55)), 6000, where=B),
        },
        {"4h": [WORSE]},
    ),
]


def covered(share: str) -> Fires:
    shown = f"{share} of the truths of weather lie in their interval; between 82 % and 97 % should."
    return Fires(shown, WEATHER)


INTERVAL_COVERAGE = [
    Case(
        "too few, until there are enough",
        {
            info(): gauge((300, 1)),
            **live("rps_live_interval_coverage", gauge((60, 0.9), (120, 0.81), (120, 0.83)), 1500),
        },
        {"1h59m": [], "2h": [covered("81%")], "3h": []},
    ),
    Case(
        "too many",
        {info(): gauge((300, 1)), **live("rps_live_interval_coverage", gauge((300, 0.98)), 6000)},
        {"4h": [covered("98%")]},
    ),
    Case(
        "just the limits",
        {
            info(): gauge((300, 1)),
            info(B): gauge((300, 1)),
            **live("rps_live_interval_coverage", gauge((300, 0.82)), 6000),
            **live("rps_live_interval_coverage", gauge((300, 0.97)), 6000, where=B),
        },
        {"4h": []},
    ),
    Case(
        "too few forecasts have met their truth",
        {info(): gauge((300, 1)), **live("rps_live_interval_coverage", gauge((300, 0.5)), 1499)},
        {"4h": []},
    ),
]

WIDER = Fires("The intervals of weather are 1.8 times as wide as on the folds of version 3.", WEATHER)
INTERVAL_WIDTH = [
    Case(
        "after an hour, until they are narrower",
        {
            info(): gauge((300, 1)),
            **live("rps_live_interval_width_ratio", gauge((60, 1.2), (120, 1.8), (120, 1.7)), 1500),
        },
        {"1h59m": [], "2h": [WIDER], "2h59m": [WIDER], "3h": []},
    ),
    Case(
        "just the limit, and narrow ones",
        {
            info(): gauge((300, 1)),
            info(B): gauge((300, 1)),
            **live("rps_live_interval_width_ratio", gauge((300, 1.75)), 6000),
            **live("rps_live_interval_width_ratio", gauge((300, 0.1)), 6000, where=B),
        },
        {"4h": []},
    ),
    Case(
        "too few forecasts have met their truth",
        {info(): gauge((300, 1)), **live("rps_live_interval_width_ratio", gauge((300, 5)), 1499)},
        {"4h": []},
    ),
]
