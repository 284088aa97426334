"""The documents of the Open Inference Protocol, version 2, as types: what is sent, answered and published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

INPUT: Final = "features"
OUTPUTS: Final = ("forecast", "lower", "upper")

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Parameters = dict[str, Any]
_NUMBER: Final = {"type": ["number", "boolean", "null"]}
_DATA: Final = {"items": {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]}}
"""The decoder takes anything here, to tell by its position what is wrong with it; the document says what is right."""


class Tensor(msgspec.Struct):
    """A whole table, or one of its columns. Its numbers are `data`, flat or nested, null where missing; or they follow
    the JSON as bytes, and the parameter `binary_data_size` says how many.
    """

    name: str
    shape: list[Size]
    datatype: str
    data: Annotated[list[Any], Meta(extra_json_schema=_DATA)] | None = None
    parameters: Parameters | None = None


class Output(msgspec.Struct):
    """An output to answer with: `forecast`, `lower` or `upper`; the parameter `binary_data` asks for bytes."""

    name: str
    parameters: Parameters | None = None


class InferBody(msgspec.Struct):
    """A table to predict, as one tensor of shape [n, columns] or as one per column."""

    inputs: Annotated[list[Tensor], Meta(extra_json_schema={"minItems": 1})]
    id: str | None = None
    outputs: list[Output] | None = None
    parameters: Parameters | None = None


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """Forecasts, or an end of their intervals: a row per row of the input, a column per horizon."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | UnsetType = UNSET
    data: Sequence[float | None] | UnsetType = UNSET


class InferAnswer(msgspec.Struct, omit_defaults=True):
    """The answer to `POST …/infer`."""

    model_name: str
    model_version: str
    parameters: dict[str, str]
    outputs: list[OutputTensor]
    id: str | None = None


class Ready(msgspec.Struct, frozen=True):
    """The answer of GET /v2/health/ready, and of the model's own."""

    ready: bool


class Live(msgspec.Struct, frozen=True):
    """The answer of GET /v2/health/live."""

    live: bool


class TensorMetadata(msgspec.Struct, frozen=True):
    """One tensor as a model publishes it; -1 in the shape is any number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, str]


class ModelMetadata(msgspec.Struct, frozen=True):
    """The answer of GET /v2/models/{name}."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ServerMetadata(msgspec.Struct, frozen=True):
    """The answer of GET /v2."""

    name: str
    version: str
    extensions: tuple[str, ...]


def model_metadata(name: str, version: str, columns: Sequence[str], horizons: Sequence[int]) -> ModelMetadata:
    """The model's tensors. The names of the columns and the horizons, in order, are parameters, comma-separated."""
    asked = {"horizons": ",".join(map(str, horizons))}
    return ModelMetadata(
        name=name,
        versions=(version,),
        platform="plain_arrays",
        inputs=(TensorMetadata(INPUT, "FP64", (-1, len(columns)), {"columns": ",".join(columns)}),),
        outputs=tuple(TensorMetadata(output, "FP64", (-1, len(horizons)), asked) for output in OUTPUTS),
    )
