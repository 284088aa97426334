"""The whole recorded year, replayed through HTTP hour by hour: online, the models get what they were trained on,
and what they say is what the bundle says of the training form's features.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecasting.features.table import table_features
from forecasting.models.bundle import read_bundle
from service.model.served import Model
from tests.integration.recorded_year import possible_table
from tests.serving import SPEC, Running, observations

TOLERANCE = 1e-9
OWN = "replayed-"
"""Before the names of the series, so that the bundle's last observations of them are no part of this."""


class Pipeline:
    """One connection on which several requests are sent before their answers are read (RFC 9112, 9.3.2)."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._answers = self._connection.makefile("rb")

    def ask(self, requests: Sequence[bytes]) -> list[tuple[int, Any]]:
        """The status and JSON of each answer."""
        self._connection.sendall(b"".join(requests))
        return [self._answer() for _ in requests]

    def close(self) -> None:
        self._answers.close()
        self._connection.close()

    def _answer(self) -> tuple[int, Any]:
        status, length = int(self._answers.readline().split()[1]), 0
        while (line := self._answers.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(self._answers.read(length))


@pytest.fixture
def pipeline(service: Running) -> Iterator[Pipeline]:
    pipeline = Pipeline(service.port)
    yield pipeline
    pipeline.close()


def post(records: list[dict[str, Any]]) -> bytes:
    body = json.dumps({"observations": records}).encode()
    head = (
        f"POST /v1/observations HTTP/1.1\r\nhost: rps\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def get(unique_id: str) -> bytes:
    return f"GET /v1/forecasts/{unique_id}?features=true HTTP/1.1\r\nhost: rps\r\n\r\n".encode()


def number(value: float | None) -> float:
    return float("nan") if value is None else value


def test_online_features_and_forecasts_of_the_whole_year_equal_the_offline_ones(
    bundle: Path, pipeline: Pipeline
) -> None:
    table = possible_table()
    offline = table_features(SPEC, table)
    rows = [(record["ds"], record) for name in table.unique_ids for record in observations(table, name)]
    places = {(record["unique_id"], ds): place for place, (ds, record) in enumerate(rows)}
    online = np.full(offline.shape, np.nan)
    forecasts = np.full((len(rows), len(SPEC.horizons)), np.nan)
    refused = np.zeros(len(rows), dtype=bool)
    rows.sort(key=lambda row: row[0])
    for ds, group in groupby(rows, key=lambda row: row[0]):
        records = [record for _, record in group]
        sent = [record | {"unique_id": OWN + record["unique_id"]} for record in records]
        (status, taken), *answers = pipeline.ask([post(sent), *(get(each["unique_id"]) for each in sent)])
        assert status == 200, taken
        assert taken["newest"] == len(records)
        for record, (status, answer) in zip(records, answers, strict=True):
            place = places[record["unique_id"], ds]
            if status == 409:
                refused[place] = True
                continue
            assert status == 200, answer
            assert answer["origin"] == ds
            assert list(answer["features"]) == list(SPEC.columns)
            online[place] = [number(value) for value in answer["features"].values()]
            forecasts[place] = [each["value"] for each in answer["forecasts"]]

    # A forecast is refused where the target at the origin, or its longest rolling statistic, is not defined.
    longest = [name for name in SPEC.columns if name.startswith("temperature_rolling_mean")][-1]
    needed = offline[:, [SPEC.origin_column, SPEC.columns.index(longest)]]
    assert np.array_equal(refused, np.isnan(needed).any(axis=1))
    assert 0 < refused.sum() < 0.01 * len(rows)

    shown = ~refused
    assert np.array_equal(np.isnan(online[shown]), np.isnan(offline[shown]))
    assert np.nanmax(np.abs(online[shown] - offline[shown])) <= TOLERANCE
    model = Model(read_bundle(bundle), "1")
    for place, horizon in enumerate(SPEC.horizons):
        columns = [SPEC.columns.index(name) for name in SPEC.columns_for(horizon)]
        expected = model.bundle.predict(horizon, offline[shown][:, columns])
        assert np.max(np.abs(forecasts[shown, place] - expected)) <= TOLERANCE
