"""Baselines: forecasts so simple that a model must beat them. A table by kind, from which a challenge names its own.

Each is a specification (what the challenge says), two forms that give the same numbers to the bit, one over a table of
observations and one for a single moment, and how far back they read. Neither reads anything later than the origin.
Where a baseline cannot be computed, it is the target at the origin; without that, there is no forecast.

A challenge is read where NumPy is not installed (by Airflow's scheduler), so only what computes imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol, Self

from msgspec import Meta, Struct

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from forecasting.challenge.scales import TargetScale

    FloatArray = npt.NDArray[np.float64]

MINUTES_PER_DAY = 1440
FEWEST_PAIRS = 3
"""The mean change by time of day is of at least so many days: fewer would add more noise than they explain."""

Correction = Callable[["FloatArray", "FloatArray"], float]
"""Of truths and forecasts on the target's scale, (n,) each: what the latter should have been changed by."""
Mistake = tuple[str, str, str]
"""A key of a baseline, what was expected there, and what was found."""


class Grid(Protocol):
    """What a baseline knows of the target; a `FeatureSpec` is one."""

    @property
    def target(self) -> str: ...
    @property
    def step_minutes(self) -> int: ...
    @property
    def horizons(self) -> tuple[int, ...]: ...
    @property
    def variables(self) -> tuple[str, ...]:
        """Those that a series' state holds, the target first."""

    @property
    def target_scale(self) -> TargetScale:
        """Changes of the target are averaged on it, and its features are on it; all else is in the target's unit."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The features, in the order of an input row."""


class Origins(Protocol):
    """Rows of a table, each an origin, as a baseline reads them: one value for each of them."""

    def at_origins(self, variable: str, age: int) -> FloatArray:
        """The variable ``age`` steps before each origin: (rows,), NaN when missing."""

    def feature_at_origins(self, name: str) -> FloatArray:
        """A feature of each origin: (rows,), NaN when missing."""


class _Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds share, and what most of them need not say."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def title(self) -> str:
        """What people call it: `climatology (28 days)`."""
        return self.kind

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features that it reads."""
        return ()

    def lookback(self, step_minutes: int) -> int:  # noqa: ARG002 - most read the origin alone
        """How many steps before the origin it reads the target."""
        return 0

    def mistakes(self, step_minutes: int, horizons: Sequence[int], alike: Sequence[str]) -> Iterator[Mistake]:  # noqa: ARG002
        """What does not fit the target. alike: the variables that a feature reads and that have the target's unit."""
        yield from ()


class _Ready(_Kind, frozen=True):
    """A kind that learns nothing in training."""

    def fitted(
        self,
        features: Mapping[str, FloatArray],  # noqa: ARG002
        targets: Mapping[int, FloatArray],  # noqa: ARG002
        correction: Correction,  # noqa: ARG002
    ) -> Self:
        return self


class Persistence(_Ready, frozen=True, tag="persistence"):
    """The target at the origin, whatever the horizon."""

    def over_table(self, grid: Grid, origins: Origins) -> FloatArray:
        """(rows, horizons)."""
        import numpy as np

        return np.stack([origins.at_origins(grid.target, 0)] * len(grid.horizons), axis=1)

    def at_moment(self, grid: Grid, columns: Sequence[Sequence[float]], row: Sequence[float]) -> list[float]:  # noqa: ARG002
        """One value per horizon. columns: by ``grid.variables``, the last values, oldest first, the origin at -1, the
        target at least ``lookback`` + 1 of them; row: the features, by ``grid.columns``. NaN when missing.
        """
        return [columns[0][-1]] * len(grid.horizons)


