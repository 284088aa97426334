"""The predictions of every model on one hold-out, as arrays: what a comparison of models is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

COLUMNS = (
    "unique_id", "ds", "horizon", "truth", "persistence", "candidate", "candidate_lower", "candidate_upper",
    "production", "production_lower", "production_upper", "compared",
)  # fmt: skip
"""The columns of `losses.parquet`, of which a panel is made."""


class PanelError(Exception):
    """The predictions cannot be compared: the message says which column, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One entry per series, origin and horizon that every model predicts; all (n,), values in the target's unit.

    origin: when the forecast was made, UTC, to the second. production is None when no model is in production, or when
    it could not be compared.
    """

    unique_id: npt.NDArray[np.str_]
    origin: npt.NDArray[np.datetime64]
    horizon: npt.NDArray[np.int64]
    truth: FloatArray
    persistence: FloatArray
    candidate: FloatArray
    candidate_lower: FloatArray
    candidate_upper: FloatArray
    production: FloatArray | None


def read_panel(columns: Mapping[str, npt.NDArray[np.generic]]) -> Panel:
    """The compared rows of `losses.parquet`, checked: columns there, numbers finite, no row twice, one truth a target.

    Raises PanelError.
    """
    raise NotImplementedError
