"""What can drift, and the GitHub event that says so: written by alerts and their relay, read by retraining."""

from __future__ import annotations

from typing import Final, Literal, get_args

DriftKind = Literal["inputs", "features", "concept"]
KINDS: Final[tuple[DriftKind, ...]] = get_args(DriftKind)
EVENT_TYPE = "model-drift"
"""Of the `repository_dispatch` event. `.github/workflows/retrain.yml` listens for it."""
