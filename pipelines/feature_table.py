"""Reading `features.parquet`, which `transform` wrote, as the specification at hand expects it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clients.errors import ConfigurationError
from forecasting.features.spec import FeatureSpec, target_column
from pipelines.parquet import read_parquet


def read_features(path: Path, spec: FeatureSpec) -> pd.DataFrame:
    """`unique_id`, `ds` (the origin), `y`, the specification's columns, and a target for each horizon.

    Raises ConfigurationError when the file is missing, damaged, or was made from another specification.
    """
    wanted = ["unique_id", "ds", "y", *spec.columns, *map(target_column, spec.horizons)]
    try:
        lacking = set(wanted) - set(pq.read_schema(path).names)
        if lacking:
            message = f"{path} was made for other features (no {', '.join(sorted(lacking))})"
            raise ConfigurationError(f"{message}: run the stage 'transform' again.")
        return read_parquet(path, wanted).to_pandas(use_threads=False)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: run the stage 'transform' first.") from None
    except (pa.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}): run the stage 'transform' again.") from error
