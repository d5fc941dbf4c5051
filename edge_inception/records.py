"""Records of file formats: a strict reader of JSON, and a writer of plain JSON.

Each file format has one module with its ``Record``, its version and its reader, which use this
module. All other code uses the fields of records, never the keys of a file.

Unknown, missing and duplicate keys, wrong types, numbers out of range, NaN, nesting too deep for
Python and strings that are no Unicode raise InputError, which names file, place, got and wanted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from edge_inception.errors import InputError

MAX_BYTES = 512 << 20
"""Largest size in bytes of a JSON file that is read."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record of a file: frozen, keyword-only, and unknown keys are refused."""


class SparseRecord(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A record whose file omits the fields that have their default value."""


R = TypeVar("R")


def read(kind: type[R], path: Path, *, hint: str, allow_nan: bool = False) -> R:
    """The record in a JSON file; ``kind`` is its type, which ``msgspec.convert`` knows.

    ``hint`` says what to do about a file that holds no such record. ``allow_nan`` accepts NaN and
    infinities, which standard JSON does not have.

    Raises:
        InputError: The file cannot be read, or does not hold such a record.
    """
    value = read_json(path, hint=hint, allow_nan=allow_nan)
    return convert(kind, value, where=str(path), hint=hint)


def read_json(path: Path, *, hint: str, allow_nan: bool = False) -> Any:
    """The JSON value in a file, as ``parse`` reads it.

    Raises:
        InputError: The file cannot be read, is not JSON, or is longer than 512 MiB.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is longer than {MAX_BYTES >> 20} MiB of JSON", hint=hint)
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    return parse(text, where=str(path), hint=hint, allow_nan=allow_nan)


def parse(text: bytes | str, *, where: str, hint: str, allow_nan: bool = False) -> Any:
    """The value of a JSON text, in UTF-8 if it is bytes; ``where`` names the text in errors.

    Raises:
        InputError: The text is not JSON, or has a key twice in one object, a number that is
            infinite or has over 4,300 digits, nesting too deep for Python, or half of a surrogate
            pair (a string that is no Unicode).
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=None if allow_nan else _finite,
            parse_constant=None if allow_nan else _finite,
        )
        written = text.encode() if isinstance(text, str) else text
        if _SURROGATE.search(written):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InputError(f"{where} is not readable JSON: nested too deep", hint=hint) from error
    except ValueError as error:  # bad encoding, duplicate keys and bad numbers are ValueErrors too
        reason = str(error).splitlines()[0].partition("; use sys.")[0]
        raise InputError(f"{where} is not readable JSON: {reason}", hint=hint) from error
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' twice")
    return unique


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def convert(kind: type[R], value: Any, *, where: str, hint: str) -> R:
    """A JSON value as a record of ``kind``.

    Raises:
        InputError: The value is no such record; the message names ``where``, the place in the
            value, got and wanted.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _raise_invalid(str(error), value, where, hint, error)
    except (RecursionError, OverflowError) as error:
        raise InputError(f"{where} holds a value beyond all bounds: {error}", hint=hint) from error


_PLACE = re.compile(r" - at `(?:key in )?(\$[^`]*)`$")
_EXPECTED = re.compile(r"Expected (?P<wanted>.*?)(?:, got (?P<got>.*))?$")


def _raise_invalid(reason: str, value: Any, where: str, hint: str, error: Exception) -> NoReturn:
    match = _PLACE.search(reason)
    place = match[1].removeprefix("$").removeprefix(".") if match else ""
    problem = reason[: match.start()] if match else reason
    if expected := _EXPECTED.match(problem):
        got = expected["got"] or _text_at(value, place)
        problem = f"got {got}, wanted {expected['wanted']}".replace("`", "")
    else:
        problem = problem[0].lower() + problem[1:].replace("`", "'")
    at = f", at {place}" if place else ""
    raise InputError(f"{where}{at}: {problem}", hint=hint) from error


def _text_at(value: Any, place: str) -> str:
    """The value at ``place`` as a short text; msgspec writes a mapping's key there as ``[...]``."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", place):
        if index == "...":
            return "another value"
        value = value[int(index)] if index else value[name]
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 -- one line of a terminal


def plain(value: Any) -> Any:
    """A record as values that ``json`` writes: dictionaries, tuples, lists, texts, numbers, None.

    A tuple stays a tuple, which becomes a list once it is written and read back.
    """
    return msgspec.to_builtins(value, builtin_types=(), str_keys=True)


def to_json(value: Any, *, indent: int | None = 2) -> bytes:
    """A record as the JSON text of its file, with sorted keys and a line break at the end."""
    return json.dumps(plain(value), indent=indent, sort_keys=True).encode() + b"\n"
