"""Records of the device's files: strict JSON in, plain JSON out.

A record is a ``typing.NamedTuple`` of texts, numbers, lists, dictionaries and records. Its fields
are the keys of a JSON object, no more and no fewer; those whose default is None are left out of the
file while they are None. Whatever else a file holds is one kind of refusal, which says where, got
and wanted. The host's own files are read by ``edge_inception.records``.
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

if __package__:
    from edge_inception.device.errors import Refusal
else:
    from errors import Refusal  # type: ignore[import-not-found,no-redef]

_MOST = 1 << 53  # whole numbers beyond it are no longer exact everywhere
_MOST_DIGITS = 20
_MOST_SHOWN = 60
R = TypeVar("R")
Rule = Tuple[bool, str, Any, str]


class _Mismatch(Exception):
    """What does not fit, and at which place."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__("{}: {}".format(", at " + place if place else "", reason))


def parse(content: bytes, where: str, fix: str) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        content: The text.
        where: What it is, for the refusal.
        fix: What to do about it.

    Raises:
        Refusal: It is not JSON, has a key twice in one object, a number that is not finite or has
            over 20 digits, or is nested too deep for Python.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError as error:
        raise Refusal("{} is not JSON: nested too deep".format(where), fix) from error
    except ValueError as error:  # also of the encoding
        raise Refusal("{} is not JSON: {}".format(where, error), fix) from error


