"""What the two protocols of tables share: the Open Inference Protocol and MLflow's scoring."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.protocols.problems import Problem, located, wrong_field

FloatArray = NDArray[np.float64]
Document = TypeVar("Document")

MOST_NAMES: Final = 20
"""How many columns one message names; a table may have thousands."""


def read_json(decoder: msgspec.json.Decoder[Document], body: bytes) -> Document:
    """Decode ``body``, in which a bare NaN stands for null: so do tritonclient and MLflow's client write it.

    Raises Problem 400 when it is not JSON, and 422 when it does not have the decoder's form.
    """
    try:
        str(body, "utf-8")  # the decoder does not look into the fields that it skips
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            if b"NaN" not in body:
                raise Problem(400, f"the body is not JSON: {error}") from error
        return decoder.decode(_with_null(body))
    except msgspec.ValidationError as error:
        raise _wrong_form(str(error)) from error
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8: byte {error.start}") from error
    except RecursionError as error:
        raise Problem(400, "the body is nested too deeply; no form of a request needs more than four levels") from error


def _with_null(body: bytes) -> bytes:
    """The same JSON with null for every NaN. Raises Problem 400 for Infinity, and for what is not JSON."""
    try:
        return msgspec.json.encode(json.loads(body, parse_constant=_nan_only, parse_float=_finite))
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error


def _nan_only(name: str) -> None:
    if name != "NaN":
        raise ValueError(f"{name} is no number; send null, or NaN, for a missing one")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} does not fit a double")
    return number


def _wrong_form(message: str) -> Problem:
    detail, parts = located(message)
    pointer = "".join(f"/{part}" for part in takewhile("...".__ne__, parts))
    if absent := re.fullmatch(r"Object missing required field `(\w+)`", detail):
        return wrong_field(f"{pointer}/{absent[1]}", "missing")
    return wrong_field(pointer, detail.replace("`", ""))


def check_rows(rows: int, most_rows: int, pointer: str) -> int:
    """The number of rows; raises Problem 422 when there is none, and 413 when there are more than ``most_rows``."""
    if rows == 0:
        raise wrong_field(pointer, "expected at least one row; found none")
    if rows > most_rows:
        raise wrong_field(pointer, f"expected at most {most_rows} rows; found {rows}; send them in parts", 413)
    return rows


def numbers(flat: list[Any], pointer: Callable[[int], str]) -> FloatArray:
    """Parsed JSON numbers as an array, null becoming NaN; raises Problem 422 for anything else, or beyond a double."""
    if not set(map(type, flat)) <= {float, int, type(None)}:
        position = next(i for i, value in enumerate(flat) if type(value) not in {float, int, type(None)})
        raise wrong_field(pointer(position), f"expected a number or null; found {shown(flat[position])}")
    try:
        return np.array(flat, dtype=np.float64)
    except OverflowError:  # a whole number of more than 308 digits
        position = next(i for i, value in enumerate(flat) if type(value) is int and abs(value) > sys.float_info.max)
        raise wrong_field(pointer(position), "expected a number that fits a double") from None


def shown(value: object) -> str:
    """A value of a request for a message, never long."""
    text = "'an object'" if isinstance(value, dict) else repr(value[:40] if isinstance(value, str | list) else value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first few when they are many."""
    every = list(names)
    rest = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(name[:60] for name in every[:MOST_NAMES]) + rest
