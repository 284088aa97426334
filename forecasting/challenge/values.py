"""The values that the keys of a challenge can have, wherever they are written again."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
SeriesId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$(?!\n)")]  # `$` alone lets a last \n through
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[int, Meta(ge=0)]
Statistic = Literal["mean", "std", "min", "max"]
Cycle = Literal["hour_of_day", "day_of_week", "day_of_year"]
