"""The detectors of faulty sensors as a challenge names them, and what each must keep to.

`forecasting.drift.sensor_faults` holds what they compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from forecasting.challenge.values import Name, Positive, PositiveFloat


class _Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds share. ``steps``: how many of the last steps a verdict looks at; ``variable``: what is blamed."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    def mistakes(self, series: Sequence[str]) -> Iterator[tuple[str, str, str]]:  # noqa: ARG002 - most look at one
        """What does not fit: key (empty: the detector as a whole), expected, found. series: those of the challenge."""
        yield from ()


class Physics(_Kind, frozen=True, tag="physics"):
    """Relative humidity (%) against what temperature and dew point (°C) say that it is."""

    temperature: Name
    dew_point: Name
    humidity: Name
    points: PositiveFloat = 3.0
    """By how many percentage points it may be off."""
    at_least: Positive = 4
    """In how many of the last ``steps`` steps it must be off by more."""
    steps: Positive = 6

    @property
    def variable(self) -> Name:
        return self.humidity

    @property
    def reads(self) -> dict[str, Name]:
        return {"temperature": self.temperature, "dew_point": self.dew_point, "humidity": self.humidity}

    def mistakes(self, series: Sequence[str]) -> Iterator[tuple[str, str, str]]:  # noqa: ARG002
        if self.at_least > self.steps:
            yield "at_least", f"at most steps ({self.steps})", str(self.at_least)


class Neighbours(_Kind, frozen=True, tag="neighbours"):
    """A series against the mean of the others at the same time: a two-sided CUSUM over the last ``steps`` steps."""

    variable: Name
    allowance: PositiveFloat = 2.5
    """What each step takes off the sum, in standard deviations."""
    winsor: PositiveFloat = 3.0
    """The most that one step counts, in standard deviations."""
    limit: PositiveFloat = 16.5
    """Above this sum, it is a fault."""
    steps: Positive = 48
    days: Positive = 112
    """From how many days the usual difference by hour is taken: it moves with the seasons."""

    @property
    def reads(self) -> dict[str, Name]:
        return {"variable": self.variable}

    def mistakes(self, series: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        if len(series) < 2:
            yield "", "at least two series to compare", f"only {series[0]}; delete this detector"
        largest = self.steps * (self.winsor - self.allowance)
        if self.limit >= largest:
            expected = f"less than steps · (winsor - allowance), the largest sum that there can be ({largest:g})"
            yield "limit", expected, f"{self.limit:g}"


class Runs(_Kind, frozen=True, tag="runs"):
    """The same value ``steps`` times in a row."""

    variable: Name
    steps: Annotated[int, Meta(ge=2)] = 12

    @property
    def reads(self) -> dict[str, Name]:
        return {"variable": self.variable}


Detector = Physics | Neighbours | Runs
"""``reads``: by key, every variable that a kind needs."""


def steps_kept(detector: Detector, target: str, lookback: int, target_lookback: int) -> int:
    """How many steps the service keeps of what the detector reads.

    lookback: of the features, which read every variable; target_lookback: of the baseline, which reads the target.
    """
    alone = set(detector.reads.values()) == {target}
    return 1 + (max(lookback, target_lookback) if alone else lookback)
