"""The recorded year as it passes the quality rules, for tests that replay it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from forecasting.features.table import Table
from tests.serving import CHALLENGE, END, START, recorded_table


def possible_table(first: datetime = START, last: datetime = END) -> Table:
    """The recorded hours without values that cannot be true: the pipeline leaves them out, the service refuses them."""
    table, found = recorded_table(first, last), {}
    for name, values in table.variables.items():
        low, high = CHALLENGE.quality.ranges[name]
        found[name] = np.where((values < low) | (values > high), np.nan, values)
    return replace(table, variables=found)
