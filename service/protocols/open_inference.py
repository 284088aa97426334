"""The Open Inference Protocol, version 2, over HTTP, with the binary tensor data extension: bytes to numbers and back.

A request is a table, as one tensor or as one tensor per column.
Source: KServe, "Open Inference Protocol (V2)", HTTP/REST; Triton, "Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from service.protocols.open_inference_types import (
    OUTPUTS,
    InferAnswer,
    InferBody,
    Output,
    OutputTensor,
    Parameters,
    Size,
    Tensor,
)
from service.protocols.problems import Field, Problem, wrong_field
from service.protocols.wire_tables import FloatArray, check_rows, listed, numbers, read_json, shown

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class InferRequest(msgspec.Struct, frozen=True):
    """What was asked: the rows to predict, and how to answer."""

    matrix: FloatArray
    """(n, number of columns), C-contiguous; NaN where a value is missing, never infinite."""
    id: str | None
    outputs: dict[str, bool]
    """`forecast`, `lower`, `upper`, in the order of the answer; and whether each comes as raw bytes after the JSON."""


_DATATYPES: Final[dict[str, np.dtype[Any]]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "BOOL": np.dtype("?"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
"""As the bytes of each are sent."""


class _QuickTensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[Size]
    datatype: str
    data: list[float | None]


class _QuickRequest(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_QuickTensor]
    id: str | None = None
    outputs: list[Output] | None = None
    parameters: Parameters | None = None


_QUICK: Final = msgspec.json.Decoder(_QuickRequest)
_GENERAL: Final = msgspec.json.Decoder(InferBody)
_ENCODER: Final = msgspec.json.Encoder()
_ALL: Final = {binary: dict.fromkeys(OUTPUTS, binary) for binary in (False, True)}


def decode(body: bytes, header_length: str | None, columns: Sequence[str], most_rows: int) -> InferRequest:
    """Read the body of POST /v2/models/{name}/infer.

    header_length: the Inference-Header-Content-Length header; None when the body is JSON and nothing else.
    columns: the names of the matrix's columns, in order. most_rows: more are refused with 413.
    Raises Problem: 400 when the body cannot be read, 413, or 422 when it does not fit the model; never anything else.
    """
    if header_length is None:
        request = _decode_quick(body, len(columns), most_rows)
        if request is not None:
            return request
        header, binary = body, memoryview(b"")
    else:
        end = _header_end(header_length, len(body))
        header, binary = body[:end], memoryview(body)[end:]
    document = read_json(_GENERAL, header)
    outputs = _requested(document.outputs, document.parameters)
    matrix = _matrix(document.inputs, binary, columns, most_rows)
    return InferRequest(matrix, document.id, outputs)


def _decode_quick(body: bytes, width: int, most_rows: int) -> InferRequest | None:
    """The usual request, one JSON tensor of flat FP64 data; None when it is any other, right or wrong."""
    try:
        request = _QUICK.decode(body)
    except (ValueError, RecursionError):
        return None  # the general way finds out what it is, or what is wrong with it
    if len(request.inputs) != 1:
        return None
    tensor = request.inputs[0]
    shape = tensor.shape
    if tensor.datatype != "FP64" or len(shape) != 2 or shape[1] != width:
        return None
    rows = shape[0]
    if not 1 <= rows <= most_rows or len(tensor.data) != rows * width:
        return None
    # The JSON decoder refuses what does not fit a double, so nothing here is infinite.
    matrix = np.array(tensor.data, dtype=np.float64).reshape(rows, width)
    return InferRequest(matrix, request.id, _requested(request.outputs, request.parameters))


def _header_end(header_length: str, body_length: int) -> int:
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 18):
        raise wrong_field(HEADER_LENGTH, f"expected a number of bytes; found {shown(header_length)}", 400)
    end = int(header_length)
    if end > body_length:
        raise wrong_field(HEADER_LENGTH, f"expected at most the body's {body_length} bytes; found {end}", 400)
    return end


def _requested(outputs: list[Output] | None, parameters: Parameters | None) -> dict[str, bool]:
    """The outputs to answer with, in the order asked; all of them when none is named."""
    default = False
    if parameters:
        default = _flag(parameters, "binary_data_output", "/parameters", default=False)
    if not outputs:
        return _ALL[default]
    requested: dict[str, bool] = {}
    for number, output in enumerate(outputs):
        where = f"/outputs/{number}"
        if output.name not in OUTPUTS:
            expected = ", ".join(OUTPUTS)
            raise wrong_field(f"{where}/name", f"expected one of {expected}; found {shown(output.name)}")
        if output.name in requested:
            raise wrong_field(f"{where}/name", f"{output.name} is asked for twice; ask once")
        given = output.parameters or {}
        for unsupported in ("classification", "shared_memory_region"):
            if unsupported in given:
                raise wrong_field(f"{where}/parameters/{unsupported}", "not supported; leave it out")
        requested[output.name] = _flag(given, "binary_data", f"{where}/parameters", default=default)
    return requested


def _flag(parameters: Parameters, name: str, where: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise wrong_field(f"{where}/{name}", f"expected true or false; found {shown(value)}")
    return value


def _matrix(tensors: list[Tensor], binary: memoryview, columns: Sequence[str], most_rows: int) -> FloatArray:
    if not tensors:
        raise wrong_field("/inputs", f"expected one tensor of shape [n, {len(columns)}], or one per column; found none")
    # One tensor is the whole table, whatever its name, unless it is named and shaped as a single column.
    whole = len(tensors) == 1 and (tensors[0].name not in columns or tensors[0].shape[1:] == [len(columns)])
    if not whole:
        _check_tensor_names([tensor.name for tensor in tensors], columns)
    width = len(columns) if whole else 1
    rows = _rows(tensors[0], 0, width, most_rows, whole=whole)
    for number, tensor in enumerate(tensors[1:], start=1):
        if (found := _rows(tensor, number, width, most_rows, whole=whole)) != rows:
            detail = f"expected {rows} rows, as the first tensor has; found {found}"
            raise wrong_field(f"/inputs/{number}/shape", detail)
    parts = list(_binary_parts(tensors, binary))
    if whole:
        return _values(tensors[0], 0, parts[0], rows, width)
    read = {
        tensor.name: _values(tensor, number, part, rows, 1)
        for number, (tensor, part) in enumerate(zip(tensors, parts, strict=True))
    }
    return np.concatenate([read[column] for column in columns], axis=1)


def _check_tensor_names(names: list[str], columns: Sequence[str]) -> None:
    known = set(columns)
    if unknown := [Field(f"/inputs/{i}/name", "no such column") for i, name in enumerate(names) if name not in known]:
        absent = listed(name for name in names if name not in known)
        raise Problem(422, f"/inputs: not among the model's columns: {absent}", unknown)
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            raise wrong_field(f"/inputs/{number}/name", f"column {shown(name)} is there twice; send it once")
        seen.add(name)
    if len(seen) < len(columns):
        raise wrong_field("/inputs", f"missing columns: {listed(column for column in columns if column not in seen)}")


def _rows(tensor: Tensor, number: int, width: int, most_rows: int, *, whole: bool) -> int:
    """The number of rows that the shape of a tensor claims, once that is a shape that fits."""
    shape, where = tensor.shape, f"/inputs/{number}/shape"
    if whole and shape == [width]:
        return 1
    if (len(shape) == 2 and shape[1] == width) or (len(shape) == 1 and not whole):
        return check_rows(shape[0], most_rows, where)
    expected = f"[n, {width}] or [{width}]" if whole else "[n] or [n, 1]"
    raise wrong_field(where, f"expected {expected}; found {shown(shape)}")


def _binary_parts(tensors: list[Tensor], binary: memoryview) -> Iterator[memoryview | None]:
    """The bytes of each tensor, None where its data is JSON; all bytes must be claimed, and none twice."""
    start = 0
    for number, tensor in enumerate(tensors):
        parameters, where = tensor.parameters or {}, f"/inputs/{number}/parameters"
        if "shared_memory_region" in parameters:
            raise wrong_field(f"{where}/shared_memory_region", "not supported; send the data in the request")
        if "binary_data_size" not in parameters:
            yield None
            continue
        if tensor.data is not None:
            raise wrong_field(f"/inputs/{number}/data", "expected data or binary_data_size; found both")
        size = parameters["binary_data_size"]
        if type(size) is not int or size < 0:
            raise wrong_field(f"{where}/binary_data_size", f"expected a number of bytes; found {shown(size)}")
        if size > len(binary) - start:
            left = len(binary) - start
            found = f"{shown(size)} bytes claimed, {left} left after the JSON; is {HEADER_LENGTH} right?"
            raise wrong_field(f"{where}/binary_data_size", found, 400)
        yield binary[start : start + size]
        start += size
    if start < len(binary):
        raise wrong_field(HEADER_LENGTH, f"{len(binary) - start} bytes after the JSON belong to no tensor", 400)


def _values(tensor: Tensor, number: int, part: memoryview | None, rows: int, width: int) -> FloatArray:
    """(rows, width) numbers of one tensor, NaN where missing."""
    where = f"/inputs/{number}"
    datatype = _DATATYPES.get(tensor.datatype)
    if datatype is None:
        expected = ", ".join(_DATATYPES)
        raise wrong_field(f"{where}/datatype", f"expected one of {expected}; found {shown(tensor.datatype)}")
    if part is not None:
        return _binary_values(part, datatype, where, rows, width)
    if tensor.data is None:
        raise wrong_field(f"{where}/data", "expected numbers; found none")
    if tensor.datatype == "FP16":
        raise wrong_field(f"{where}/datatype", "FP16 is for binary data only; call JSON numbers FP32 or FP64")
    return _json_values(tensor.data, tensor.shape, datatype, where).reshape(rows, width)


def _binary_values(part: memoryview, datatype: np.dtype[Any], where: str, rows: int, width: int) -> FloatArray:
    expected = rows * width * datatype.itemsize
    if len(part) != expected:
        detail = f"expected {expected} bytes, {datatype.itemsize} for each of {rows * width}; found {len(part)}"
        raise wrong_field(f"{where}/parameters/binary_data_size", detail)
    raw = np.frombuffer(part, dtype=datatype)
    if datatype.kind == "b" and raw.view("u1").max() > 1:
        raise wrong_field(where, "expected bytes of 0 or 1 for BOOL; found others")
    values = raw.astype(np.float64).reshape(rows, width)
    infinite = np.isinf(values)
    if infinite.any():
        row, column = divmod(int(infinite.argmax()), width)
        raise wrong_field(where, f"row {row}, column {column}: expected a finite number, or NaN when missing")
    return values


def _json_values(data: list[Any], shape: list[int], datatype: np.dtype[Any], where: str) -> FloatArray:
    flat = data
    inner = 0  # the length of the inner lists, where data is nested
    if data and type(data[0]) is list:
        inner = shape[-1] if len(shape) == 2 else 0
        if not inner or len(data) != shape[0] or any(type(row) is not list or len(row) != inner for row in data):
            raise wrong_field(f"{where}/data", f"expected numbers, flat or nested as shape {shape}; found otherwise")
        flat = list(chain.from_iterable(data))
    size = shape[0] * (shape[1] if len(shape) == 2 else 1)
    if len(flat) != size:
        raise wrong_field(f"{where}/shape", f"{shape} holds {size} numbers; data has {len(flat)}")

    def pointer(position: int) -> str:
        return f"{where}/data/{position // inner}/{position % inner}" if inner else f"{where}/data/{position}"

    if datatype.kind != "f":
        return _whole_numbers(flat, datatype, pointer)
    values = numbers(flat, pointer)
    if datatype.itemsize < 8:
        with np.errstate(over="ignore"):
            values = values.astype(datatype).astype(np.float64)
        infinite = np.isinf(values)
        if infinite.any():
            raise wrong_field(pointer(int(infinite.argmax())), "expected a number that fits FP32")
    return values


def _whole_numbers(flat: list[Any], datatype: np.dtype[Any], pointer: Callable[[int], str]) -> FloatArray:
    boolean = datatype.kind == "b"
    lowest, highest = (0, 1) if boolean else (int(np.iinfo(datatype).min), int(np.iinfo(datatype).max))
    kinds = {int, bool} if boolean else {int}
    for position, value in enumerate(flat):
        if value is not None and (type(value) not in kinds or not lowest <= value <= highest):
            expected = "true or false" if boolean else f"a whole number from {lowest} to {highest}"
            raise wrong_field(pointer(position), f"expected {expected}, or null; found {shown(value)}")
    return np.array(flat, dtype=np.float64)


def encode(
    request: InferRequest, model_name: str, model_version: str, horizons: Sequence[int], **outputs: FloatArray
) -> tuple[bytes, int | None]:
    """The body that answers ``request``, and the length of its JSON when binary data follows it, else None.

    outputs: forecast, lower and upper, each (n, number of horizons), in target units. A NaN becomes null in JSON.
    """
    answers: list[OutputTensor] = []
    parts: list[bytes] = []
    for name, binary in request.outputs.items():
        values = outputs[name]
        answer = OutputTensor(name, "FP64", list(values.shape))
        if binary:
            parts.append(values.astype("<f8", copy=False).tobytes())
            answer.parameters = {"binary_data_size": len(parts[-1])}
        else:
            answer.data = values.ravel().tolist()
        answers.append(answer)
    asked = {"horizons": ",".join(map(str, horizons))}
    header = _ENCODER.encode(InferAnswer(model_name, model_version, asked, answers, request.id))
    if not parts:
        return header, None
    return b"".join([header, *parts]), len(header)