def _unique(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError("key {} twice".format(ascii(next(k for k in keys if keys.count(k) > 1))))
    return made


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number of {} digits".format(len(text)))
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("{} is not a finite number".format(text[:_MOST_DIGITS]))
    return value


def convert(kind: Type[R], value: Any, where: str, fix: str) -> R:
    """A JSON value as a record.

    Args:
        kind: A NamedTuple.
        value: What ``parse`` gave.
        where: What it is part of, for the refusal.
        fix: What to do about it.

    Raises:
        Refusal: It is no such record.
    """
    try:
        made: R = _convert(kind, value, "")
    except _Mismatch as error:
        raise Refusal("{}{}".format(where, error), fix) from error
    return made


def read(kind: Type[R], content: bytes, where: str, fix: str) -> R:
    """The record in a JSON text: ``parse``, then ``convert``."""
    return convert(kind, parse(content, where, fix), where, fix)


def _convert(kind: Any, value: Any, place: str) -> Any:
    if hasattr(kind, "_fields"):
        return _record(kind, value, place)
    container = _CONTAINERS.get(getattr(kind, "__origin__", None))
    return container(kind, value, place) if container else _scalar(kind, value, place)


def _record(kind: Any, value: Any, place: str) -> Any:
    _require(dict, value, place)
    unknown = sorted(set(value) - set(kind._fields))
    if unknown:
        raise _Mismatch(place, "unknown key {}".format(ascii(unknown[0])))
    lacking = sorted(set(kind._fields) - set(value) - set(kind._field_defaults))
    if lacking:
        raise _Mismatch(place, "lacks {}".format(", ".join(lacking)))
    fields = kind.__annotations__
    return kind(**{name: _convert(fields[name], value[name], _at(place, name)) for name in value})


def _union(kind: Any, value: Any, place: str) -> Any:
    """None where it is one of them, else the one kind, or of several scalars that of the value."""
    kinds = [one for one in kind.__args__ if one is not type(None)]
    if value is None and len(kinds) < len(kind.__args__):
        return None
    fitting = [one for one in kinds if len(kinds) == 1 or _is_of(one, value)]
    if not fitting:
        raise _unlike(value, " or ".join(one.__name__ for one in kinds), place)
    return _convert(fitting[0], value, place)


def _dict(kind: Any, value: Any, place: str) -> Any:
    _require(dict, value, place)
    names, values = kind.__args__
    made = {}
    for key, one in value.items():
        is_number = names is int and key.isdecimal() and len(key) < _MOST_DIGITS
        name = int(key) if is_number else _convert(names, key, place)
        made[name] = _convert(values, one, _at(place, key))
    return made


def _list(kind: Any, value: Any, place: str) -> Any:
    _require(list, value, place)
    (one,) = kind.__args__
    return [_convert(one, v, "{}[{}]".format(place, i)) for i, v in enumerate(value)]


def _tuple(kind: Any, value: Any, place: str) -> Any:
    _require(list, value, place)
    kinds = kind.__args__
    if len(value) != len(kinds):
        raise _Mismatch(place, "got {} values, wanted {}".format(len(value), len(kinds)))
    return tuple(
        _convert(one, v, "{}[{}]".format(place, i)) for i, (one, v) in enumerate(zip(kinds, value))
    )


# Python 3.6 tells the class of typing, later ones that of Python
_CONTAINERS: Dict[Any, Callable[[Any, Any, str], Any]] = {
    Union: _union, dict: _dict, Dict: _dict, list: _list, List: _list, tuple: _tuple, Tuple: _tuple,
}  # fmt: skip


def _is_of(kind: Any, value: Any) -> bool:
    # json gives these very types; to isinstance a bool is an int
    return type(value) is kind or (kind is float and type(value) is int)


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if not _is_of(kind, value):
        raise _unlike(value, kind.__name__, place)
    if type(value) is int and abs(value) > _MOST:
        raise _Mismatch(place, "got {}, wanted at most {} either way".format(value, _MOST))
    if kind is str and any("\ud800" <= char <= "\udfff" for char in value):
        raise _Mismatch(place, "got half of a surrogate pair, wanted text")
    return value


def _require(kind: Any, value: Any, place: str) -> None:
    if not isinstance(value, kind):
        raise _unlike(value, "object" if kind is dict else kind.__name__, place)


def _unlike(value: Any, wanted: str, place: str) -> _Mismatch:
    got = "null" if value is None else type(value).__name__
    return _Mismatch(place, "got {}, wanted {}".format(got, wanted))


def _at(place: str, name: str) -> str:
    return "{}.{}".format(place, ascii(name)[1:-1]) if place else ascii(name)[1:-1]


def plain(value: Any) -> Any:
    """A record as JSON types.

    A field whose default is None is left out where it is None, but for those that its record's own
    ``nulls()`` names.
    """
    if hasattr(value, "_fields"):
        absent = {name for name, default in value._field_defaults.items() if default is None}
        absent -= set(value.nulls() if hasattr(value, "nulls") else ())
        found = value._asdict()
        return {k: plain(v) for k, v in found.items() if v is not None or k not in absent}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def to_json(value: Any) -> str:
    """A record as the text of its file: keys sorted, with a line break at the end."""
    return json.dumps(plain(value), indent=1, sort_keys=True) + "\n"


def require(rules: Iterable[Rule], where: str, fix: str) -> None:
    """Refuse what a type alone does not say.

    Raises:
        Refusal: The first of the rules, (whether it holds, place, got, wanted), does not hold.
    """
    for holds, place, got, wanted in rules:
        if not holds:
            shown = ascii(got)[:_MOST_SHOWN]
            text = "{}, at {}: got {}, wanted {}".format(where, ascii(place)[1:-1], shown, wanted)
            raise Refusal(text, fix)


def one_of(place: str, got: Optional[str], known: Sequence[Optional[str]]) -> Rule:
    """The rule that ``got`` is one of ``known``."""
    return got in known, place, got, ", ".join(str(one) for one in known)


def require_version(value: Any, schema: str, version: int, where: str) -> None:
    """Refuse a JSON value that does not say it is of this schema and this version.

    Raises:
        Refusal: It does not.
    """
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise Refusal("{} is not of schema {}".format(where, schema), "give another file")
    found = value.get("schema_version")
    if found != version:
        raise Refusal(
            "{} has schema version {}, this program reads {}".format(
                where, ascii(found)[:_MOST_SHOWN], version
            ),
            "use the edge-inception that made the bundle",
        )