class Climatology(_Ready, frozen=True, tag="climatology"):
    """The target at the origin, plus its mean change between the same two times of day over the last ``days`` days.

    ŷ(t + h) = y(t) + mean over d = ⌈h/day⌉ … days of [y(t + h - d·day) - y(t - d·day)], over the days of which both
    values are known; y(t) with fewer than FEWEST_PAIRS of them. Differences and sum are on the target's scale.
    """

    days: Annotated[int, Meta(ge=1)] = 28

    @property
    def title(self) -> str:
        return f"{self.kind} ({self.days} days)"

    def lookback(self, step_minutes: int) -> int:
        return self.days * (MINUTES_PER_DAY // step_minutes)

    def mistakes(self, step_minutes: int, horizons: Sequence[int], alike: Sequence[str]) -> Iterator[Mistake]:  # noqa: ARG002
        if MINUTES_PER_DAY % step_minutes:
            expected = f"another kind when a day is no whole number of steps of {step_minutes} minutes"
            yield "kind", expected, repr(self.kind)
        else:
            needed = -(-max(horizons) * step_minutes // MINUTES_PER_DAY) + FEWEST_PAIRS - 1
            if self.days < needed:
                yield "days", f"at least {needed} for a horizon of {max(horizons)} steps", repr(self.days)

    def over_table(self, grid: Grid, origins: Origins) -> FloatArray:
        """As ``Persistence.over_table``."""
        import numpy as np

        now = origins.at_origins(grid.target, 0)
        forecasts = np.empty((len(now), len(grid.horizons)))
        for place, horizon in enumerate(grid.horizons):
            total, pairs = np.zeros(len(now)), np.zeros(len(now))
            for age in self._ages(grid, horizon):
                then = origins.at_origins(grid.target, age)
                change = grid.target_scale.changes(then, origins.at_origins(grid.target, age - horizon))
                known = ~np.isnan(change)
                total += np.where(known, change, 0.0)
                pairs += known
            usual = np.where(pairs >= FEWEST_PAIRS, total / np.maximum(pairs, 1.0), 0.0)
            forecasts[:, place] = grid.target_scale.changed_values(now, usual)
        return forecasts

    def at_moment(self, grid: Grid, columns: Sequence[Sequence[float]], row: Sequence[float]) -> list[float]:  # noqa: ARG002
        """As ``Persistence.at_moment``."""
        target, scale = columns[0], grid.target_scale
        forecasts = []
        for horizon in grid.horizons:
            total, pairs = 0.0, 0
            for age in self._ages(grid, horizon):
                change = scale.change(target[-age - 1], target[horizon - age - 1])
                if change == change:  # noqa: PLR0124 - only NaN differs from itself
                    total += change
                    pairs += 1
            forecasts.append(scale.changed(target[-1], total / pairs if pairs >= FEWEST_PAIRS else 0.0))
        return forecasts

    def _ages(self, grid: Grid, horizon: int) -> range:
        """How long ago, in steps, each day's time of the origin was; a horizon after it is no later than the origin."""
        day = MINUTES_PER_DAY // grid.step_minutes
        return range(-(-horizon // day) * day, self.days * day + 1, day)


class Last(_Ready, frozen=True, tag="last"):
    """Another variable at the origin, such as somebody else's forecast or the current delay."""

    column: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.column}"

    def mistakes(self, step_minutes: int, horizons: Sequence[int], alike: Sequence[str]) -> Iterator[Mistake]:  # noqa: ARG002
        if self.column not in alike:
            among = ", ".join(alike)
            yield "column", f"a variable that a feature reads, in the target's unit ({among})", repr(self.column)

    def over_table(self, grid: Grid, origins: Origins) -> FloatArray:
        """As ``Persistence.over_table``."""
        import numpy as np

        now, found = origins.at_origins(grid.target, 0), origins.at_origins(self.column, 0)
        forecast = np.where(np.isnan(found) | np.isnan(now), now, found)
        return np.stack([forecast] * len(grid.horizons), axis=1)

    def at_moment(self, grid: Grid, columns: Sequence[Sequence[float]], row: Sequence[float]) -> list[float]:  # noqa: ARG002
        """As ``Persistence.at_moment``."""
        now, found = columns[0][-1], columns[grid.variables.index(self.column)][-1]
        known = found == found and now == now  # noqa: PLR0124 - only NaN differs from itself
        return [found if known else now] * len(grid.horizons)


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A linear function of the features, on the target's scale; ``weights``: one per feature."""

    intercept: float
    weights: tuple[float, ...]


class _OfFeatures(_Kind, frozen=True, tag="linear"):
    features: Annotated[tuple[str, ...], Meta(min_length=1)]

    @property
    def title(self) -> str:
        return f"{self.kind} ({', '.join(self.features)})"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.features


class FittedLinear(_OfFeatures, frozen=True):
    """A line for each horizon through ``features``; where one of these is missing, the target at the origin."""

    lines: dict[int, Line]
    """By horizon."""

    def over_table(self, grid: Grid, origins: Origins) -> FloatArray:
        """As ``Persistence.over_table``."""
        import numpy as np

        now = origins.at_origins(grid.target, 0)
        columns = [origins.feature_at_origins(name) for name in self.features]
        forecasts = np.empty((len(now), len(grid.horizons)))
        for place, horizon in enumerate(grid.horizons):
            line = self.lines[horizon]
            found = np.full(len(now), line.intercept)
            for weight, column in zip(line.weights, columns, strict=True):
                found += weight * column
            found = grid.target_scale.unscaled_values(found)
            forecasts[:, place] = np.where(np.isnan(found) | np.isnan(now), now, found)
        return forecasts

    def at_moment(self, grid: Grid, columns: Sequence[Sequence[float]], row: Sequence[float]) -> list[float]:
        """As ``Persistence.at_moment``."""
        now = columns[0][-1]
        inputs = [row[grid.columns.index(name)] for name in self.features]
        forecasts = []
        for horizon in grid.horizons:
            line = self.lines[horizon]
            found = line.intercept
            for weight, value in zip(line.weights, inputs, strict=True):
                found += weight * value
            known = found == found and now == now  # noqa: PLR0124 - only NaN differs from itself
            forecasts.append(grid.target_scale.unscaled(found) if known else now)
        return forecasts


class Linear(_OfFeatures, frozen=True):
    """Named features, such as those of HAR (Corsi 2009), by least squares on the training rows."""

    def fitted(
        self, features: Mapping[str, FloatArray], targets: Mapping[int, FloatArray], correction: Correction
    ) -> FittedLinear:
        """The line of each horizon through the rows of which all is known; of many that fit alike, the shortest.

        features: (n,) each, by name; targets: (n,) each, by horizon, on the target's scale; correction: what to add to
        a line, from its fit. Raises ValueError when no row is known.
        """
        import numpy as np

        inputs = np.stack([np.ones(len(next(iter(targets.values()))))] + [features[name] for name in self.features], 1)
        lines = {}
        for horizon, target in targets.items():
            known = np.isfinite(inputs).all(axis=1) & np.isfinite(target)
            if not known.any():
                expected = f"rows of which {', '.join(self.features)} and the target {horizon} steps ahead are known"
                raise ValueError(f"the baseline {self.title}: expected {expected}; found none")
            found = np.linalg.lstsq(inputs[known], target[known], rcond=None)[0]
            intercept, *weights = found.tolist()
            lines[horizon] = Line(intercept + correction(target[known], inputs[known] @ found), tuple(weights))
        return FittedLinear(self.features, lines)


Baseline = Persistence | Climatology | Last | Linear
"""The table: as a challenge names it, by its ``kind``."""
Fitted = Persistence | Climatology | Last | FittedLinear
"""With the numbers that training found, as a bundle carries it."""

DEFAULT = Persistence()
