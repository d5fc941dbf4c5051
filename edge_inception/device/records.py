"""Records of the device's files: strict JSON in, plain JSON out.

A record is a ``typing.NamedTuple`` of texts, numbers, lists, dictionaries and records. Its fields
are the keys of a JSON object, no more and no fewer; a field whose default is None is left out of
the file while it is None. A file that does not fit is refused with the place, the value found and
the value wanted; in every function ``where`` names the file and ``fix`` is the refusal's advice.
The host's own files are read by ``edge_inception.records``.
This file travels to devices: Python 3.6 syntax, standard library.
"""

import json
import math
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from edge_inception.device.errors import Refusal

_MAX_INTEGER = 1 << 53  # larger integers are not exact in programs that read JSON numbers as floats
_MAX_DIGITS = 20
_MAX_SHOWN = 60
R = TypeVar("R")
Rule = Tuple[bool, str, Any, str]


class _Mismatch(Exception):
    """A value that does not fit its type, and its place in the file."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__("{}: {}".format(", at " + place if place else "", reason))


def parse(content: bytes, where: str, fix: str) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        Refusal: The text is not JSON, has a key twice in one object, a number that is not finite or
            has over 20 digits, or is nested too deep for Python.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_int=_parse_integer,
            parse_float=_parse_finite,
            parse_constant=_parse_finite,
        )
    except RecursionError as error:
        raise Refusal("{} is not JSON: nested too deep".format(where), fix) from error
    except ValueError as error:  # JSON's errors and the encoding's
        raise Refusal("{} is not JSON: {}".format(where, error), fix) from error


def _object_without_duplicates(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError("key {} twice".format(ascii(next(k for k in keys if keys.count(k) > 1))))
    return entries


def _parse_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number of {} digits".format(len(text)))
    return int(text)


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("{} is not a finite number".format(text[:_MAX_DIGITS]))
    return value


def convert(kind: Type[R], value: Any, where: str, fix: str) -> R:
    """The result of ``parse`` as a record of the NamedTuple ``kind``.

    Raises:
        Refusal: The value does not fit the record.
    """
    try:
        record: R = _convert(kind, value, "")
    except _Mismatch as error:
        raise Refusal("{}{}".format(where, error), fix) from error
    return record


def convert_versioned(kind: Any, value: Any, where: str, fix: str) -> Any:
    """As ``convert``, for a record whose fields ``schema`` and ``schema_version`` have defaults.

    Raises:
        Refusal: The value names another schema or version, or none, or does not fit the record.
    """
    schema, version = (kind._field_defaults[key] for key in ("schema", "schema_version"))
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise Refusal("{} is not of schema {}".format(where, schema), "give another file")
    got = value.get("schema_version")
    if got != version:
        raise Refusal(
            "{} has schema version {}, this program reads {}".format(
                where, ascii(got)[:_MAX_SHOWN], version
            ),
            "use the edge-inception that made the bundle",
        )
    return convert(kind, value, where, fix)


def read(kind: Type[R], content: bytes, where: str, fix: str) -> R:
    """The record in a JSON text, by ``parse`` and ``convert``, whose refusals it raises."""
    return convert(kind, parse(content, where, fix), where, fix)


def _convert(kind: Any, value: Any, place: str) -> Any:
    if hasattr(kind, "_fields"):
        return _record(kind, value, place)
    container = _CONTAINERS.get(getattr(kind, "__origin__", None))
    return container(kind, value, place) if container else _scalar(kind, value, place)


def _record(kind: Any, value: Any, place: str) -> Any:
    _require_type(dict, value, place)
    unknown = sorted(set(value) - set(kind._fields))
    if unknown:
        raise _Mismatch(place, "unknown key {}".format(ascii(unknown[0])))
    lacking = sorted(set(kind._fields) - set(value) - set(kind._field_defaults))
    if lacking:
        raise _Mismatch(place, "lacks {}".format(", ".join(lacking)))
    fields = kind.__annotations__
    return kind(
        **{name: _convert(fields[name], value[name], _join_place(place, name)) for name in value}
    )


def _union(kind: Any, value: Any, place: str) -> Any:
    """A value of an Optional or of a Union of scalar types."""
    kinds = [member for member in kind.__args__ if member is not type(None)]
    if value is None and len(kinds) < len(kind.__args__):
        return None
    fitting = [member for member in kinds if len(kinds) == 1 or _has_type(member, value)]
    if not fitting:
        raise _wrong_type(value, " or ".join(member.__name__ for member in kinds), place)
    return _convert(fitting[0], value, place)


def _dict(kind: Any, value: Any, place: str) -> Any:
    _require_type(dict, value, place)
    names, values = kind.__args__
    entries = {}
    for key, entry in value.items():
        is_number = names is int and key.isdecimal() and len(key) < _MAX_DIGITS
        name = int(key) if is_number else _convert(names, key, place)
        entries[name] = _convert(values, entry, _join_place(place, key))
    return entries


def _list(kind: Any, value: Any, place: str) -> Any:
    _require_type(list, value, place)
    (member,) = kind.__args__
    return [_convert(member, v, "{}[{}]".format(place, i)) for i, v in enumerate(value)]


def _tuple(kind: Any, value: Any, place: str) -> Any:
    _require_type(list, value, place)
    kinds = kind.__args__
    if len(value) != len(kinds):
        raise _Mismatch(place, "got {} values, wanted {}".format(len(value), len(kinds)))
    return tuple(
        _convert(member, v, "{}[{}]".format(place, i))
        for i, (member, v) in enumerate(zip(kinds, value))
    )


# A type's __origin__ is a class of typing in Python 3.6 (List), and a builtin later (list)
_CONTAINERS: Dict[Any, Callable[[Any, Any, str], Any]] = {
    Union: _union, dict: _dict, Dict: _dict, list: _list, List: _list, tuple: _tuple, Tuple: _tuple,
}  # fmt: skip


def _has_type(kind: Any, value: Any) -> bool:
    # json returns exactly these types; isinstance would take a bool for an int
    return type(value) is kind or (kind is float and type(value) is int)


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if not _has_type(kind, value):
        raise _wrong_type(value, kind.__name__, place)
    if type(value) is int and abs(value) > _MAX_INTEGER:
        raise _Mismatch(place, "got {}, wanted at most {} either way".format(value, _MAX_INTEGER))
    if kind is str and any("\ud800" <= char <= "\udfff" for char in value):
        raise _Mismatch(place, "got half of a surrogate pair, wanted text")
    return value


def _require_type(kind: Any, value: Any, place: str) -> None:
    if not isinstance(value, kind):
        raise _wrong_type(value, "object" if kind is dict else kind.__name__, place)


def _wrong_type(value: Any, wanted: str, place: str) -> _Mismatch:
    got = "null" if value is None else type(value).__name__
    return _Mismatch(place, "got {}, wanted {}".format(got, wanted))


def _join_place(place: str, name: str) -> str:
    return "{}.{}".format(place, ascii(name)[1:-1]) if place else ascii(name)[1:-1]


def plain(value: Any) -> Any:
    """A record as dictionaries, lists and scalars of JSON.

    A field whose default is None is left out while it is None, unless the record's own ``nulls()``
    names it.
    """
    if hasattr(value, "_fields"):
        absent = {name for name, default in value._field_defaults.items() if default is None}
        absent -= set(value.nulls() if hasattr(value, "nulls") else ())
        fields = value._asdict()
        return {k: plain(v) for k, v in fields.items() if v is not None or k not in absent}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def to_json(value: Any) -> str:
    """A record as the text of its file: keys sorted, with a line break at the end."""
    return json.dumps(plain(value), indent=1, sort_keys=True) + "\n"


def require(rules: Iterable[Rule], where: str, fix: str) -> None:
    """Refuse a record that breaks one of ``rules``: (whether it holds, place, got, wanted).

    Raises:
        Refusal: A rule does not hold; the message names the first such rule.
    """
    for holds, place, got, wanted in rules:
        if not holds:
            shown = ascii(got)[:_MAX_SHOWN]
            text = "{}, at {}: got {}, wanted {}".format(where, ascii(place)[1:-1], shown, wanted)
            raise Refusal(text, fix)


def one_of(place: str, got: Optional[str], known: Sequence[Optional[str]]) -> Rule:
    """The rule that ``got`` is one of ``known``."""
    return got in known, place, got, ", ".join(str(member) for member in known)
